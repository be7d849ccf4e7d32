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
    """`unet`, under the name that it has in every framework."""
    return {"unet": unet}


def unet(spec: UNetSpec, device: Device, precision: Precision) -> Model:
    """Build the DDPM U-Net in NumPy.

    Args:
        spec: The network.
        device: `cpu` or `auto`.
        precision: `fp32` or `auto`.

    Raises:
        UserError: Something else was asked for.
    """
    # A framework that takes long to import is imported here, not above.
    from ddim_numpy.model import NumpyModel  # noqa: PLC0415

    if device == "cuda":
        raise UserError("NumPy cannot use a GPU", fix="use --device cpu")
    if precision == "bf16":
        raise UserError("NumPy has no bf16", fix="use --precision fp32")
    return NumpyModel(spec)


@hookimpl
def ddim_machine_checks() -> list[Check]:
    """It runs wherever the host runs."""
    return [Check("numpy", True, np.__version__)]
