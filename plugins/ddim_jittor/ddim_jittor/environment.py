"""Importing Jittor so that it always works, and leaves the process as it found it.

`import jittor` alone compiles for two minutes without a word, downloads a library, takes any `nvcc` for a
working CUDA, imports torch, reseeds everybody's random generators, takes Ctrl-C away from Python, ends the
process when a child of it is killed, stops verifying TLS certificates and writes into the user's home.
`import_jittor` does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import os
import random
import select
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_jittor import first_compile
from ddim_jittor.machine import checks, cuda_checks, find_nvcc, jittor_home, lay_onednn, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["import_jittor"]

_TICK = 0.2
_PLAIN_INTERVAL = 15.0

# Jittor replaces the handlers of these: Ctrl-C would end the process without a traceback or a checkpoint, and
# so would any child process that is killed.
_SIGNALS = ("SIGINT", "SIGCHLD", "SIGQUIT", "SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS")


def import_jittor(device: str) -> ModuleType:
    """Import Jittor, compiling its core where this was not done before; that is announced on standard error.

    Called again in the same process it returns the same module. NumPy's and Python's random generators,
    environment variables, signal handlers and the like are as they were before.

    Args:
        device: `cpu`, `cuda`, or `auto`: CUDA where everything that it needs is there, otherwise the CPU.

    Returns:
        The module `jittor`, with its flag `use_cuda` set.

    Raises:
        UserError: Something is missing on this machine, or Jittor failed to compile or to load.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device is cpu, cuda or auto, not {device!r}")
    if "jittor" not in sys.modules:
        cuda = device == "cuda" or (device == "auto" and all(check.ok for check in cuda_checks()))
        require(checks("cuda" if cuda else "cpu"))
        _import(cuda)
    jittor: Any = sys.modules["jittor"]
    if device == "cuda" and not jittor.has_cuda:
        raise UserError(
            "Jittor cannot use CUDA in this process any more",
            why="it was imported for the CPU before, or found no GPU that it supports",
            fix="start a new process with --device cuda, and see `ddim-host doctor`",
        )
    jittor.flags.use_cuda = int(device != "cpu" and bool(jittor.has_cuda))
    module: ModuleType = jittor
    return module


def _import(cuda: bool) -> None:
    home = jittor_home()
    log = home / "jittor.log"
    try:
        home.mkdir(parents=True, exist_ok=True)
        lay_onednn(home)
    except OSError as error:
        raise UserError(
            f"Jittor cannot start: its cache folder {home} cannot be used",
            why=str(error),
            fix="export DDIM_HOST_JITTOR_HOME=DIR with a folder that can be written",
        ) from error
    with _preserved(), _environment(_settings(home, cuda)):
        try:
            cache = Path(first_compile.import_jittor_utils().cache_path)
            stamp = cache / f"ddim-host-{'cuda' if cuda else 'cpu'}"
            _ensure_compiled(home, cache, stamp, log)
        except OSError as error:
            raise UserError(
                "Jittor cannot use its cache folder", why=f"{error}", fix=f"look into {home}"
            ) from error
        # DISABLE_MULTIPROCESSING spares the worker processes that Jittor starts only to find that nothing is
        # to be compiled, and keeps until the end. It also makes kernels compile one by one, and that is well:
        # Jittor's compiler threads change the graph that they share, without a lock.
        try:
            jittor = importlib.import_module("jittor")
            jittor.flags.python_path = str(_kernel_compiler(home, cache))
        except (Exception, SystemExit) as error:
            stamp.unlink(missing_ok=True)  # the next start compiles what is missing or broken
            with contextlib.suppress(OSError), log.open("a") as file:
                traceback.print_exception(error, file=file)
            raise UserError(
                "Jittor was compiled, but failed to load",
                why=f"{type(error).__name__}: {error}; the details are in {log}",
                fix=f"run it again; if that does not help, delete {home}",
            ) from error


def _settings(home: Path, cuda: bool) -> dict[str, str | None]:
    """Environment variables for the import: a value, or None for one that must not be set."""
    inside_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
    return {
        # Jittor notes its home in `$HOME/.cache/jittor/config.json`, for all other programs of the user.
        "HOME": str(home),
        "JITTOR_HOME": str(home),
        # By default the git branch checked out around the environment: another branch, another two minutes.
        # Code is compiled for this very processor; Jittor files it under the processor's name alone, which in
        # virtual machines does not tell its features.
        "cache_name": f"ddim-host-{_processor_features()}",
        "nvcc_path": str(find_nvcc()) if cuda else "",
        # Not needed, and downloaded.
        "use_cutt": "0",
        "use_cutlass": "0",
        # Otherwise MPI is compiled and started in every process of a machine that happens to have it.
        "use_mpi": "1" if inside_mpi else "0",
        "use_nccl": "1" if inside_mpi else "0",
        "FIX_TORCH_ERROR": "0",
        "gdb_path": "",
        "log_silent": "1",
        "DISABLE_MULTIPROCESSING": "1",
        # Variables with everyday names, or broken ones, that change what is compiled or imported.
        "debug": None,
        "SKEY": None,
        "disable_lock": None,
        "use_mkl": None,
        "mkl_include_path": None,
        "mkl_lib_path": None,
    }


