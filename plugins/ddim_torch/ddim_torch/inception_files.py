"""Location of the published weights of the Inception network; does not import PyTorch."""

from __future__ import annotations

from ddim_host import cache_folder

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
KEPT_NAME = "inception-6726825d.safetensors"
"""Name of the cached copy of the published file."""


def are_cached() -> bool:
    """Return whether the published weights are in the cache; nothing is read or downloaded."""
    folder = cache_folder()
    return (folder / KEPT_NAME).is_file() or (folder / FILE_NAME).is_file()
