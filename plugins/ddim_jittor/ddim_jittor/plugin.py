"""The entry point: names the model factory and imports Jittor only when a network is built."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ddim_host import hookimpl
from ddim_host.framework import Check

if TYPE_CHECKING:
    from ddim_host.framework import Device, JoinProcesses, Model, ModelFactory, Precision, Processes, UNetSpec


@hookimpl
def ddim_model_factories() -> dict[str, ModelFactory]:
    """`unet`: the DDPM U-Net."""
    return {"unet": unet}


def unet(spec: UNetSpec, device: Device, precision: Precision) -> Model:
    """Build the DDPM U-Net in Jittor.

    Args:
        spec: The network.
        device: `cuda`, `cpu`, or `auto`: the first where Jittor can use a GPU.
        precision: `fp32` or `auto`, which is the same here.

    Raises:
        UserError: Jittor cannot be imported, or the device or the precision is not to be had.
    """
    from ddim_host import UserError  # noqa: PLC0415 - see the module's docstring
    from ddim_jittor.environment import import_jittor  # noqa: PLC0415

    if precision == "bf16":
        raise UserError("Jittor does not train in bf16", fix="use --precision fp32, or --plugin torch")
    import_jittor(device)
    from ddim_jittor.model import JittorModel  # noqa: PLC0415 - imports Jittor

    return JittorModel(spec)


@hookimpl
def ddim_machine_checks() -> list[Check]:
    """What importing Jittor needs, looked for without importing it."""
    from ddim_host import UserError  # noqa: PLC0415
    from ddim_jittor.cuda import cuda_checks  # noqa: PLC0415 - see the module's docstring
    from ddim_jittor.machine import checks  # noqa: PLC0415

    try:
        missing = next((check for check in cuda_checks() if not check.ok), None)
    except UserError as error:
        gpu = Check("GPU", False, error.what, error.fix)
    else:
        none = missing and f"none that Jittor can use ({missing.detail}); runs on the CPU"
        gpu = Check("GPU", True, none or "usable")
    mpi = shutil.which("mpicc") or "none; runs in one process only (Debian: openmpi-bin, libopenmpi-dev)"
    return [*checks("cpu"), gpu, Check("MPI", True, mpi)]


@hookimpl
def ddim_process_groups() -> JoinProcesses:
    """By MPI."""
    return _join


def _join(device: Device) -> Processes:
    from ddim_jittor.processes import join  # noqa: PLC0415 - imports Jittor

    return join(device)
