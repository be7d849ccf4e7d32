"""A short run of `python -m tests.fuzz`, and its findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from tests.fuzz.fuzzing import fuzz, sandbox

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_hostile_files_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sandbox"
    folder.mkdir()
    names = []
    for reader in sandbox(folder):
        result = fuzz(reader, 150, seed=0, keep=tmp_path / "failures")
        assert not result.failures, result
        assert result.read + result.refused == 150
        names.append(reader.name)
    assert len(names) == len(set(names)) >= 17


def test_messages_are_printable_for_any_file_contents() -> None:
    """An array in a safetensors file can have any name, which the error of the reader quotes."""
    error = UserError("cannot read x\x1b[2J", why="no `\x00`", fix="say 'é' \ud800")
    assert str(error) == "cannot read x\\x1b[2J\n  why: no `\\x00`\n  fix: say 'é' \\ud800"
