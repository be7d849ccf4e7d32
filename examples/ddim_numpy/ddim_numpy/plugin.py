"""The hooks of the framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError, hookimpl
from ddim_host.framework import Check

if TYPE_CHECKING:
    from ddim_host.framework import Device, Model, ModelFactory, Precision, UNetSpec

__all__ = ["unet"]


@hookimpl
def ddim_model_factories() -> dict[str, ModelFactory]:
    """`unet`: the DDPM U-Net; it has this name in every framework."""
    return {"unet": unet}


def unet(spec: UNetSpec, device: Device, precision: Precision) -> Model:
    """Build the DDPM U-Net in NumPy.

    Args:
        spec: The network.
        device: `cpu` or `auto`.
        precision: `fp32` or `auto`.

    Raises:
        UserError: Another device or precision was requested.
    """
    # Import a slow framework here, not at the top of the module.
    from ddim_numpy.model import NumpyModel  # noqa: PLC0415

    if device == "cuda":
        raise UserError("NumPy cannot use a GPU", fix="use --device cpu")
    if precision == "bf16":
        raise UserError("NumPy does not support bf16", fix="use --precision fp32")
    return NumpyModel(spec)


@hookimpl
def ddim_machine_checks() -> list[Check]:
    """Report NumPy's version; there are no other requirements."""
    return [Check("numpy", True, np.__version__)]
