"""Output that is cut off: closed pipes and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome, PythonCode


# --- Closed pipes and Ctrl-C --------------------------------------------------------------------------------


@pytest.mark.process
def test_broken_pipe_is_silent(environment: dict[str, str]) -> None:
    """Equivalent to `ddim-host plugins | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ddim_host", "plugins"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.process
def test_closed_stdout_is_not_an_error(environment: dict[str, str]) -> None:
    """Equivalent to `ddim-host plugins >&-`."""
    command = ["sh", "-c", '"$0" -m ddim_host plugins >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_broken_pipe_of_a_child_process_is_an_error(python: PythonCode) -> None:
    outcome = python("""
import ddim_host.cli.plugins
from ddim_host.cli import main

def broken(options):
    raise BrokenPipeError("pipe of a child process")

ddim_host.cli.plugins.main = broken
main(["plugins"])
""")
    assert outcome.code == 1
    assert "BrokenPipeError: pipe of a child process" in outcome.err


def test_ctrl_c_prints_one_line(in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddim_host.cli.plugins.main", interrupted)
    outcome = in_process("plugins")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "\nddim-host: interrupted\n")


@pytest.mark.process
def test_reader_that_ends_early_is_not_an_error(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m ddim_host doctor | true"
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
