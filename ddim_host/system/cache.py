"""The cache folder, for files that can be recreated: downloads, decoded images, compiled kernels."""

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
    """Return the path of the cache folder, without creating it.

    Returns:
        The first of `$DDIM_HOST_CACHE`, `$XDG_CACHE_HOME/ddim-host` and `~/.cache/ddim-host` that is defined.

    Raises:
        UserError: None of the three is defined.
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
    """Turn an `OSError` in the block into a `UserError` that says how to choose another cache folder.

    Code in the block that uses files outside the cache must raise its own `UserError`.
    """
    try:
        yield
    except OSError as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> UserError:
    return UserError(
        "cannot use the cache folder",
        why=printable(error),
        fix=f"set {CACHE_VARIABLE} to a writable folder with enough disk space",
    )
