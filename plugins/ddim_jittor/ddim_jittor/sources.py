"""The sources of Jittor's core: the installed ones, or a patched copy in Jittor's home.

The copy is in the plugin's own cache. The environment is not changed, and an environment with a different
NumPy, Jittor or set of patches has its own copy.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from ddim_host import UserError
from ddim_jittor.laying import make_once
from ddim_jittor.patches import NUMPY2, PYTHON313

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddim_jittor.patches import Patch

_PACKAGES = ("jittor", "jittor_utils")

# A fifth of the total size, and never imported.
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "demo", "notebook", "test")

# The first release that may support NumPy 2 and Python 3.13. Older ones do not, even if their metadata do not
# exclude them.
_MAY_NEED_NOTHING = Version("1.3.12")


def needed_patches() -> tuple[Patch, ...]:
    """Return the patches that the installed Jittor needs for the installed NumPy and this Python.

    Returns:
        The patches; none for NumPy 1 with Python 3.11 or 3.12, or for a Jittor that supports newer versions.

    Raises:
        UserError: The installed Jittor does not support them, and the patches are for another release.
        PackageNotFoundError: Jittor or NumPy is not installed.
    """
    numpy = Version(metadata.version("numpy"))
    patches: tuple[Patch, ...] = ()
    if numpy.major >= 2:
        patches += _fitting(NUMPY2, f"numpy {numpy}", supported=_accepts(numpy))
    if sys.version_info >= (3, 13):
        patches += _fitting(PYTHON313, f"Python {platform.python_version()}", supported=True)
    return patches


def _fitting(patches: tuple[Patch, ...], wanted: str, *, supported: bool) -> tuple[Patch, ...]:
    """Return the patches if they apply, or none for a newer Jittor that needs none."""
    if not misfits(patches):
        return patches
    jittor = metadata.version("jittor")
    if supported and Version(jittor) >= _MAY_NEED_NOTHING:
        return ()
    raise UserError(
        f"jittor {jittor} does not work with {wanted}",
        why="this version of Jittor does not support it, and the plugin cannot adapt its sources",
        fix=f"{sys.executable} -m pip install --no-deps --force-reinstall jittor==1.3.11.0",
    )


def misfits(patches: Sequence[Patch]) -> list[Patch]:
    """Return the patches whose text does not occur exactly once in the installed sources."""
    folder = installed_folder()
    return [patch for patch in patches if _count(folder / patch.file, patch.old) != 1]


def installed_folder() -> Path:
    """Return the folder that contains the package `jittor`, without importing the package.

    Raises:
        PackageNotFoundError: The package cannot be found.
    """
    # `importlib.util.find_spec` would return the patched copy once that is imported.
    spec = importlib.machinery.PathFinder.find_spec("jittor")
    if spec is None or spec.origin is None:
        raise metadata.PackageNotFoundError("jittor")
    return Path(spec.origin).parent.parent


def sources_key(patches: Sequence[Patch]) -> str:
    """Return a key for the installed Jittor with these patches, or an empty string if there are none."""
    if not patches:
        return ""
    record = metadata.distribution("jittor").read_text("RECORD") or ""
    text = "\0".join([record, *(part for patch in patches for part in (patch.file, patch.old, patch.new))])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def lay_sources(home: Path, patches: Sequence[Patch]) -> Path | None:
    """Create the patched copy of the installed Jittor, unless it exists.

    Args:
        home: Jittor's home.
        patches: Patches that apply to the installed sources.

    Returns:
        The folder to import `jittor` from, or None if there are no patches and the installed one is used.

    Raises:
        OSError: The copy cannot be written.
    """
    if not patches:
        return None
    installed = installed_folder()

    def copy(folder: Path) -> None:
        for package in _PACKAGES:
            shutil.copytree(installed / package, folder / package, ignore=_NOT_COPIED)
        for patch in patches:
            path = folder / patch.file
            path.write_text(path.read_text(encoding="utf-8").replace(patch.old, patch.new), encoding="utf-8")

    target = home / "sources" / f"{metadata.version('jittor')}-{sources_key(patches)}"
    make_once(target, copy)
    return target


def _count(path: Path, text: str) -> int:
    try:
        return path.read_text(encoding="utf-8").count(text)
    except (OSError, UnicodeDecodeError):
        return 0


def _accepts(numpy: Version) -> bool:
    """Return whether Jittor's metadata allow this version of NumPy."""
    requirements = [Requirement(line) for line in metadata.requires("jittor") or ()]
    return all(
        requirement.specifier.contains(numpy, prereleases=True)
        for requirement in requirements
        if requirement.name == "numpy"
    )
