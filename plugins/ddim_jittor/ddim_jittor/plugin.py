"""The plugin's entry point; Jittor is imported only when a network is built."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ddim_host import hookimpl
from ddim_host.framework import Check, bf16_check

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
        device: `cuda`, `cpu`, or `auto`: `cuda` if Jittor can use a GPU.
        precision: `fp32`, `bf16` on a CPU, or `auto`: bf16 on a CPU with matrix units, otherwise fp32.

    Raises:
        UserError: Jittor cannot be imported, or the device or precision is not available.
    """
    from ddim_jittor.environment import import_jittor  # noqa: PLC0415 - see the module's docstring

    import_jittor(device)
    from ddim_jittor.model import JittorModel  # noqa: PLC0415 - imports Jittor

    return JittorModel(spec, precision)


@hookimpl
def ddim_machine_checks() -> list[Check]:
    """Check the requirements for importing Jittor, without importing it."""
    from ddim_host import UserError  # noqa: PLC0415
    from ddim_jittor.cuda import cuda_checks  # noqa: PLC0415 - see the module's docstring
    from ddim_jittor.environment import compiled  # noqa: PLC0415
    from ddim_jittor.machine import checks  # noqa: PLC0415

    try:
        found = cuda_checks()
    except UserError as error:
        gpu = Check("GPU", False, error.what, error.fix)
    else:
        missing = next((check for check in found if not check.ok), None)
        none = missing and f"none that Jittor can use ({missing.detail}); runs on the CPU"
        gpu = Check("GPU", True, none or f"usable: {'; '.join(check.detail for check in found)}")
    mpi = shutil.which("mpicc") or "none; runs in one process only (Debian: openmpi-bin, libopenmpi-dev)"
    required = checks("cpu")
    core = [compiled()] if all(check.ok for check in required) else []
    return [*required, *core, bf16_check(), gpu, Check("MPI", True, mpi)]


@hookimpl
def ddim_process_groups() -> JoinProcesses:
    """Connect processes with MPI."""
    return _join


def _join(device: Device) -> Processes:
    from ddim_jittor.processes import join  # noqa: PLC0415 - imports Jittor

    return join(device)
