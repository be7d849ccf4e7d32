"""Compiling Jittor's core, once: one process does it, in a child, and others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
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
    """Compile Jittor's core, where that was not done before, in a child process and with progress.

    Args:
        home: Jittor's home; its lock keeps other processes waiting meanwhile.
        cache: Where Jittor puts what it compiles.
        stamp: Written when it is done.
        log: Gets what Jittor and the compiler print.
        sources: The folder to import Jittor from; None for the installed one.

    Raises:
        UserError: It failed to compile.
        OSError: A folder cannot be used.
    """
    identity = _identity(cache)
    if read_if_there(stamp) == identity:
        return
    with _locked(home / "ddim-host.lock"):
        if read_if_there(stamp) == identity:  # another process did it meanwhile
            return
        stamp.unlink(missing_ok=True)
        _compile(home, cache, log, sources)
        cache.mkdir(parents=True, exist_ok=True)
        stamp.write_text(identity)


def _identity(cache: Path) -> str:
    """What the compiled core belongs to: Jittor, file by file, and the folder, for it cannot be moved."""
    record = metadata.distribution("jittor").read_text("RECORD") or ""
    return f"{metadata.version('jittor')} {hashlib.sha256(record.encode()).hexdigest()} {cache}\n"


def read_if_there(path: Path) -> str:
    """The text of a file; nothing where there is none that can be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the first compile; say so where another process holds it."""
    with path.open("w") as file, contextlib.ExitStack() as stack:
        progress = None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if progress is None:
                    message = "waiting for another process that compiles Jittor"
                    progress = stack.enter_context(_Progress(message))
                progress.update()
                time.sleep(_TICK)
        if progress is not None:
            progress.done("the other process is done after")
        yield


def _compile(home: Path, cache: Path, log: Path, sources: Path | None) -> None:
    begun = (cache / "obj_files").exists()
    with (
        log.open("w") as file,
        _Progress("compiling Jittor, once on this machine (takes a few minutes)") as progress,
    ):
        code = _run(home, file, progress, sources)
        if code == first_compile.ASK_AGAIN:
            code = _run(home, file, progress, sources)
        if code != 0 and begun:
            # What an interrupted compile left is normally gone on with. Here that did not work.
            shutil.rmtree(cache, ignore_errors=True)
            code = _run(home, file, progress, sources)
        if code == 0:
            progress.done("Jittor is compiled, in")
            return
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise UserError(
        f"Jittor failed to compile: its compilation {how}",
        why=f"{_last_error(log)}; all of it is in {log}",
        fix=f"mend that and run it again; if that does not help, delete {home}",
    )


def _last_error(log: Path) -> str:
    with log.open(errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def _run(home: Path, log: IO[str], progress: _Progress, sources: Path | None) -> int:
    """Import Jittor in a child process, which compiles it.

    Returns:
        Its exit code.
    """
    # In the log Jittor may talk; with all processors at once it is done in half the time.
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    for name in ("DISABLE_MULTIPROCESSING", "use_parallel_op_compiler"):
        variables.pop(name, None)
    variables |= {"log_silent": "0", "use_mpi": "0", "use_nccl": "0"}
    # -P: the script's folder must not shadow other modules. -W: Python 3.12 warns of Jittor's own text, which
    # is no error even if the user makes warnings errors.
    python = [sys.executable, "-P", "-W", "default"]
    child = subprocess.Popen(
        [*python, str(Path(first_compile.__file__)), *([str(sources)] if sources else [])],
        cwd=home,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        # A group of its own: Ctrl-C reaches this process only, which then ends all of the group.
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
        # Whatever happened, nothing of it may live on: it would hold Jittor's lock.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
    return child.returncode


class _Progress:
    """One line about something long: rewritten in place on a terminal, otherwise repeated now and then.

    Args:
        message: What is going on.
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
        if self._open:  # not done: leave the line for what follows, the error
            self._write("\n")

    def update(self, detail: str = "") -> None:
        """Show the seconds and the detail, if it is time to."""
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
        """Show that it is over, and how long it took."""
        line = f"{message} {time.monotonic() - self._start:.0f} s\n"
        self._write(f"\r\x1b[2K{line}" if self._terminal else line)
        self._open = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
