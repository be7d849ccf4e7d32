"""Several processes that run one experiment together: who is who, and which rows of a batch are whose.

A launcher starts them (`torchrun`, `mpirun`), a framework joins them. Every process goes through the same
steps with the same random streams; of each batch it takes the rows that are its share. The first one alone
writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Processes(Protocol):
    """The processes of one experiment, joined."""

    @property
    def rank(self) -> int:
        """Which one of them this is, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

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


def any_of(processes: Processes, wanted: Sequence[bool]) -> list[bool]:
    """For each of several questions whether any process says yes.

    Args:
        processes: All of them; each asks the same questions.
        wanted: This one's answers.
    """
    found: list[bool] = (processes.sum(np.array(wanted, dtype=np.float32)) > 0.0).tolist()
    return found


def wait_for_all(processes: Processes) -> None:
    """Go on when every process is here."""
    any_of(processes, [False])


def require_same_checkpoint(processes: Processes, identity: int) -> None:
    """Make sure that all have read the same checkpoint: a training that goes on replaces its checkpoints.

    Args:
        processes: All of them.
        identity: What tells this one's checkpoint from others, such as its step; below 2^48.

    Raises:
        UserError: Others have read another one; in all processes.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes have read different checkpoints",
            why="another process trains this run, and has written a checkpoint meanwhile",
            fix="start again, or wait until the training has ended",
        )


def require_same_images(processes: Processes, identity: int) -> None:
    """Make sure that all have read the same data set: each machine may have a copy of its own.

    Args:
        processes: All of them.
        identity: What tells this one's images from others; below 2^48.

    Raises:
        UserError: Others have read other images; in all processes.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes have read different images",
            why="the files changed meanwhile, or the machines have different copies of them",
            fix="give all of them the same files, and start again",
        )


def _same(processes: Processes, identity: int) -> bool:
    """Whether all processes call this with the same number, below 2^48."""
    halves = np.array([identity // 2**24, identity % 2**24], dtype=np.float32)
    own = np.zeros((processes.count, 2), dtype=np.float32)
    own[processes.rank] = halves
    return bool((processes.sum(own) == halves).all())