def _kernel_compiler(home: Path, cache: Path) -> Path:
    """Write the program that Jittor takes for Python when it compiles a kernel.

    It would run `python asm_tuner.py --cc_path=g++ KERNEL.cc ...`, which imports its utilities anew, with the
    user's home and all, and compiles by way of annotated assembler, to patch what few kernels ask for.
    """
    path = cache / "python"
    python = f"JITTOR_HOME={home} HOME={home} exec {shlex.quote(sys.executable)}"
    text = f"""#!/bin/sh
case "$1" in
*/asm_tuner.py)
    if ! grep -q @begin "$3"; then
        shift
        compiler="${{1#--cc_path=}}"
        shift
        exec "$compiler" "$@"
    fi
    ;;
esac
{python} "$@"
"""
    if _read(path) != text:
        temporary = path.with_name(f".python.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(path)
    return path


def _processor_features() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("flags"):
                return hashlib.sha256(" ".join(sorted(line.split())).encode()).hexdigest()[:8]
    return "unknown"


@contextlib.contextmanager
def _environment(settings: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables for a while; then all are as before, whatever was done to them meanwhile."""
    before = dict(os.environ)
    try:
        for name, value in settings.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        yield
    finally:
        for name in [name for name in os.environ if name not in before]:
            del os.environ[name]
        for name, old in before.items():
            if os.environ.get(name) != old:
                os.environ[name] = old


@contextlib.contextmanager
def _preserved() -> Iterator[None]:
    """Put back what importing Jittor changes for the whole process."""
    # Not before the checks: they tell whether the installed NumPy will do.
    import numpy as np  # noqa: PLC0415

    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # it is what is reseeded
    recursion_limit = sys.getrecursionlimit()
    https_context = ssl._create_default_https_context
    leave, excepthook = sys.exit, sys.excepthook
    # Through the C library, for these handlers were not set by Python; it works in any thread, too.
    libc = ctypes.CDLL(None)
    numbers = [getattr(signal, name) for name in _SIGNALS]
    actions = {
        number: ctypes.create_string_buffer(1024) for number in numbers
    }  # more than a `struct sigaction`
    for number, action in actions.items():
        libc.sigaction(int(number), None, action)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        sys.setrecursionlimit(recursion_limit)
        ssl._create_default_https_context = https_context
        vars(sys).update(exit=leave, excepthook=excepthook)
        for number, action in actions.items():
            libc.sigaction(int(number), action, None)


def _ensure_compiled(home: Path, cache: Path, stamp: Path, log: Path) -> None:
    identity = _identity(cache)
    if _read(stamp) == identity:
        return
    with _locked(home / "ddim-host.lock"):
        if _read(stamp) == identity:  # another process did it meanwhile
            return
        stamp.unlink(missing_ok=True)
        _compile(home, cache, log)
        cache.mkdir(parents=True, exist_ok=True)
        stamp.write_text(identity)


def _identity(cache: Path) -> str:
    """What the compiled core belongs to: Jittor, file by file, and the folder, for it cannot be moved."""
    record = metadata.distribution("jittor").read_text("RECORD") or ""
    return f"{metadata.version('jittor')} {hashlib.sha256(record.encode()).hexdigest()} {cache}\n"


def _read(path: Path) -> str:
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


def _compile(home: Path, cache: Path, log: Path) -> None:
    begun = (cache / "obj_files").exists()
    with (
        log.open("w") as file,
        _Progress("compiling Jittor, once on this machine (takes a few minutes)") as progress,
    ):
        code = _run(home, file, progress)
        if code == first_compile.ASK_AGAIN:
            code = _run(home, file, progress)
        if code != 0 and begun:
            # What an interrupted compile left is normally gone on with. Here that did not work.
            shutil.rmtree(cache, ignore_errors=True)
            code = _run(home, file, progress)
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


def _run(home: Path, log: IO[str], progress: _Progress) -> int:
    """Import Jittor in a child process, which compiles it.

    Returns:
        Its exit code.
    """
    # In the log Jittor may talk; with all processors at once it is done in half the time.
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    for name in ("DISABLE_MULTIPROCESSING", "use_parallel_op_compiler"):
        variables.pop(name, None)
    variables |= {"log_silent": "0", "use_mpi": "0", "use_nccl": "0"}
    child = subprocess.Popen(
        # -P: the script's folder must not shadow other modules.
        [sys.executable, "-P", str(Path(first_compile.__file__))],
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
