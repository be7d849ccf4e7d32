"""The failure of a command, recorded for the process that started it."""

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
"""Environment variable with the path of the file to which a process writes its failure."""


def asking_for_failure(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return an environment in which a process of the host writes its failure to a file."""
    return {**environment, _FILE: str(path)}


def report_failure(error: BaseException) -> None:
    """Record the failure of this command if the parent process requested it."""
    path = os.environ.get(_FILE)
    if path is None:
        return
    if isinstance(error, KeyboardInterrupt):
        error = UserError("interrupted")
    elif not isinstance(error, UserError):
        error = UserError(traceback.format_exception_only(error)[-1].strip())
    record = {"what": error.what, "why": error.why, "notes": error.notes, "fix": error.fix}
    with contextlib.suppress(OSError):  # for example on a full disk; the error has already been printed
        write_text(Path(path), json.dumps(record))


def read_failure(path: Path) -> UserError | None:
    """Return the failure that a process wrote; None if the file is missing or damaged."""
    try:
        record = read_json(path)
        return UserError(record["what"], why=record["why"], notes=record["notes"], fix=record["fix"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
