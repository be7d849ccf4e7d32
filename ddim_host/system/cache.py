"""The folder for what can be made again: downloads, decoded images, compiled kernels."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "DDIM_HOST_CACHE"


def cache_folder() -> Path:
    """Where downloads and decoded images are kept; not made yet.

    Returns:
        `$DDIM_HOST_CACHE`, else `$XDG_CACHE_HOME/ddim-host`, else `~/.cache/ddim-host`.

    Raises:
        UserError: None of the three is known.
    """
    try:
        if own := os.environ.get(CACHE_VARIABLE):
            return Path(own).expanduser().absolute()
        if shared := os.environ.get("XDG_CACHE_HOME"):
            return Path(shared).absolute() / "ddim-host"
        return Path.home() / ".cache" / "ddim-host"
    except RuntimeError as error:  # no home folder
        raise _unusable(error) from error


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Turns failing to write the cache into a `UserError` that names the variable which moves it.

    What is read from elsewhere in the block has to report its failures by a `UserError` of its own.
    """
    try:
        yield
    except OSError as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> UserError:
    return UserError(
        "cannot use the cache folder",
        why=printable(error),
        fix=f"set {CACHE_VARIABLE} to a folder that can be written and has room",
    )
