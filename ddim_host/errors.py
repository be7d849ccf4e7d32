"""The errors that users are meant to read."""

__all__ = ["DivergedError", "InterruptedTrainingError", "UserError"]


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
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)
