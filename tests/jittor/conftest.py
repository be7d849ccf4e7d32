"""A separate home folder for Jittor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "jittor"
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(folder))
    return folder
