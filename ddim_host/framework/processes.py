"""Several processes that run one experiment: their ranks, and their shares of a batch.

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
        """Return the rank of this process, from 0."""
        ...

    @property
    def count(self) -> int:
        """Return the number of processes."""
        ...

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum of the arrays of all processes.

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
    """Return this process's rows of a batch: contiguous, in rank order, as equal as possible.

    Args:
        processes: The processes of the experiment.
        total: Rows of the whole batch.
    """
    first, last = (total * rank // processes.count for rank in (processes.rank, processes.rank + 1))
    return range(first, last)


def gather(processes: Processes, rows: NDArray[Any], total: int) -> NDArray[Any]:
    """Gather the shares of all processes into the whole batch, in every process.

    Args:
        processes: The processes of the experiment.
        rows: This process's rows, `(len(share), ...)`: float32, or integers below 2^24.
        total: Rows of the whole batch.
    """
    if processes.count == 1:
        return rows
    mine = share(processes, total)
    whole = np.zeros((total, *rows.shape[1:]), dtype=np.float32)
    whole[mine.start : mine.stop] = rows
    # All processes but one add zeros to a row, so its value stays the same.
    return processes.sum(whole).astype(rows.dtype)


def any_of(processes: Processes, wanted: Sequence[bool]) -> list[bool]:
    """Return, for each condition, whether it holds in any process.

    Args:
        processes: The processes of the experiment, each with the same conditions.
        wanted: The conditions in this process.
    """
    found: list[bool] = (processes.sum(np.array(wanted, dtype=np.float32)) > 0.0).tolist()
    return found


def wait_for_all(processes: Processes) -> None:
    """Wait until every process has called this."""
    any_of(processes, [False])


def require_same_checkpoint(processes: Processes, identity: int) -> None:
    """Check that all processes have read the same checkpoint, which training may have replaced meanwhile.

    Args:
        processes: The processes of the experiment.
        identity: Identifies the checkpoint, for example by its step; below 2^48.

    Raises:
        UserError: The processes have read different checkpoints; raised in all of them.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes read different checkpoints",
            why="another process is training this run and wrote a checkpoint in between",
            fix="run the command again, or wait until the training has finished",
        )


def require_same_images(processes: Processes, identity: int) -> None:
    """Check that all processes have read the same images; each machine may have its own copy.

    Args:
        processes: The processes of the experiment.
        identity: Identifies the images; below 2^48.

    Raises:
        UserError: The processes have read different images; raised in all of them.
    """
    if not _same(processes, identity):
        raise UserError(
            "the processes read different images",
            why="the files changed in between, or the machines have different copies of them",
            fix="give all processes the same files, and run the command again",
        )


def _same(processes: Processes, identity: int) -> bool:
    """Return whether all processes call this with the same number, below 2^48."""
    halves = np.array([identity // 2**24, identity % 2**24], dtype=np.float32)
    own = np.zeros((processes.count, 2), dtype=np.float32)
    own[processes.rank] = halves
    return bool((processes.sum(own) == halves).all())
