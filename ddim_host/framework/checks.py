"""What a check of the machine found: a line of `ddim-host doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim_host.errors import UserError


@dataclass(frozen=True)
class Check:
    """One thing that a framework needs from the machine, and whether it is there.

    Attributes:
        name: What was looked for, in a few words.
        ok: Whether it is there and fit for use.
        detail: What was found, or what is wrong with it.
        fix: What mends it, a command where there is one; empty where nothing needs mending.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""

    @classmethod
    def failed(cls, name: str, error: UserError) -> Check:
        """The check that found what an error says."""
        return cls(name, False, f"{error.what}: {error.why}", error.fix)
