"""Folders created once and atomically, by whichever process is first."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_once(target: Path, fill: Callable[[Path], None]) -> None:
    """Create a folder, unless it exists. Several processes may do this at once.

    Args:
        target: The folder; its name identifies its content, so an existing folder is not checked.
        fill: Writes the content into the folder that it receives.

    Raises:
        OSError: The folder cannot be written.
    """
    if target.is_dir():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(temporary)  # another process was faster
