"""Processes that run one experiment together: their ranks, and their shares of a batch.

A launcher (`torchrun`, `mpirun`) starts them, and a framework connects them. All processes take the same
steps with the same random streams, each on its share of the rows of each batch. Only the first process writes
files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Processes(Protocol):
    """The connected processes of one experiment."""

    @property
    def rank(self) -> int:
        """The rank of this process, counted from 0."""
        ...

    @property
    def count(self) -> int:
        """The number of processes."""
        ...

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the elementwise sum of the arrays of all processes.

        Args:
            array: float32, of the same shape in every process.
        """
        ...


class _Alone:
    """A single process, which never waits for others."""

    rank = 0
    count = 1

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array


ALONE: Processes = _Alone()


def share(processes: Processes, total: int) -> range:
    """Return this process's rows of a batch; shares are contiguous, in rank order and as equal as possible.

    Args:
        processes: The processes of the experiment.
        total: Number of rows in the global batch.
    """
    first, last = (total * rank // processes.count for rank in (processes.rank, processes.rank + 1))
    return range(first, last)


def gather(processes: Processes, rows: NDArray[Any], total: int) -> NDArray[Any]:
    """Gather the shares of all processes into the global batch, in every process.

    Args:
        processes: The processes of the experiment.
        rows: This process's rows, `(len(share), ...)`: float32, or integers below 2^24.
        total: Number of rows in the global batch.
    """
    if processes.count == 1:
        return rows
    mine = share(processes, total)
    whole = np.zeros((total, *rows.shape[1:]), dtype=np.float32)
    whole[mine.start : mine.stop] = rows
    # All processes but one add zeros to a row, so its values are unchanged.
    return processes.sum(whole).astype(rows.dtype)


def any_of(processes: Processes, wanted: Sequence[bool]) -> list[bool]:
    """Return, for each condition, whether it holds in any process.

    Args:
        processes: The processes of the experiment.
        wanted: The conditions in this process; every process passes the same ones, in the same order.
    """
    found: list[bool] = (processes.sum(np.array(wanted, dtype=np.float32)) > 0.0).tolist()
    return found


def wait_for_all(processes: Processes) -> None:
    """Wait until every process has called this function."""
    any_of(processes, [False])


def require_same_checkpoint(processes: Processes, identity: int) -> None:
    """Check that all processes have read the same checkpoint; training may replace it between their reads.

    Args:
        processes: The processes of the experiment.
        identity: A number below 2^48 that identifies the checkpoint, such as its step.

    Raises:
        UserError: The processes have read different checkpoints; raised in all of them.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes read different checkpoints",
            why="another process is training this run and wrote a new checkpoint while they were reading",
            fix="run the command again, or wait until the training has finished",
        )


def require_same_images(processes: Processes, identity: int) -> None:
    """Check that all processes have read the same images; each machine may have its own copy.

    Args:
        processes: The processes of the experiment.
        identity: A number below 2^48 that identifies the images.

    Raises:
        UserError: The processes have read different images; raised in all of them.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes read different images",
            why="the files changed while they were being read, or the machines have different copies of them",
            fix="make sure that all processes read the same files, then run the command again",
        )


def _same(processes: Processes, identity: int) -> bool:
    """Return whether all processes call this with the same number, which must be below 2^48."""
    halves = np.array([identity // 2**24, identity % 2**24], dtype=np.float32)
    own = np.zeros((processes.count, 2), dtype=np.float32)
    own[processes.rank] = halves
    return bool((processes.sum(own) == halves).all())
