"""What Jittor needs from the machine, looked for without importing Jittor."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host import UserError, absolute_path, cache_folder
from ddim_host.framework import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

ONEDNN = "2022.2.1"

# The compiled core takes 40 MB, the kernels of a network some tens more.
_ROOM = 500_000_000

_CUDA_PLACES = ("/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")


def jittor_home() -> Path:
    """The folder that Jittor is given in place of the user's own: nothing of theirs is read or written.

    One folder serves any number of environments: Jittor keeps apart what is compiled for another copy of
    Jittor, version of Python, compiler or processor. Nothing is compiled against NumPy.

    Returns:
        `$DDIM_HOST_JITTOR_HOME`, else the folder `jittor` in the project's cache.

    Raises:
        UserError: There is no home folder to put a cache into.
    """
    if own := os.environ.get("DDIM_HOST_JITTOR_HOME"):
        return absolute_path(own)
    return cache_folder() / "jittor"


def require(found: list[Check]) -> None:
    """Raise a `UserError` about the first check that failed, if any did."""
    for check in found:
        if not check.ok:
            raise UserError(f"Jittor cannot start: {check.detail}", fix=check.fix)


def checks(device: str = "cpu") -> list[Check]:
    """Look for everything that importing Jittor needs.

    Args:
        device: With `cuda`, also for what only a GPU needs; `cpu` and `auto` do not need it.

    Returns:
        All checks, passed and failed, the most basic first.
    """
    found = [_system(), _jittor(), _numpy(), _onednn(), _compiler(), _python_headers(), _cache()]
    return found + cuda_checks() if device == "cuda" else found


def _system() -> Check:
    name = f"{platform.system()} on {platform.machine()}"
    # Jittor runs elsewhere too, but oneDNN, without which convolutions crawl, is packaged for this only.
    ok = name == "Linux on x86_64"
    fix = "" if ok else "use --plugin torch, or a Linux machine (Windows: WSL 2)"
    return Check("system", ok, name if ok else f"it runs on Linux on x86_64 here, and this is {name}", fix)


def _jittor() -> Check:
    version = _version("jittor")
    if version is None:
        return Check("Jittor", False, "jittor is not installed", _pip("jittor==1.3.11.0"))
    folder = metadata.distribution("jittor").locate_file("")
    if not _plain(folder):
        detail = f"it cannot be compiled from {folder}, which is not a plain name"
        return Check("Jittor", False, detail, "install into an environment in a folder without blanks")
    return Check("Jittor", True, f"jittor {version}")


def _numpy() -> Check:
    version = _version("numpy")
    if version is None or int(version.partition(".")[0]) >= 2:
        detail = (
            "numpy is not installed"
            if version is None
            else f"it needs numpy < 2, and this is numpy {version}"
        )
        return Check("NumPy", False, detail, _pip('"numpy>=1.26.4,<2"'))
    return Check("NumPy", True, f"numpy {version}")


def _onednn() -> Check:
    fix = _pip(f"--force-reinstall --no-deps onednn-devel-cpu-gomp=={ONEDNN} onednn-cpu-gomp=={ONEDNN}")
    try:
        missing = [path for path in _onednn_files().values() if not path.is_file()]
    except (metadata.PackageNotFoundError, FileNotFoundError) as error:
        return Check("oneDNN", False, f"oneDNN is not installed ({error})", fix)
    if missing:
        return Check("oneDNN", False, f"the installed oneDNN is not whole: {missing[0]} is missing", fix)
    return Check("oneDNN", True, f"oneDNN of onednn-cpu-gomp {_version('onednn-cpu-gomp')}")


def _compiler() -> Check:
    # `cc_path` is Jittor's own variable for another compiler than the first g++.
    wanted = os.environ.get("cc_path") or "g++"  # noqa: SIM112
    path = shutil.which(wanted)
    if path is None:
        fix = "sudo apt-get install g++   (Fedora: gcc-c++; conda: gxx_linux-64, then export cc_path=$CXX)"
        return Check("C++ compiler", False, f"it compiles C++, and there is no {wanted}", fix)
    return Check("C++ compiler", True, path)


def _python_headers() -> Check:
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fix = f"sudo apt-get install python{version}-dev   (Fedora: python{version}-devel)"
        return Check("Python headers", False, f"it compiles against Python, and there is no {header}", fix)
    return Check("Python headers", True, str(header.parent))


def _cache() -> Check:
    name, fix = "cache folder", "export DDIM_HOST_JITTOR_HOME=DIR with a folder that can be written"
    try:
        home = jittor_home()
        nearest = next(folder for folder in (home, *home.parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            return Check(name, False, f"its cache folder {home} cannot be written", fix)
        if not _plain(home):
            return Check(name, False, f"it cannot compile in {home}, which is not a plain name", fix)
        free = shutil.disk_usage(nearest).free
    except UserError as error:
        return Check(name, False, error.what, error.fix)
    except OSError as error:
        return Check(name, False, f"its cache folder cannot be used: {error}", fix)
    if free < _ROOM:
        detail = (
            f"its cache folder {home} has {free / 1e6:.0f} MB left on the disk and needs {_ROOM / 1e6:.0f}"
        )
        return Check(name, False, detail, "make room, or export DDIM_HOST_JITTOR_HOME=DIR on another disk")
    return Check(name, True, str(home))


def cuda_checks() -> list[Check]:
    """Look for what Jittor needs to use a GPU: the toolkit with its headers, cuDNN and a device."""
    return [_toolkit(), _cudnn(), _gpu()]


def find_nvcc() -> Path | None:
    """The CUDA compiler that has its library; Jittor alone takes any `nvcc` and dies of what is missing."""
    return next((nvcc for nvcc in _nvccs() if _cudart(nvcc).is_file()), None)


def _nvccs() -> Iterator[Path]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = (
        os.environ.get("nvcc_path"),  # noqa: SIM112  # Jittor's own variable
        home and f"{home}/bin/nvcc",
        shutil.which("nvcc"),
        *_CUDA_PLACES,
    )
    for place in places:
        if place and os.access(place, os.X_OK):
            # As Jittor does: it looks for everything else next to the file behind the links.
            yield Path(place) if place == "/usr/bin/nvcc" else Path(place).resolve()


def _cudart(nvcc: Path) -> Path:
    if str(nvcc) == "/usr/bin/nvcc":  # Debian's package
        return Path("/usr/lib/x86_64-linux-gnu/libcudart.so")
    return nvcc.parent.parent / "lib64" / "libcudart.so"


def _toolkit() -> Check:
    name = "CUDA toolkit"
    fix = "install CUDA 11 or 12, export nvcc_path=/usr/local/cuda/bin/nvcc, or use --device cpu"
    if nvcc := find_nvcc():
        return Check(name, True, str(nvcc))
    if nvcc := next(_nvccs(), None):
        return Check(name, False, f"there is {nvcc}, but no {_cudart(nvcc)}", fix)
    return Check(name, False, "there is no nvcc", fix)


def _cudnn() -> Check:
    name, nvcc = "cuDNN", find_nvcc()
    if nvcc is None:
        return Check(
            name, False, "without the CUDA toolkit there is no cuDNN", "install the CUDA toolkit first"
        )
    toolkit = nvcc.parent.parent
    folders = [toolkit / "include", toolkit / "targets/x86_64-linux/include", Path("/usr/include")]
    for folder in folders:
        if (folder / "cudnn.h").is_file():
            return Check(name, True, str(folder / "cudnn.h"))
    fix = "install cuDNN 8 with its headers (Debian: libcudnn8-dev), or use --device cpu"
    return Check(name, False, f"there is no cudnn.h in {' or '.join(map(str, folders))}", fix)


def _gpu() -> Check:
    name, fix = "GPU", "install the NVIDIA driver, or use --device cpu"
    driver = _driver()
    if driver is None:
        return Check(name, False, "there is no NVIDIA driver (libcuda.so)", fix)
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return Check(name, False, "the NVIDIA driver sees no GPU", "check nvidia-smi, or use --device cpu")
    return Check(name, True, f"{count.value} found")


def gpu_name() -> str:
    """The first GPU in the driver's words; `CUDA` where it has none for it."""
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
    try:
        # Not `libcuda.so.1`: Jittor opens this name, which some containers lack.
        return ctypes.CDLL("libcuda.so")
    except OSError:
        return None


