"""`system.failure`: the record of a command's failure for the process that started it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_host.system.failure import asking_for_failure, read_failure, report_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome, PythonCode


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ask this process to record a failure in a file, and return the file."""
    path = tmp_path / "failure.json"
    for name, value in asking_for_failure({}, path).items():
        monkeypatch.setenv(name, value)
    return path


def test_printed_error_is_recorded(record: Path, in_process: Callable[..., Outcome]) -> None:
    done = in_process("run", "--plugin", "torch", "--loss", "msee")
    assert done.code == 2
    failure = read_failure(record)
    assert done.err == f"ddim-host: error: {failure}\n"
    assert isinstance(failure, UserError)
    assert failure.what == "there is no loss named 'msee'; did you mean 'mse'?"
    assert json.loads(record.read_text(encoding="utf-8")).keys() == {"what", "why", "notes", "fix"}


def test_recorded_error_is_complete(record: Path) -> None:
    error = UserError("what \ud800", why="why", notes=["one", "two\n"], fix="fix")
    report_failure(error)
    assert str(read_failure(record)) == str(error)


def test_bug_is_recorded_as_the_last_line_of_its_traceback(record: Path, python: PythonCode) -> None:
    code = (
        "import sys\n"
        "from ddim_host import cli\n"
        "from ddim_host.cli import plugins\n"
        "def main(options):\n    raise ValueError('a bug\\nin two lines')\n"
        "plugins.main = main\n"
        "cli.main(['plugins'])\n"
    )
    done = python(code, env=asking_for_failure({}, record))
    assert done.code == 1
    assert "Traceback" in done.err
    failure = read_failure(record)
    assert failure is not None
    assert failure.summary == r"ValueError: a bug\nin two lines"


def test_an_interruption_is_recorded(record: Path) -> None:
    report_failure(KeyboardInterrupt())
    assert str(read_failure(record)) == "interrupted"


def test_nothing_is_recorded_by_default(
    tmp_path: Path, in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_process("run", "--plugin", "torch", "--loss", "msee").code == 2
    assert list(tmp_path.iterdir()) == []


def test_unwritable_record_does_not_cause_another_failure(
    record: Path, in_process: Callable[..., Outcome]
) -> None:
    record.mkdir()
    done = in_process("run", "--plugin", "torch", "--loss", "msee")
    assert done.code == 2
    assert done.err.startswith("ddim-host: error: there is no loss named 'msee'")
    assert list(record.parent.iterdir()) == [record]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "{}", '{"what": "x"}', '{"what": "", "why": "", "notes": 1, "fix": ""}', "[" * 10**5],
)
def test_damaged_record_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "failure.json"
    assert read_failure(path) is None
    path.write_text(text, encoding="utf-8")
    assert read_failure(path) is None
