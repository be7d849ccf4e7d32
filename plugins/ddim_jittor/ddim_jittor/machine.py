"""What Jittor needs from the machine, looked for without importing Jittor."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from ddim_host import UserError, absolute_path, cache_folder
from ddim_host.framework import Check
from ddim_jittor.cuda import cuda_checks
from ddim_jittor.sources import needed_patches

ONEDNN = "2022.2.1"

# The compiled core takes 40 MB, the kernels of a network some tens more.
_ROOM = 500_000_000


def jittor_home() -> Path:
    """The folder that Jittor is given in place of the user's own: nothing of theirs is read or written.

    One folder serves any number of environments: Jittor keeps apart what is compiled for another copy of
    Jittor, version of Python, compiler or processor. What depends on NumPy is compiled from another copy.

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
        return Check("Jittor", False, "jittor is not installed", install_command())
    folder = metadata.distribution("jittor").locate_file("")
    if not _plain(folder):
        detail = f"it cannot be compiled from {folder}, which is not a plain name"
        return Check("Jittor", False, detail, "install into an environment in a folder without blanks")
    return Check("Jittor", True, f"jittor {version}")


def _numpy() -> Check:
    version = _version("numpy")
    if version is None:
        return Check("NumPy", False, "numpy is not installed", _pip('"numpy>=1.26.4"'))
    try:
        patches = needed_patches()
    except metadata.PackageNotFoundError:
        return Check("NumPy", True, f"numpy {version}")  # that Jittor is missing is said elsewhere
    except UserError as error:
        return Check.failed("NumPy", error)
    adapted = "; Jittor is compiled from a copy of its sources that is adapted to it" if patches else ""
    return Check("NumPy", True, f"numpy {version}{adapted}")


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


def install_command() -> str:
    """Return the command that installs Jittor and oneDNN, whatever NumPy there is.

    Without `--no-deps` pip would replace NumPy 2, which Jittor's metadata exclude. The host brings all else
    that Jittor imports.
    """
    return _pip(f"--no-deps jittor==1.3.11.0 onednn-devel-cpu-gomp=={ONEDNN} onednn-cpu-gomp=={ONEDNN}")


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