def _plain(path: object) -> bool:
    """Whether a path survives the shell commands that Jittor makes of it, mostly without quotes."""
    return re.fullmatch(r"[\w./+,:@%~-]+", str(path)) is not None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pip(what: str) -> str:
    return f"{sys.executable} -m pip install {what}"


def _onednn_files() -> dict[str, Path]:
    """What Jittor's oneDNN folder must hold -> the installed file, from the wheels' own lists of files."""
    headers = metadata.distribution("onednn-devel-cpu-gomp")
    library = metadata.distribution("onednn-cpu-gomp")
    found = {}
    for file in headers.files or ():
        if "include" in file.parts:
            name = "/".join(file.parts[file.parts.index("include") :])
            found[name] = Path(os.path.normpath(str(file.locate())))
    for file in library.files or ():
        if file.name == "libdnnl.so.2":
            path = Path(os.path.normpath(str(file.locate())))
            # Linked against as the one, loaded as the other: the library calls itself by its real name.
            found["lib/libmkldnn.so"] = found["lib/libdnnl.so.2"] = path
    for name in ("include/dnnl.hpp", "lib/libmkldnn.so"):
        if name not in found:
            raise FileNotFoundError(f"its wheels hold no {name}")
    return found


def lay_onednn(home: Path) -> None:
    """Put oneDNN where Jittor looks before it downloads it; what is already there and whole is left alone.

    Links, so that nothing of 40 MB is copied; they are laid anew when the environment that they lead to was
    moved or deleted. Several processes may do this at once.

    Args:
        home: Jittor's home.
    """
    folder = home / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    for name, source in _onednn_files().items():
        target = folder / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(source)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
