"""The headers that Jittor's kernels are compiled with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_jittor import environment, headers

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_headers_are_laid_once_in_a_folder_of_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = headers.lay_headers(tmp_path)
    header = folder / "type/fp16_compute.h"
    assert "include_next" in header.read_text()
    before = header.stat().st_mtime_ns
    assert headers.lay_headers(tmp_path) == folder
    assert header.stat().st_mtime_ns == before
    monkeypatch.setattr(headers, "_contents", lambda: {"type/fp16_compute.h": b"other"})
    other = headers.lay_headers(tmp_path)
    assert other != folder
    assert (other / "type/fp16_compute.h").read_bytes() == b"other"
    assert header.is_file()


def test_headers_come_before_jittors_and_belong_to_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("cc_flags", "-Dmine")  # Jittor's own variable, for flags of the user
    includes = [tmp_path / "one", tmp_path / "two"]
    settings = environment._settings(tmp_path, includes, None, ())
    assert settings["cc_flags"] == f"-Dmine -I{tmp_path}/one -I{tmp_path}/two"
    monkeypatch.setattr(environment, "headers_key", lambda: "other")
    assert environment._settings(tmp_path, includes, None, ())["cache_name"] != settings["cache_name"]
