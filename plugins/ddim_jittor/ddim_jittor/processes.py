"""Processes started by mpirun and connected with Jittor's MPI support."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host import UserError
from ddim_host.framework import launched
from ddim_jittor.environment import import_jittor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.framework import Device


class JittorProcesses:
    """See `ddim_host.framework.Processes`."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Processes`."""
        import jittor as jt  # noqa: PLC0415 - already imported by `join`

        summed: NDArray[np.float32] = jt.array(array).mpi_all_reduce("add").numpy()
        return summed


def join(device: Device) -> JittorProcesses:
    """Connect the processes of a run, which Jittor does during import.

    Args:
        device: The device of the network.

    Raises:
        UserError: The processes were not started by mpirun, or Jittor cannot use MPI on this machine.
    """
    launch = launched()
    if launch.launcher != "mpirun":
        raise UserError(
            f"Jittor does not support {launch.launcher}",
            fix=f"start the processes with mpirun -np {launch.count} ddim-host ... "
            "(Debian: openmpi-bin, libopenmpi-dev)",
        )
    jittor = import_jittor(device)
    if not jittor.in_mpi or jittor.world_size != launch.count:
        raise UserError(
            "Jittor cannot use the processes that mpirun started",
            why="it needs the compiler wrapper mpicc to build its MPI operators",
            fix="install Open MPI with its headers (Debian: apt-get install openmpi-bin libopenmpi-dev)",
        )
    return JittorProcesses(jittor.rank, jittor.world_size)
