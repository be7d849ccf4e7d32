"""Compile Jittor's core once: one process compiles it in a child process, and the others wait."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ddim_host import UserError
from ddim_jittor import first_compile

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK = 0.2
_PLAIN_INTERVAL = 15.0


def ensure_compiled(home: Path, cache: Path, stamp: Path, log: Path, sources: Path | None) -> None:
    """Compile Jittor's core in a child process, showing progress, unless it is already compiled.

    Args:
        home: Jittor's home, which contains the lock that other processes wait for.
        cache: Jittor's folder for compiled files.
        stamp: File written after a successful compilation.
        log: File for the output of Jittor and the compiler.
        sources: The folder to import Jittor from; None for the installed one.

    Raises:
        UserError: The compilation failed.
        OSError: A folder cannot be used.
    """
    identity = _identity(cache)
    if read_if_there(stamp) == identity:
        return
    with _locked(home / "ddim-host.lock"):
        if read_if_there(stamp) == identity:  # compiled by another process in the meantime
            return
        stamp.unlink(missing_ok=True)
        _compile(home, cache, log, sources)
        cache.mkdir(parents=True, exist_ok=True)
        stamp.write_text(identity)


def is_compiled(home: Path, name: str) -> bool:
    """Return whether the core has been compiled for the CPU with this Python.

    Args:
        home: Jittor's home.
        name: Jittor's `cache_name`.
    """
    places = f".cache/jittor/*/*/py{platform.python_version()}/*/*/*/{name}/ddim-host-cpu"
    return any(read_if_there(stamp) == _identity(stamp.parent) for stamp in home.glob(places))


def _identity(cache: Path) -> str:
    """Identify the compiled core by Jittor's files and by its folder, because it cannot be moved."""
    record = metadata.distribution("jittor").read_text("RECORD") or ""
    return f"{metadata.version('jittor')} {hashlib.sha256(record.encode()).hexdigest()} {cache}\n"


def read_if_there(path: Path) -> str:
    """Read a text file; return an empty string if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the compilation lock; show progress while another process holds it."""
    with path.open("w") as file, contextlib.ExitStack() as stack:
        progress = None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if progress is None:
                    message = "waiting for another process to compile Jittor"
                    progress = stack.enter_context(_Progress(message))
                progress.update()
                time.sleep(_TICK)
        if progress is not None:
            progress.done("the other process finished after")
        yield


def _compile(home: Path, cache: Path, log: Path, sources: Path | None) -> None:
    begun = (cache / "obj_files").exists()
    with (
        log.open("w") as file,
        _Progress("compiling Jittor, once per machine (takes a few minutes)") as progress,
    ):
        code = _run(home, file, progress, sources)
        if code == first_compile.ASK_AGAIN:
            code = _run(home, file, progress, sources)
        if code != 0 and begun:
            # Jittor normally resumes an interrupted compilation. That failed, so start again from scratch.
            shutil.rmtree(cache, ignore_errors=True)
            code = _run(home, file, progress, sources)
        if code == 0:
            progress.done("compiled Jittor in")
            return
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    raise UserError(
        f"Jittor failed to compile: the process {how}",
        why=f"{_last_error(log)}; the full output is in {log}",
        fix=f"fix the cause and run the command again; if that does not help, delete {home}",
    )


def _last_error(log: Path) -> str:
    with log.open(errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def _run(home: Path, log: IO[str], progress: _Progress, sources: Path | None) -> int:
    """Import Jittor in a child process, which compiles it.

    Returns:
        The exit code of the child process.
    """
    # Let Jittor write to the log, and compile on all processors, which takes half the time.
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    for name in ("DISABLE_MULTIPROCESSING", "use_parallel_op_compiler"):
        variables.pop(name, None)
    variables |= {"log_silent": "0", "use_mpi": "0", "use_nccl": "0"}
    # -P: the script's folder must not shadow other modules. -W: Python 3.12 warns about Jittor's sources,
    # and the import must not fail if the user turns warnings into errors.
    python = [sys.executable, "-P", "-W", "default"]
    child = subprocess.Popen(
        [*python, str(Path(first_compile.__file__)), *([str(sources)] if sources else [])],
        cwd=home,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        # A new process group: Ctrl-C reaches only this process, which then kills the entire group.
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    reports = child.stdout.fileno()
    text = b""
    try:
        while child.poll() is None:
            if select.select([reports], [], [], _TICK)[0]:
                chunk = os.read(reports, 1 << 16)
                if not chunk:
                    child.wait()
                text = (text + chunk)[-1000:]
            lines = text.split(b"\n")
            if len(lines) > 1:
                what, number, total = lines[-2].decode().split("\t")
                progress.update(f"{what.removeprefix('Compiling ')}: {number} of {total} files")
            else:
                progress.update()
    finally:
        # No child process may survive: it would hold Jittor's lock.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
    return child.returncode


class _Progress:
    """A progress line, rewritten in place on a terminal and otherwise repeated at intervals.

    Args:
        message: Description of the task.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._due = self._start
        self._open = False

    def __enter__(self) -> _Progress:
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:  # not done: an error message follows on the next line
            self._write("\n")

    def update(self, detail: str = "") -> None:
        """Show the elapsed seconds and the detail, if an update is due."""
        now = time.monotonic()
        line = f"{self._message}: {f'{detail}, ' if detail else ''}{now - self._start:.0f} s"
        if self._terminal:
            if line != self._shown:
                self._shown = line
                width = shutil.get_terminal_size().columns - 1
                self._write(f"\r\x1b[2K{line[:width]}")
                self._open = True
        elif now >= self._due:
            self._due = now + _PLAIN_INTERVAL
            self._write(f"{line}\n")

    def done(self, message: str) -> None:
        """Show that the task is done and how long it took."""
        line = f"{message} {time.monotonic() - self._start:.0f} s\n"
        self._write(f"\r\x1b[2K{line}" if self._terminal else line)
        self._open = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
