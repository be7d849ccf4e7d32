"""Jittor's requirements for a GPU, checked without importing it: the toolkit, cuDNN, and a device.

Jittor accepts any `nvcc` and any `cudnn.h` and then fails during compilation, so their versions are checked
here.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.framework import Check
from ddim_jittor import cuda13
from ddim_jittor.patches import CUDA13
from ddim_jittor.sources import misfits

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACES = ("/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")

# The versions supported by Jittor: CUDA 11.0 to 12.2, with cuDNN 8.
_OLDEST, _NEWEST = (11, 0), (12, 2)

_RECIPE = (
    "install CUDA 12.2 and cuDNN 8.9.7 with its headers, and export nvcc_path=/usr/local/cuda-12.2/bin/nvcc, "
    "or use --device cpu"
)


def cuda_checks() -> list[Check]:
    """Check Jittor's requirements for a GPU: the toolkit with its headers, cuDNN and a device.

    Raises:
        UserError: The environment variable for CUDA 13 has an invalid value.
    """
    if cuda13.wanted():
        return [_toolkit13(), _libraries13(), _sources13(), _gpu()]
    return [_toolkit(), _cudnn(), _gpu()]


def find_nvcc() -> Path | None:
    """Find a CUDA compiler with its runtime library; Jittor itself would accept any `nvcc` and fail later.

    Returns:
        The first compiler that Jittor supports, or else the first one found; None if there is none.
    """
    whole = [nvcc for nvcc in _nvccs() if _cudart(nvcc).is_file()]
    supported = (nvcc for nvcc in whole if _supported(_cuda_version(nvcc)))
    return next(supported, next(iter(whole), None))


def find_nvcc13() -> Path | None:
    """Find a CUDA 13 compiler; its libraries may be elsewhere."""
    compilers = [*_nvccs(), *(nvcc for nvcc in cuda13.packaged_nvccs() if os.access(nvcc, os.X_OK))]
    return next((nvcc for nvcc in compilers if (_cuda_version(nvcc) or (0, 0))[0] == 13), None)


def _nvccs() -> Iterator[Path]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = (
        os.environ.get("nvcc_path"),  # noqa: SIM112  # Jittor's own variable
        home and f"{home}/bin/nvcc",
        shutil.which("nvcc"),
        *_PLACES,
    )
    for place in places:
        if place and os.access(place, os.X_OK):
            # Resolve links as Jittor does, because it looks for everything else next to the resolved file.
            yield Path(place) if place == "/usr/bin/nvcc" else Path(place).resolve()


def _cudart(nvcc: Path) -> Path:
    if str(nvcc) == "/usr/bin/nvcc":  # Debian's package
        return Path("/usr/lib/x86_64-linux-gnu/libcudart.so")
    return nvcc.parent.parent / "lib64" / "libcudart.so"


def _header_folders(nvcc: Path) -> list[Path]:
    toolkit = nvcc.parent.parent
    return [toolkit / "include", toolkit / "targets/x86_64-linux/include", Path("/usr/include")]


def _cuda_version(nvcc: Path) -> tuple[int, int] | None:
    for folder in _header_folders(nvcc):
        if (version := _defined(folder / "cuda.h", "CUDA_VERSION")) is not None:
            return version // 1000, version % 1000 // 10
    return None


def _supported(version: tuple[int, int] | None) -> bool:
    return version is not None and _OLDEST <= version <= _NEWEST


def _defined(header: Path, name: str) -> int | None:
    """Return the number that a header defines for a macro, or None if there is none."""
    try:
        text = header.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(rf"^\s*#\s*define\s+{name}\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


def _toolkit() -> Check:
    name, nvcc = "CUDA toolkit", find_nvcc()
    if nvcc is None:
        if nvcc := next(_nvccs(), None):
            return Check(name, False, f"{nvcc} was found, but not {_cudart(nvcc)}", _RECIPE)
        return Check(name, False, "nvcc was not found", _RECIPE)
    version = _cuda_version(nvcc)
    if version is None:
        return Check(name, False, f"{nvcc} was found, but no cuda.h that states its version", _RECIPE)
    number = f"{version[0]}.{version[1]}"
    if not _supported(version):
        detail = f"Jittor supports CUDA 11.0 to 12.2, but {nvcc} is CUDA {number}"
        untested = f"; to try CUDA 13, {cuda13.ADVICE}" if version[0] == 13 else ""
        return Check(name, False, detail, _RECIPE + untested)
    return Check(name, True, f"{nvcc}, CUDA {number}")


def _cudnn() -> Check:
    name, nvcc = "cuDNN", find_nvcc()
    if nvcc is None:
        return Check(name, False, "cuDNN needs the CUDA toolkit", "install the CUDA toolkit first")
    folders = _header_folders(nvcc)
    fix = "install cuDNN 8.9.7 with its headers (Debian: libcudnn8-dev), or use --device cpu"
    folder = next((folder for folder in folders if (folder / "cudnn.h").is_file()), None)
    if folder is None:
        return Check(name, False, f"there is no cudnn.h in {' or '.join(map(str, folders))}", fix)
    major = _cudnn_major(folder)
    if major != 8:
        detail = f"Jittor supports cuDNN 8, but {folder / 'cudnn.h'} is cuDNN {major or 'of unknown version'}"
        return Check(name, False, detail, fix)
    return Check(name, True, f"{folder / 'cudnn.h'}, cuDNN {major}")


def _cudnn_major(folder: Path) -> int | None:
    # Since cuDNN 8 the version has been in a header of its own.
    versions = (_defined(folder / header, "CUDNN_MAJOR") for header in ("cudnn_version.h", "cudnn.h"))
    return next((version for version in versions if version is not None), None)


def _toolkit13() -> Check:
    name, nvcc = "CUDA toolkit", find_nvcc13()
    if nvcc is None:
        return Check(
            name, False, "there is no nvcc for CUDA 13", f"unset {cuda13.VARIABLE}, or install CUDA 13"
        )
    return Check(name, True, f"{nvcc}, CUDA 13, which has not been tested on a GPU")


def _libraries13() -> Check:
    name, nvcc = "cuBLAS, cuRAND, cuDNN", find_nvcc13()
    if nvcc is None:
        return Check(name, False, "the libraries need the CUDA toolkit", "install CUDA 13 first")
    missing = cuda13.missing_files(nvcc)
    if missing:
        fix = "python -m pip install nvidia-cublas nvidia-curand nvidia-cudnn-cu13 nvidia-cuda-runtime"
        return Check(name, False, f"there is no {' and no '.join(missing)}", fix)
    major = next((_cudnn_major(folder) for folder in cuda13.header_folders(nvcc, "cudnn.h")), None)
    if major != 9:
        return Check(
            name,
            False,
            f"CUDA 13 needs cuDNN 9, but this is {major}",
            "python -m pip install nvidia-cudnn-cu13",
        )
    return Check(name, True, "found, with cuDNN 9")


def _sources13() -> Check:
    name = "Jittor for CUDA 13"
    if unfit := misfits(CUDA13):
        detail = f"its {unfit[0].file} is not from 1.3.11.0, the only version that can be adapted to CUDA 13"
        return Check(name, False, detail, f"unset {cuda13.VARIABLE}, or install jittor==1.3.11.0")
    return Check(name, True, "compiled from a copy of its sources adapted to CUDA 13")


def _gpu() -> Check:
    name, fix = "GPU", "install the NVIDIA driver, or use --device cpu"
    driver = _driver()
    if driver is None:
        return Check(name, False, "there is no NVIDIA driver (libcuda.so)", fix)
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return Check(name, False, "the NVIDIA driver finds no GPU", "check nvidia-smi, or use --device cpu")
    return Check(name, True, f"{count.value} found")


def gpu_name() -> str:
    """Return the driver's name for the first GPU; `CUDA` if it is unknown."""
    driver = _driver()
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    known = (
        driver is not None
        and driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), 0) == 0
        and driver.cuDeviceGetName(name, len(name), device) == 0
    )
    return name.value.decode(errors="replace") if known else "CUDA"


def _driver() -> ctypes.CDLL | None:
    # Containers often have only the second name, which is the one that CUDA's library opens. Jittor opens the
    # first, but only to choose the name of its cache.
    for name in ("libcuda.so", "libcuda.so.1"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
