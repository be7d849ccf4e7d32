"""Tested releases of Python and libraries. Other releases are allowed but untested."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

TESTED = {
    "Python": ("3.11", "3.13"),
    "argcomplete": ("3.5", "3.7"),
    "jinja2": ("3.1", "3.1"),
    "jittor": ("1.3.11", "1.3.11"),
    "matplotlib": ("3.9", "3.11"),
    "numpy": ("1.26", "2.5"),
    "packaging": ("24", "26.4"),
    "pillow": ("10.4", "13.0"),
    "pluggy": ("1.5", "1.7"),
    "safetensors": ("0.4", "0.8"),
    "scikit-learn": ("1.5", "1.9"),
    "scipy": ("1.13", "1.18"),
    "simplejpeg": ("1.7", "1.9"),
    "tensorboardX": ("2.6", "2.6"),
    "tomli-w": ("1.1", "1.2"),
    "torch": ("2.6", "2.15"),
    "tqdm": ("4.66", "4.70"),
}
"""Oldest and newest tested release by name; 2.5 means every 2.5.x.

The oldest are those in `tests/lowest.txt` and the Makefile.
"""


def installed_releases() -> dict[str, str]:
    """Return the versions of Python and of each installed distribution in `TESTED`."""
    found = {"Python": platform.python_version()}
    for name in TESTED:
        try:
            found.setdefault(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def untested(installed: Mapping[str, str]) -> list[str]:
    """Describe each release that is older or newer than the tested ones.

    Args:
        installed: Versions by name; names that are not in `TESTED` are ignored.
    """
    notes = []
    for name, version in installed.items():
        if name not in TESTED:
            continue
        oldest, newest = TESTED[name]
        word = _outside(version, Version(oldest).release, Version(newest).release)
        if word:
            span = oldest if oldest == newest else f"{oldest} to {newest}"
            notes.append(f"{name} {version} is {word} the tested releases ({span})")
    return notes


def _outside(version: str, oldest: tuple[int, ...], newest: tuple[int, ...]) -> str:
    """Describe how a version lies outside a range of releases; return an empty string if it is inside."""
    try:
        release = Version(version).release
    except InvalidVersion:
        return "not comparable to"
    if release[: len(oldest)] < oldest:
        return "older than"
    return "newer than" if release[: len(newest)] > newest else ""
