"""The errors that users are meant to read."""

from __future__ import annotations

import re
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def printable(text: object) -> str:
    r"""Makes a file name, or a message that holds one, safe to print on one line.

    File names may hold line ends, terminal escapes, and bytes that are not UTF-8, which no output stream
    would encode.

    Args:
        text: A name, a path or an error; `str(text)` is shown.

    Returns:
        The same text with everything unprintable escaped (`\n`, `\x1b`, `\udcff`).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def described(error: BaseException, package: str = "") -> str:
    """What somebody else's code raised, in one line: `ValueError: no idea (my_parts/extra.py:2)`.

    Args:
        error: What was raised. The first line of its text is kept, without the colours of a terminal.
        package: The top-level module of that code: the innermost line of it that took part is named. Empty
            where nobody knows whose code it was.
    """
    lines = (" ".join(_TERMINAL_ESCAPE.sub("", line).split()) for line in str(error).splitlines())
    first = next((line for line in lines if line), "")
    text = "".join(character for character in first if character.isprintable())
    place = _place(error, package)
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({place})" if place else "")


def _place(error: BaseException, package: str) -> str:
    """File and line where the code of a package was left; empty where it took no part."""
    if isinstance(error, SyntaxError):
        return ""  # its own text says where
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if package and module.partition(".")[0] == package:
            path = PurePath(frame.f_code.co_filename)
            depth = module.count(".") + (2 if path.stem == "__init__" else 1)
            place = f"{'/'.join(path.parts[-depth:])}:{line}"
    return place


def reason(error: Exception) -> str:
    """What went wrong with a file, for a message that names the file already."""
    return printable(getattr(error, "strerror", None) or error)


class DivergedError(Exception):
    """Training left the finite numbers: a loss or a weight is infinite or not a number."""


class InterruptedTrainingError(Exception):
    """Training was asked to end, and has left a checkpoint of where it was.

    Args:
        step: Optimizer steps taken by then.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after {step:,} steps")
        self.step = step


class UserError(Exception):
    """What the user asked for cannot be done; the command line prints it and exits with code 2.

    Args:
        what: What went wrong, in one sentence without a full stop.
        why: The reason, or the choices there are; empty where `what` says it all.
        notes: More about the reason, a line each.
        fix: What to do about it, a command where there is one.
    """

    def __init__(self, what: str, *, why: str = "", notes: Iterable[str] = (), fix: str = "") -> None:
        # What is wrong with a file is often told in words of that file.
        self.what, self.why, self.fix = (printable(text) for text in (what, why, fix))
        self.notes = tuple(printable(note) for note in notes)
        super().__init__(self.what)

    @property
    def summary(self) -> str:
        """The problem and its reason, in one line."""
        return f"{self.what}; {self.why}" if self.why else self.what

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        lines += [f"       {note}" for note in self.notes]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)
