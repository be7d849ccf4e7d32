"""Jittor's requirements for the machine, checked without importing Jittor."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path, PurePosixPath

from ddim_host import UserError, absolute_path, cache_folder
from ddim_host.framework import Check
from ddim_jittor.cuda import cuda_checks
from ddim_jittor.sources import needed_patches

ONEDNN = "2022.2.1"

# The compiled core takes 40 MB, and the kernels of a network tens of MB more.
_ROOM = 500_000_000


def jittor_home() -> Path:
    """Return the folder that Jittor uses as its home; the user's own is never read or written.

    Any number of environments can share the folder: Jittor separates code compiled for different copies of
    Jittor, versions of Python, compilers and processors. Code for a different NumPy version is compiled from
    a separate copy of Jittor.

    Returns:
        `$DDIM_HOST_JITTOR_HOME` if set, otherwise the folder `jittor` in the project's cache.

    Raises:
        UserError: There is no home folder for the cache.
    """
    if own := os.environ.get("DDIM_HOST_JITTOR_HOME"):
        return absolute_path(own)
    return cache_folder() / "jittor"


def require(found: list[Check]) -> None:
    """Raise a `UserError` for the first failed check, if any."""
    for check in found:
        if not check.ok:
            raise UserError(f"Jittor cannot start: {check.detail}", fix=check.fix)


def checks(device: str = "cpu") -> list[Check]:
    """Check all requirements for importing Jittor.

    Args:
        device: `cuda` also checks the requirements for a GPU; `cpu` and `auto` do not.

    Returns:
        All checks, both passed and failed, the most basic first.
    """
    found = [_system(), _jittor(), _numpy(), _onednn(), _compiler(), _python_headers(), _cache()]
    return found + cuda_checks() if device == "cuda" else found


def _system() -> Check:
    name = f"{platform.system()} on {platform.machine()}"
    # Jittor also runs on other systems, but oneDNN, without which convolutions are very slow, is packaged
    # only for this one.
    ok = name == "Linux on x86_64"
    fix = "" if ok else "use --plugin torch, or a Linux machine (Windows: WSL 2)"
    return Check("system", ok, name if ok else f"it needs Linux on x86_64, but this is {name}", fix)


def _jittor() -> Check:
    version = _version("jittor")
    if version is None:
        return Check("Jittor", False, "jittor is not installed", install_command())
    folder = metadata.distribution("jittor").locate_file("")
    if not _plain(folder):
        detail = f"it cannot be compiled from {folder}: the path contains spaces or special characters"
        return Check(
            "Jittor",
            False,
            detail,
            "install it into an environment whose path contains no spaces or special characters",
        )
    return Check("Jittor", True, f"jittor {version}")


def _numpy() -> Check:
    version = _version("numpy")
    if version is None:
        return Check("NumPy", False, "numpy is not installed", _pip('"numpy>=1.26.4"'))
    try:
        patches = needed_patches()
    except metadata.PackageNotFoundError:
        return Check("NumPy", True, f"numpy {version}")  # another check reports that Jittor is missing
    except UserError as error:
        return Check.failed("NumPy", error)
    adapted = "; Jittor is compiled from a copy of its sources adapted to it" if patches else ""
    return Check("NumPy", True, f"numpy {version}{adapted}")


def _onednn() -> Check:
    fix = _pip(f"--force-reinstall --no-deps onednn-devel-cpu-gomp=={ONEDNN} onednn-cpu-gomp=={ONEDNN}")
    try:
        _onednn_files()
    except metadata.PackageNotFoundError as error:
        return Check("oneDNN", False, f"oneDNN is not installed ({error})", fix)
    except FileNotFoundError as error:
        return Check("oneDNN", False, str(error), fix)
    return Check("oneDNN", True, f"oneDNN from onednn-cpu-gomp {_version('onednn-cpu-gomp')}")


def _compiler() -> Check:
    # `cc_path` is Jittor's own variable for the compiler.
    wanted = os.environ.get("cc_path") or "g++"  # noqa: SIM112
    path = shutil.which(wanted)
    if path is None:
        fix = "sudo apt-get install g++   (Fedora: gcc-c++; conda: gxx_linux-64, then export cc_path=$CXX)"
        return Check("C++ compiler", False, f"Jittor needs a C++ compiler, but {wanted} was not found", fix)
    return Check("C++ compiler", True, path)


def _python_headers() -> Check:
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fix = f"sudo apt-get install python{version}-dev   (Fedora: python{version}-devel)"
        return Check("Python headers", False, f"it needs the Python headers, but {header} is missing", fix)
    return Check("Python headers", True, str(header.parent))


def _cache() -> Check:
    name, fix = "cache folder", "set DDIM_HOST_JITTOR_HOME to a writable folder"
    try:
        home = jittor_home()
        nearest = next(folder for folder in (home, *home.parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            return Check(name, False, f"its cache folder {home} is not writable", fix)
        if not _plain(home):
            return Check(
                name,
                False,
                f"it cannot compile in {home}: the path contains spaces or special characters",
                fix,
            )
        free = shutil.disk_usage(nearest).free
    except UserError as error:
        return Check(name, False, error.what, error.fix)
    except OSError as error:
        return Check(name, False, f"its cache folder cannot be used: {error}", fix)
    if free < _ROOM:
        detail = (
            f"its cache folder {home} needs {_ROOM / 1e6:.0f} MB, but the disk has {free / 1e6:.0f} MB left"
        )
        return Check(
            name,
            False,
            detail,
            "free some disk space, or set DDIM_HOST_JITTOR_HOME to a folder on another disk",
        )
    return Check(name, True, str(home))


def _plain(path: object) -> bool:
    """Return whether a path is safe in Jittor's shell commands, which are mostly unquoted."""
    return re.fullmatch(r"[\w./+,:@%~-]+", str(path)) is not None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pip(what: str) -> str:
    return f"{sys.executable} -m pip install {what}"


