"""Releases that the tests were run with. Others are not refused; they were not tried."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

TESTED = {
    "Python": ("3.11", "3.13"),
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
"""Name -> the oldest and the newest release, as exactly as they count: 2.5 stands for every 2.5.x.

The oldest are those of `tests/lowest.txt` and of the Makefile.
"""


def installed_releases() -> dict[str, str]:
    """Return the version of Python, and of each distribution of `TESTED` that is installed."""
    found = {"Python": platform.python_version()}
    for name in TESTED:
        try:
            found.setdefault(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def untested(installed: Mapping[str, str]) -> list[str]:
    """Describe each release that is older or newer than what was tested.

    Args:
        installed: Versions by name; names that `TESTED` lacks do not count.
    """
    notes = []
    for name, version in installed.items():
        if name not in TESTED:
            continue
        oldest, newest = TESTED[name]
        word = _outside(version, Version(oldest).release, Version(newest).release)
        if word:
            span = oldest if oldest == newest else f"{oldest} to {newest}"
            notes.append(f"{name} {version} is {word} what was tested ({span})")
    return notes


def _outside(version: str, oldest: tuple[int, ...], newest: tuple[int, ...]) -> str:
    """Return how a version relates to a span that it lies outside of; nothing for one inside."""
    try:
        release = Version(version).release
    except InvalidVersion:
        return "not comparable to"
    if release[: len(oldest)] < oldest:
        return "older than"
    return "newer than" if release[: len(newest)] > newest else ""
