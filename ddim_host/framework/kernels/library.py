"""Compile the kernels for this processor on first use, and load them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddim_host.errors import UserError, printable
from ddim_host.system.cache import cache_errors, cache_folder
from ddim_host.system.files import write_bytes
from ddim_host.system.machine import processor_flags

KERNELS_VARIABLE = "DDIM_HOST_KERNELS"

_SOURCE = Path(__file__).with_name("source")
DECLARATIONS = (_SOURCE / "kernels.h").read_text(encoding="utf-8")
"""C declarations of the kernels, for C++ code that is compiled later in the same process."""

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")


class Kernels:
    """The compiled kernels, as functions of addresses and sizes.

    Arrays are contiguous in the given order. Images, `(B, H, W, C)` or `(B, H W, C)`, and their gradients
    are bf16 if the last argument, `bf16`, is true, otherwise float32. All other arrays are float32;
    convolution weights are `(out, in, 3, 3)`. All computation is in float32, and each function rounds to bf16
    once, to nearest; on processors with matrix units, convolutions of bf16 images also round their weights.
    Arguments are not checked. The kernels use all processors available to OpenMP. The result for an image
    does not depend on the rest of its batch. The number of processors affects only the last bits of the
    result of `conv3x3_grad_weights`, whose sum is split among them.

    Args:
        path: The shared library. Its symbols become visible to libraries loaded later.

    Attributes:
        has_matrix_units: `()`: whether convolutions of bf16 images use matrix units (AMX).
        conv3x3_weights_size: `(in, out, bf16)`: the number of values that `conv3x3_transform` writes.
        conv3x3_transform: `(w, u, in, out, turned, bf16)`: transform weights for `conv3x3` (arXiv
            1509.09308), or pack them for matrix units. With `turned`, w is `(in, out, 3, 3)`, and `conv3x3`
            computes the gradient with respect to the input. `bf16` must be the same as for `conv3x3`.
        conv3x3: `(x, u, bias, shift, residual, y, B, H, W, in, out, bf16)`: convolve with stride 1 and one
            pixel of zero padding, then add bias `(out,)`, shift `(B, out)` to every pixel, and the image
            residual `(B, H, W, out)`; any of the three may be None.
        conv3x3_grad_weights: `(x, grad_y, grad_w, B, H, W, in, out, bf16)`: the gradient of the weights.
        add: `(y, bias, shift, residual, B, H W, C, bf16)`: add in place, as `conv3x3` does after convolving.
        sum_pixels: `(x, sums, B, H W, C, bf16)`: sum each image over its pixels, into `(B, C)`.
        group_norm: `(x, weight, bias, y, statistics, B, H W, C, groups, eps, silu, bf16)` (arXiv 1803.08494,
            equation 1), then z sigmoid(z) if `silu`; statistics `(B, groups, 2)` are for the gradient.
        group_norm_grad: `(x, weight, bias, statistics, grad_y, grad_x, grad_weight, grad_bias, B, H W, C,
            groups, silu, bf16)`.
        dropout: `(x, y, size, first, seed, probability, bf16)`: apply dropout. The mask depends only on the
            seed, in [0, 2^64), and on the position of each element, counted from `first`. So the same call
            applies the same mask to a gradient, and bf16 and float32 have the same mask. x and y may be the
            same.
        softmax: `(scores, rows, columns)`: replace each row with its softmax, in the calling thread.
        keep_freed_memory: `()`: make this process reuse freed memory instead of returning it to the system,
            which would have to clear every page again.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)

        def function(name: str, *arguments: type, result: type | None = None) -> Any:
            found = getattr(library, f"ddim_{name}")
            found.argtypes, found.restype = arguments, result
            return found

        address, size, flag, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_bool, ctypes.c_float
        a, n = [address] * 8, [size] * 5
        self.has_matrix_units = function("has_matrix_units", result=flag)
        self.conv3x3_weights_size = function("conv3x3_weights_size", size, size, flag, result=size)
        self.conv3x3_transform = function("conv3x3_transform", *a[:2], *n[:2], flag, flag)
        self.conv3x3 = function("conv3x3", *a[:6], *n, flag)
        self.conv3x3_grad_weights = function("conv3x3_grad_weights", *a[:3], *n, flag)
        self.add = function("add", *a[:4], *n[:3], flag)
        self.sum_pixels = function("sum_pixels", *a[:2], *n[:3], flag)
        self.group_norm = function("group_norm", *a[:5], *n[:4], real, flag, flag)
        self.group_norm_grad = function("group_norm_grad", *a[:8], *n[:4], flag, flag)
        self.dropout = function("dropout", *a[:2], *n[:2], ctypes.c_uint64, real, flag)
        self.softmax = function("softmax", address, *n[:2])
        self.keep_freed_memory = function("keep_freed_memory")


