"""Errors with messages for users."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEBACK = "DDIM_HOST_TRACEBACK"
"""Environment variable that, if set, makes errors print their tracebacks."""

_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def printable(text: object) -> str:
    r"""Make a file name, or a message that contains one, safe to print on one line.

    File names may contain newlines, terminal escapes, and bytes that are not valid UTF-8, which no output
    stream can encode.

    Args:
        text: A name, a path or an error; `str(text)` is escaped.

    Returns:
        The text with all unprintable characters escaped (`\n`, `\x1b`, `\udcff`).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def described(error: BaseException, package: str = "") -> str:
    """Describe an exception from a plugin on one line: `ValueError: no idea (my_parts/extra.py:2)`.

    Args:
        error: The exception. Only the first line of its message is used, without terminal colours.
        package: The plugin's top-level module, to find the innermost line of the traceback that is in the
            plugin. Empty if the module is unknown.
    """
    place = _place(error, package)
    # The text of a syntax error also contains its location, but without the folder.
    message = str(error.msg if isinstance(error, SyntaxError) and place else error)
    lines = (" ".join(_TERMINAL_ESCAPE.sub("", line).split()) for line in message.splitlines())
    first = next((line for line in lines if line), "")
    text = "".join(character for character in first if character.isprintable())
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({place})" if place else "")


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an error if the environment variable named by `TRACEBACK` is set."""
    if TRACEBACK in os.environ:
        traceback.print_exception(error, file=sys.stderr)


def _place(error: BaseException, package: str) -> str:
    """Return the file and line of an error in a package: its syntax error or innermost frame; '' if none."""
    if isinstance(error, SyntaxError):
        parts = PurePath(error.filename or "").parts
        first = next((i for i, part in enumerate(parts) if part in (package, f"{package}.py")), len(parts))
        return "/".join(parts[first:]) + f":{error.lineno}" if first < len(parts) else ""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if package and module.partition(".")[0] == package:
            path = PurePath(frame.f_code.co_filename)
            depth = module.count(".") + (2 if path.stem == "__init__" else 1)
            place = f"{'/'.join(path.parts[-depth:])}:{line}"
    return place


def reason(error: Exception) -> str:
    """Return why a file operation failed, for a message that already names the file."""
    return printable(getattr(error, "strerror", None) or error)


class DivergedError(Exception):
    """Training diverged: a loss or a weight is infinite or not a number."""


class InterruptedTrainingError(Exception):
    """Training was interrupted, after a checkpoint was written.

    Args:
        step: Optimizer steps taken so far.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after {step:,} steps")
        self.step = step


class UserError(Exception):
    """An error with a message for the user; the command line prints it and exits with code 2.

    Args:
        what: The problem, in one sentence without a full stop.
        why: The reason, or the allowed values; empty if `what` says everything.
        notes: Further lines about the reason.
        fix: The remedy, if possible a command.
    """

    def __init__(self, what: str, *, why: str = "", notes: Iterable[str] = (), fix: str = "") -> None:
        # Messages about files often quote their contents, which may be unprintable.
        self.what, self.why, self.fix = (printable(text) for text in (what, why, fix))
        self.notes = tuple(printable(note) for note in notes)
        super().__init__(self.what)

    @property
    def summary(self) -> str:
        """The problem and its reason on one line."""
        return f"{self.what}; {self.why}" if self.why else self.what

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        lines += [f"       {note}" for note in self.notes]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)
