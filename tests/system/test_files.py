"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import printable
from ddim_host.system.files import read_json, read_text, replacing, write_bytes, write_text


def test_text_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "épsilon\n")
    assert (tmp_path / "a").read_bytes() == "épsilon\n".encode()
    write_bytes(tmp_path / "a", b"\0\xff")
    assert (tmp_path / "a").read_bytes() == b"\0\xff"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_failure_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_incomplete_file_is_never_visible(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"


def test_two_writers_of_one_path_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the inner block, which wrote "second", ended first
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_longest_possible_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


@given(st.text())
def test_printable_text_can_be_printed_on_one_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_printable_does_not_change_ordinary_names() -> None:
    assert printable("Ärger 1/猫.png") == "Ärger 1/猫.png"
    assert printable(os.fsdecode(b"a\xff\n\x1b[2J")) == r"a\udcff\n\x1b[2J"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "deeper than 20 levels"),
        ("[" * 900 + "]" * 900, "deeper than 20 levels"),  # the parser accepts this, `repr` may not
        ('{"a": ["\\ud800"]}', "surrogates"),
        ('{"\\ud800": 1}', "surrogates"),
        ("{", "Expecting"),
        ("\xff", "invalid start byte"),
    ],
)
def test_json_that_cannot_be_displayed_or_written_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_json(path)


def test_texts_are_read_up_to_a_limit_and_never_from_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    assert read_text(path, 4) == "1234"
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_text(path, 3)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_text(other)
