"""Several processes that run one experiment together: who is who, and which rows of a batch are whose.

A launcher starts them (`torchrun`, `mpirun`), a framework joins them. Every process goes through the same steps
with the same random streams; of each batch it takes the rows that are its share. The first process alone writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["ALONE", "Launch", "Processes", "gather", "launched", "share"]

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


class Processes(Protocol):
    """The processes of one experiment, joined.

    Attributes:
        rank: Which one of them this is, from 0.
        count: How many there are.
    """

    rank: int
    count: int

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum of the arrays that all processes call this with, in each of them.

        Args:
            array: float32, of the same shape in every process.
        """
        ...


class _Alone:
    """One process, which waits for nobody."""

    rank = 0
    count = 1

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array


ALONE: Processes = _Alone()


def share(processes: Processes, total: int) -> range:
    """The rows of a batch that are this process's: contiguous, in the order of the ranks, as equal as can be.

    Args:
        processes: All of them.
        total: Rows of the whole batch.
    """
    first, last = (total * rank // processes.count for rank in (processes.rank, processes.rank + 1))
    return range(first, last)


def gather(processes: Processes, rows: NDArray[Any], total: int) -> NDArray[Any]:
    """The whole batch, in every process, from each one's share.

    Args:
        processes: All of them.
        rows: This process's rows, `(len(share), ...)`: float32, or integers below 2^24.
        total: Rows of the whole batch.
    """
    if processes.count == 1:
        return rows
    mine = share(processes, total)
    whole = np.zeros((total, *rows.shape[1:]), dtype=np.float32)
    whole[mine.start : mine.stop] = rows
    # To each row all but one process add zeros, which changes nothing.
    return processes.sum(whole).astype(rows.dtype)
