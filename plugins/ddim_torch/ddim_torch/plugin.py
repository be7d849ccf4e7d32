"""The plugin's entry point; torch is imported only when a network is built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ddim_host import UserError, cache_errors, hookimpl
from ddim_host.framework import KERNELS_VARIABLE, Check, bf16_check, launched

if TYPE_CHECKING:
    from ddim_host.framework import Device, JoinProcesses, Model, ModelFactory, Precision, Processes, UNetSpec

_GRAPHS_VARIABLE = "DDIM_HOST_CUDA_GRAPHS"


@hookimpl
def ddim_model_factories() -> dict[str, ModelFactory]:
    """`unet`: the DDPM U-Net."""
    return {"unet": unet}


def unet(spec: UNetSpec, device: Device, precision: Precision) -> Model:
    """Build the DDPM U-Net in PyTorch.

    Args:
        spec: The network.
        device: `cuda`, `cpu`, or `auto`: `cuda` if there is a GPU.
        precision: `fp32`, `bf16`, or `auto`: bf16 on a GPU that supports it, and on a CPU with matrix
            units, otherwise fp32.

    Raises:
        UserError: The device or precision is not available on this machine.
    """
    from ddim_torch.model import TorchModel, resolve_device, resolve_precision  # noqa: PLC0415 - heavy

    resolved = resolve_device(device)
    arithmetic = resolve_precision(precision, resolved)
    captures = _captures_graphs()
    if resolved.type == "cuda" and find_spec("triton") and os.environ.get(KERNELS_VARIABLE) != "framework":
        from ddim_torch.cuda_model import CudaModel  # noqa: PLC0415 - imports Triton

        return CudaModel(spec, resolved, arithmetic, graphs=captures)
    return TorchModel(spec, resolved, arithmetic)


def _captures_graphs() -> bool:
    """Return whether to capture CUDA graphs; communication between processes is never captured.

    Raises:
        UserError: `$DDIM_HOST_CUDA_GRAPHS` is neither `on` nor `off`.
    """
    wanted = os.environ.get(_GRAPHS_VARIABLE) or "on"
    if wanted not in ("on", "off"):
        raise UserError(
            f"{_GRAPHS_VARIABLE} must be on or off, not {wanted!r:.40}", fix=f"export {_GRAPHS_VARIABLE}=on"
        )
    return wanted == "on" and launched().count == 1


@hookimpl
def ddim_machine_checks() -> list[Check]:
    """Check that torch can be imported, and report its GPU."""
    try:
        import torch  # noqa: PLC0415 - heavy, and may fail
    except (ImportError, OSError) as error:
        return [Check("torch", False, str(error), "pip install --force-reinstall torch")]
    gpu = "none; runs on the CPU"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return [
        Check("torch", True, torch.__version__),
        Check("threads", True, str(torch.get_num_threads())),
        bf16_check(),
        Check("GPU", True, gpu),
        _weights_check(),
    ]


def _weights_check() -> Check:
    """Report whether the FID weights are available; their absence is not a failure."""
    from ddim_torch.inception_weights import published_weights  # noqa: PLC0415 - imports torch

    try:
        with cache_errors():
            return Check("FID weights", True, published_weights())
    except UserError as error:
        return Check.failed("FID weights", error)


@hookimpl
def ddim_process_groups() -> JoinProcesses:
    """Connect processes with torch.distributed."""
    return _join


def _join(device: Device) -> Processes:
    from ddim_torch.processes import join  # noqa: PLC0415 - heavy

    return join(device)