def install_command() -> str:
    """Return the command that installs Jittor and oneDNN with any NumPy.

    Without `--no-deps` pip would replace NumPy 2, which Jittor's metadata exclude. Jittor's other
    dependencies are also the host's.
    """
    return _pip(f"--no-deps jittor==1.3.11.0 onednn-devel-cpu-gomp=={ONEDNN} onednn-cpu-gomp=={ONEDNN}")


def _onednn_files() -> dict[str, Path]:
    """Map the names in Jittor's oneDNN folder to the installed files.

    Raises:
        PackageNotFoundError: A wheel is not installed.
        FileNotFoundError: A file of a wheel is missing; the message names it and the folders searched.
    """
    found = {}
    for listed in _listed("onednn-devel-cpu-gomp"):
        if "include" in listed.parts:
            name = PurePosixPath(*listed.parts[listed.parts.index("include") :])
            found[str(name)] = _locate("onednn-devel-cpu-gomp", listed, name)
    for listed in _listed("onednn-cpu-gomp"):
        if listed.name == "libdnnl.so.2":
            path = _locate("onednn-cpu-gomp", listed, PurePosixPath("lib", listed.name))
            # The linker uses the first name, the loader the second, which is the library's soname.
            found["lib/libmkldnn.so"] = found["lib/libdnnl.so.2"] = path
    return found


def _listed(distribution: str) -> list[PurePosixPath]:
    """Return the files listed by a wheel, including missing ones, which `files` omits since Python 3.12.

    Raises:
        FileNotFoundError: The wheel has no list of files.
    """
    record = metadata.distribution(distribution).read_text("RECORD")
    if not record:
        raise FileNotFoundError(f"{distribution} is installed without a RECORD of its files")
    return [PurePosixPath(row[0]) for row in csv.reader(record.splitlines()) if row]


def _locate(distribution: str, listed: PurePosixPath, in_target: PurePosixPath) -> Path:
    """Return the path of an installed file: the listed one, or that of `pip install --target`."""
    root = metadata.distribution(distribution).locate_file("")
    places = [Path(os.path.normpath(f"{root}/{place}")) for place in (listed, in_target)]
    for place in places:
        if place.is_file():
            return place
    folders = " or ".join(str(place.parent) for place in places)
    raise FileNotFoundError(f"{distribution} is incomplete: there is no {listed.name} in {folders}")


def lay_onednn(home: Path) -> Path:
    """Link oneDNN into the folder where Jittor looks before downloading it, unless valid links exist.

    Links avoid copying 40 MB; they are replaced if the environment that they point to was moved or deleted.
    Several processes may do this at once.

    Args:
        home: Jittor's home.

    Returns:
        The folder with oneDNN's headers.
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
        except OSError:  # a file system without symbolic links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    return folder / "include"
