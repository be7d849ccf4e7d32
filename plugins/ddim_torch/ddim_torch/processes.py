"""Processes started by torchrun and connected with torch.distributed: gloo for CPU arrays, NCCL for GPUs."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from ddim_host import UserError
from ddim_host.framework import launched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.framework import Device

# Processes may wait for a long time, for example while the first one measures real images. A dead process is
# detected immediately in any case.
_TIMEOUT = timedelta(days=1)


class TorchProcesses:
    """See `ddim_host.framework.Processes`."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.count = distributed.get_world_size()

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Processes`. Host arrays use gloo, even if gradients use NCCL."""
        total = torch.from_numpy(array.copy())
        distributed.all_reduce(total)
        summed: NDArray[np.float32] = total.numpy()
        return summed


def join(device: Device) -> TorchProcesses:
    """Connect the processes of a run; if there are GPUs, each process gets one of them.

    Args:
        device: The device of the network.

    Raises:
        UserError: The processes were not started by torchrun or cannot connect, or there are too few GPUs.
    """
    if not distributed.is_initialized():
        launch = launched()
        if launch.launcher != "torchrun":
            raise UserError(
                f"PyTorch does not support {launch.launcher}",
                fix=f"start the processes with torchrun --nproc-per-node {launch.count} -m ddim_host ...",
            )
        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            _choose_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                "the processes could not connect to each other",
                why=str(error).splitlines()[0],
                fix="start them with torchrun; for several machines, see its option --rdzv-endpoint",
            ) from error
        atexit.register(distributed.destroy_process_group)
    return TorchProcesses()


def _choose_gpu(number: int) -> None:
    if number >= torch.cuda.device_count():
        raise UserError(
            f"there is no GPU for process {number} on this machine",
            why="torchrun started more processes than there are GPUs; "
            f"PyTorch finds {torch.cuda.device_count()}",
            fix="use a smaller --nproc-per-node, or --device cpu",
        )
    torch.cuda.set_device(number)
