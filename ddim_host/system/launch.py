"""Whether a launcher started this process as one of several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Set by the launchers for each process that they start: its rank, and how many there are.
_VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True)
class Launch:
    """What the launcher of this process says about it.

    Attributes:
        rank: Which one of the processes this is, from 0.
        count: How many there are.
        launcher: The program that started them; empty where there is one process.
    """

    rank: int = 0
    count: int = 1
    launcher: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Whether a launcher started this process as one of several, from its environment.

    Raises:
        UserError: The launcher's variables do not make sense.
    """
    for launcher, names in _VARIABLES.items():
        values = [environment.get(name) for name in names]
        if None in values:
            continue
        try:
            rank, count = (int(value or "") for value in values)
        except ValueError:
            rank, count = -1, 0
        if not 0 <= rank < count:
            said = ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))
            raise UserError(
                f"the environment does not say which of {launcher}'s processes this is",
                why=said,
                fix=f"unset these variables, or start with {launcher}",
            )
        if count > 1:
            return Launch(rank, count, launcher)
    return Launch()
