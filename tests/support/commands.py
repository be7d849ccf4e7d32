"""Commands run in their own processes, and their outcomes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ddim_host.run.directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TIMEOUT_SECONDS = 240.0

DRY = ("run", "--plugin", "torch", "--dry-run")
"""A command that assembles an experiment and then exits."""


@dataclass(frozen=True)
class Outcome:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


class Command(Protocol):
    """A function that runs the real command in a fresh process."""

    def __call__(
        self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Outcome: ...


class PythonCode(Protocol):
    """A function that runs Python code in a fresh process."""

    def __call__(
        self,
        code: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Outcome: ...


def pass_tests(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str], timeout: float = TIMEOUT_SECONDS
) -> str:
    """Run pytest in a fresh process, check that it succeeds, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Run:
    """A run directory, and the outcome of the command that created it."""

    path: Path
    outcome: Outcome

    @property
    def checkpoint(self) -> Path:
        return RunDirectory(self.path).latest_checkpoint()

    @property
    def grid(self) -> Path:
        [picture] = (self.path / "samples").glob("*.png")
        return picture


def finish(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = TIMEOUT_SECONDS
) -> Outcome:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=timeout, check=False)
    # Decoded here, because text mode would hide carriage returns.
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def printed_by(*arguments: str) -> str:
    """Run a Python program until it exits and return what it printed."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def last_error(err: str) -> str:
    """Return the one error on standard error, which may follow progress."""
    assert err.count("ddim-host: error: ") == 1
    assert "Traceback" not in err
    return err.rpartition("ddim-host: error: ")[2]
