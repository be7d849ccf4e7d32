"""Output that breaks off: closed pipes, and impatient users."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome, PythonCode


# --- Help and imports ---------------------------------------------------------------------------------------


@pytest.mark.process
def test_output_that_nobody_reads_any_more_is_not_complained_of(environment: dict[str, str]) -> None:
    """As of `ddim-host plugins | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ddim_host", "plugins"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.process
def test_an_output_that_was_closed_from_the_start_is_no_error(environment: dict[str, str]) -> None:
    """As of `ddim-host plugins >&-`."""
    command = ["sh", "-c", '"$0" -m ddim_host plugins >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_another_pipe_that_breaks_is_not_taken_for_the_output(python: PythonCode) -> None:
    outcome = python("""
import ddim_host.cli.plugins
from ddim_host.cli import main

def broken(options):
    raise BrokenPipeError("that of a helper")

ddim_host.cli.plugins.main = broken
main(["plugins"])
""")
    assert outcome.code == 1
    assert "BrokenPipeError: that of a helper" in outcome.err


def test_an_impatient_user_gets_one_line(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddim_host.cli.plugins.main", interrupted)
    outcome = in_process("plugins")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "\nddim-host: interrupted\n")


# --- Divergence ---------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_reader_who_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m ddim_host doctor | true"
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
