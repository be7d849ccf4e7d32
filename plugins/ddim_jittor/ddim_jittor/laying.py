"""Folders that are made once, whole, by whichever process is first."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_once(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder, unless it exists. Several processes may do this at once.

    Args:
        target: The folder; its name tells what it holds, so one that exists is not looked into.
        fill: Writes what it holds into the folder that it is given.

    Raises:
        OSError: It cannot be written.
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
