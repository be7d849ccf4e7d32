"""Import Jittor reliably, without side effects on the process.

A plain `import jittor` spends two minutes compiling without a message, downloads a library, assumes that any
`nvcc` implies a working CUDA, imports torch, reseeds the global random generators, replaces Python's Ctrl-C
handler, exits if a child process is killed, disables the verification of TLS certificates and writes to the
user's home. `import_jittor` does none of this silently.
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
from ddim_host.framework import Check, processor_flags
from ddim_jittor import cuda13
from ddim_jittor.compiling import ensure_compiled, is_compiled, read_if_there
from ddim_jittor.cuda import cuda_checks, find_nvcc, find_nvcc13
from ddim_jittor.first_compile import import_jittor_utils
from ddim_jittor.headers import headers_key, lay_headers
from ddim_jittor.machine import checks, jittor_home, lay_onednn, require
from ddim_jittor.patches import CUDA13
from ddim_jittor.sources import lay_sources, needed_patches, sources_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from ddim_jittor.patches import Patch

# Jittor replaces the handlers of these signals: Ctrl-C, or a killed child process, would stop the process
# without a traceback or a checkpoint.
_SIGNALS = ("SIGINT", "SIGCHLD", "SIGQUIT", "SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS")


def import_jittor(device: str) -> ModuleType:
    """Import Jittor; if its core is not yet compiled, compile it and report the progress on standard error.

    Later calls in the same process return the same module. The random generators of NumPy and Python,
    environment variables, signal handlers and similar state are restored afterwards, except that with CUDA
    `NVIDIA_TF32_OVERRIDE` remains 0, so that fp32 is fp32.

    Args:
        device: `cpu`, `cuda`, or `auto`: CUDA if all its requirements are met, otherwise the CPU.

    Returns:
        The module `jittor`, with its flag `use_cuda` set.

    Raises:
        UserError: A requirement is missing on this machine, or Jittor failed to compile or to load.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device must be cpu, cuda or auto, not {device!r}")
    if "jittor" not in sys.modules:
        cuda = device == "cuda" or (device == "auto" and all(check.ok for check in cuda_checks()))
        require(checks("cuda" if cuda else "cpu"))
        _import(cuda)
    jittor: Any = sys.modules["jittor"]
    if device == "cuda" and not jittor.has_cuda:
        raise UserError(
            "Jittor can no longer use CUDA in this process",
            why="it was already imported for the CPU, or found no GPU that it supports",
            fix="start a new process with --device cuda; `ddim-host doctor` shows what is missing",
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
        includes = lay_headers(home), lay_onednn(home)
        nvcc = find_nvcc() if cuda else None
        if cuda and cuda13.wanted():
            patches += CUDA13
            found = find_nvcc13()
            assert found is not None  # the checks found it
            nvcc = cuda13.lay_toolkit(home, found)
        sources = lay_sources(home, patches)
    except OSError as error:
        raise UserError(
            f"Jittor cannot start: its cache folder {home} is not usable",
            why=str(error),
            fix="set DDIM_HOST_JITTOR_HOME to a writable folder",
        ) from error
    if cuda:
        # By default cuDNN rounds the factors of a float32 convolution to ten bits (TF32). Its libraries may
        # read this variable at any time, so it is not restored.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    settings = _settings(home, includes, nvcc, patches)
    with _preserved(), _no_warnings(), _environment(settings), _first_on_path(sources):
        try:
            cache = Path(import_jittor_utils().cache_path)
            stamp = cache / f"ddim-host-{'cuda' if cuda else 'cpu'}"
            ensure_compiled(home, cache, stamp, log, sources)
        except OSError as error:
            raise UserError(
                "Jittor cannot use its cache folder",
                why=f"{error}",
                fix=f"check that {home} is writable and that its disk is not full",
            ) from error
        # DISABLE_MULTIPROCESSING stops Jittor from starting worker processes, which would find nothing to
        # compile and stay alive until the end. It also makes Jittor compile kernels one at a time, which is
        # safer: its compiler threads modify a shared graph without a lock.
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
                fix=f"run the command again; if that does not help, delete {home}",
            ) from error


def compiled() -> Check:
    """Report whether Jittor's core is already compiled; call this only if all other checks have passed."""
    home = jittor_home()
    name = _settings(home, (), None, needed_patches())["cache_name"]
    assert name is not None
    if is_compiled(home, name):
        return Check(
            "compiled", True, "the core for the CPU; the first steps of each new network compile its kernels"
        )
    return Check("compiled", True, "not yet; it is compiled on first use, which takes a few minutes")


def _settings(
    home: Path, includes: Sequence[Path], nvcc: Path | None, patches: Sequence[Patch]
) -> dict[str, str | None]:
    """Return environment variables for the import; None unsets a variable."""
    inside_mpi = "OMPI_COMM_WORLD_SIZE" in os.environ
    # Code is compiled for this processor, but Jittor's cache key contains only the processor's name, which in
    # virtual machines does not determine its features. Code from patched sources or with other headers also
    # gets its own cache.
    key = f"{processor_flags()}{sources_key(patches)}{nvcc or ''}{headers_key()}"
    flags = [*filter(None, [os.environ.get("cc_flags")]), *(f"-I{folder}" for folder in includes)]  # noqa: SIM112
    return {
        # Jittor stores its home in `$HOME/.cache/jittor/config.json`, which would affect the user's other
        # programs.
        "HOME": str(home),
        "JITTOR_HOME": str(home),
        # By default this is the name of the current git branch, so another branch would compile the core
        # again, which takes two minutes.
        "cache_name": f"ddim-host-{hashlib.sha256(key.encode()).hexdigest()[:8]}",
        "nvcc_path": str(nvcc or ""),
        # These folders are searched before Jittor's own.
        "cc_flags": " ".join(flags),
        # Not needed, and Jittor would download them.
        "use_cutt": "0",
        "use_cutlass": "0",
        # Otherwise Jittor compiles and starts MPI in every process if the machine has it.
        "use_mpi": "1" if inside_mpi else "0",
        "use_nccl": "1" if inside_mpi else "0",
        "FIX_TORCH_ERROR": "0",
        "gdb_path": "",
        "log_silent": "1",
        "DISABLE_MULTIPROCESSING": "1",
        # Variables that change what is compiled or imported; some have common names, others enable broken
        # features.
        "debug": None,
        "SKEY": None,
        "disable_lock": None,
        "use_mkl": None,
        "mkl_include_path": None,
        "mkl_lib_path": None,
    }


def _kernel_compiler(home: Path, cache: Path) -> Path:
    """Write the script that Jittor runs instead of Python to compile a kernel.

    Jittor runs `python asm_tuner.py --cc_path=g++ KERNEL.cc ...`, which imports Jittor's utilities again,
    with the user's home, and compiles via annotated assembler to apply a patch that few kernels need. For
    all others, this script calls the compiler directly.
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
    """Set environment variables during the block, and restore the whole environment afterwards."""
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
    """Put a folder, if given, first on the import path during the block."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Ignore warnings about Jittor's sources; turned into errors, they would stop the import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _preserved() -> Iterator[None]:
    """Restore the process-wide state that importing Jittor changes."""
    # Imported only after the checks have verified the installed NumPy.
    import numpy as np  # noqa: PLC0415

    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # Jittor reseeds this one
    recursion_limit = sys.getrecursionlimit()
    https_context = ssl._create_default_https_context
    leave, excepthook = sys.exit, sys.excepthook
    # Use the C library, because these handlers are not set by Python; this also works in any thread.
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
