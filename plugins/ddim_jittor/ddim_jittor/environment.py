"""Importing Jittor so that it always works, and leaves the process as it found it.

`import jittor` alone compiles for two minutes without a word, downloads a library, takes any `nvcc` for a
working CUDA, imports torch, reseeds everybody's random generators, takes Ctrl-C away from Python, ends the
process when a child of it is killed, stops verifying TLS certificates and writes into the user's home.
`import_jittor` does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import random
import shlex
import signal
import ssl
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_host import UserError
from ddim_host.framework import processor_flags
from ddim_jittor import cuda13
from ddim_jittor.compiling import ensure_compiled, read_if_there
from ddim_jittor.cuda import cuda_checks, find_nvcc, find_nvcc13
from ddim_jittor.first_compile import import_jittor_utils
from ddim_jittor.machine import checks, jittor_home, lay_onednn, require
from ddim_jittor.patches import CUDA13
from ddim_jittor.sources import lay_sources, needed_patches, sources_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from ddim_jittor.patches import Patch

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
    patches = needed_patches()
    try:
        home.mkdir(parents=True, exist_ok=True)
        lay_onednn(home)
        nvcc = find_nvcc() if cuda else None
        if cuda and cuda13.wanted():
            patches += CUDA13
            found = find_nvcc13()
            assert found is not None  # the checks saw it
            nvcc = cuda13.lay_toolkit(home, found)
        sources = lay_sources(home, patches)
    except OSError as error:
        raise UserError(
            f"Jittor cannot start: its cache folder {home} cannot be used",
            why=str(error),
            fix="export DDIM_HOST_JITTOR_HOME=DIR with a folder that can be written",
        ) from error
    with _preserved(), _environment(_settings(home, nvcc, patches)), _first_on_path(sources):
        try:
            cache = Path(import_jittor_utils().cache_path)
            stamp = cache / f"ddim-host-{'cuda' if cuda else 'cpu'}"
            ensure_compiled(home, cache, stamp, log, sources)
        except OSError as error:
            raise UserError(
                "Jittor cannot use its cache folder", why=f"{error}", fix=f"look into {home}"
            ) from error
        # DISABLE_MULTIPROCESSING spares the worker processes that Jittor starts only to find that nothing is
        # to be compiled, and keeps until the end. It also makes kernels compile one by one, and that is well:
        # Jittor's compiler threads change the graph that they share, without a lock.
        try:
            with warnings.catch_warnings():
                # Python 3.12 shows them when it compiles a file for the first time, as those of the copy.
                warnings.simplefilter("ignore", SyntaxWarning)
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


def _settings(home: Path, nvcc: Path | None, patches: Sequence[Patch]) -> dict[str, str | None]:
    """Environment variables for the import: a value, or None for one that must not be set."""
    inside_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
    # Code is compiled for this very processor; Jittor files it under the processor's name alone, which in
    # virtual machines does not tell its features. What is compiled from patched sources is kept apart, too.
    key = f"{processor_flags()}{sources_key(patches)}{nvcc or ''}"
    return {
        # Jittor notes its home in `$HOME/.cache/jittor/config.json`, for all other programs of the user.
        "HOME": str(home),
        "JITTOR_HOME": str(home),
        # By default the git branch checked out around the environment: another branch, another two minutes.
        "cache_name": f"ddim-host-{hashlib.sha256(key.encode()).hexdigest()[:8]}",
        "nvcc_path": str(nvcc or ""),
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
    python = f"JITTOR_HOME={home} HOME={home} exec {shlex.quote(sys.executable)} -W default"
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
    if read_if_there(path) != text:
        temporary = path.with_name(f".python.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(path)
    return path


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
def _first_on_path(folder: Path | None) -> Iterator[None]:
    """Import from this folder first for a while, if there is one."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


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
