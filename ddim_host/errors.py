"""The errors that users are meant to read."""

__all__ = ["DivergedError", "InterruptedTrainingError", "UserError", "printable", "reason"]


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
        fix: What to do about it, a command where there is one.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        # What is wrong with a file is often told in words of that file.
        self.what, self.why, self.fix = (printable(text) for text in (what, why, fix))
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)