@functools.cache
def cpu_kernels() -> Kernels | None:
    """Return the kernels; compile them first if necessary, which takes a few seconds and prints a message.

    Returns:
        The kernels; None if `$DDIM_HOST_KERNELS` is `framework`. Also None, with a note on standard error, if
        it is `auto`, the default, and the kernels cannot be compiled on this machine.

    Raises:
        UserError: The variable is `native` and the kernels cannot be compiled; the compiled library cannot be
            loaded; or the variable has an unknown value.
    """
    wanted = os.environ.get(KERNELS_VARIABLE) or "auto"
    if wanted not in ("auto", "native", "framework"):
        raise UserError(
            f"{KERNELS_VARIABLE} must be auto, native or framework, not {printable(wanted)}",
            fix=f"export {KERNELS_VARIABLE}=auto",
        )
    if wanted == "framework":
        return None
    try:
        _compiled()
    except UserError as error:
        if wanted == "native":
            raise
        print(f"ddim-host: {error.what} ({error.why}); using the framework's own operations", file=sys.stderr)
        return None
    return load_kernels()


def load_kernels() -> Kernels:
    """Return the kernels, regardless of the environment variable; compile them first if necessary.

    Raises:
        UserError: The kernels are not available on this machine.
    """
    try:
        return Kernels(_compiled())
    except OSError as error:
        raise UserError(
            "the compiled kernels cannot be loaded",
            why=printable(error),
            fix=f"delete the folder {_folder()}, or set {KERNELS_VARIABLE}=framework",
        ) from None


def _folder() -> Path:
    return cache_folder() / "kernels"


def _compiled() -> Path:
    """Return the path of the shared library for this processor."""
    sources = {path.name: path.read_bytes() for path in sorted(_SOURCE.iterdir())}
    built_by = (_compiler(), _FLAGS, processor_flags())
    identity = hashlib.sha256(repr((sources, *built_by)).encode()).hexdigest()[:16]
    # The name also contains a hash of the library, so that a damaged or replaced one is compiled again.
    for path in sorted(_folder().glob(f"{identity}-*.so")):
        with contextlib.suppress(OSError):
            if path.name == _name(identity, path.read_bytes()):
                return path
    library = _compile()
    path = _folder() / _name(identity, library)
    with cache_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, library)
    return path


def _name(identity: str, library: bytes) -> str:
    return f"{identity}-{hashlib.sha256(library).hexdigest()[:16]}.so"


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX") or "g++")


def _compile() -> bytes:
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise _unavailable(f"there is no C++ compiler {compiler[0]}", "sudo apt-get install g++")
    started = time.monotonic()
    print("compiling kernels for this processor (only once): ", end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernels.so")
        command = [*compiler, *_FLAGS, str(_SOURCE / "kernels.cpp"), "-o", str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        finally:
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise _unavailable(f"{compiler[0]} failed: {printable(first)[:300]}", "install a recent g++")
        return target.read_bytes()


def _unavailable(why: str, remedy: str) -> UserError:
    return UserError(
        "the native kernels cannot be compiled",
        why=why,
        fix=f"{remedy}; or set {KERNELS_VARIABLE}=framework",
    )
