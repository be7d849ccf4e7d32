"""Detection of a launcher that started this process as one of several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Set by the launchers in each process: its rank, and the number of processes.
_VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True)
class Launch:
    """This process's rank among the processes of a launcher.

    Attributes:
        rank: The rank of this process, from 0.
        count: The number of processes.
        launcher: The program that started the processes; empty for a single process.
    """

    rank: int = 0
    count: int = 1
    launcher: str = ""

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return the rank of this process, read from the environment variables of launchers.

    Raises:
        UserError: The launcher's variables do not contain a valid rank and number of processes.
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
            given = ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))
            raise UserError(
                f"the environment variables of {launcher} contain no valid rank and number of processes",
                why=given,
                fix=f"unset these variables, or start the command with {launcher}",
            )
        if count > 1:
            return Launch(rank, count, launcher)
    return Launch()
