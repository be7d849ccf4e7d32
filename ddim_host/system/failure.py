"""The record that a command leaves of its failure, for the process that started it."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.system.files import read_json, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = "DDIM_HOST_FAILURE"
"""The file that the process with this variable in its environment writes its failure to."""


def asking_for_failure(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return the environment of a process of the host that is to write its failure to a file."""
    return {**environment, _FILE: str(path)}


def report_failure(error: BaseException) -> None:
    """Write why this command fails, whole or not at all, if the process that started it asked for that."""
    path = os.environ.get(_FILE)
    if path is None:
        return
    if isinstance(error, KeyboardInterrupt):
        error = UserError("interrupted")
    elif not isinstance(error, UserError):
        error = UserError(traceback.format_exception_only(error)[-1].strip())
    record = {"what": error.what, "why": error.why, "notes": error.notes, "fix": error.fix}
    with contextlib.suppress(OSError):  # on a full disk, say: the command has printed the same
        write_text(Path(path), json.dumps(record))


def read_failure(path: Path) -> UserError | None:
    """Read what a process wrote; None if it wrote nothing, or the file is damaged."""
    try:
        record = read_json(path)
        return UserError(record["what"], why=record["why"], notes=record["notes"], fix=record["fix"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
