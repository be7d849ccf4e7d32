"""The choice of precision on a CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from ddim_host.errors import UserError, printable

if TYPE_CHECKING:
    from ddim_host.framework.interface import Precision
    from ddim_host.framework.kernels import Kernels

PRECISION_VARIABLE = "DDIM_HOST_CPU_PRECISION"


def cpu_precision(requested: Precision, kernels: Kernels | None) -> Literal["fp32", "bf16"]:
    """Return the precision of a network on the CPU.

    Args:
        requested: The requested precision. `auto` selects bf16 if the kernels use matrix units (AMX), which
            make it faster than fp32, and fp32 otherwise. `$DDIM_HOST_CPU_PRECISION` overrides `auto`, for
            example to get the same results on different machines.
        kernels: The host's kernels; None if the network does not use them.

    Raises:
        UserError: The variable has an unknown value.
    """
    return resolve_precision(requested, matrix_units=kernels is not None and kernels.has_matrix_units())


def resolve_precision(requested: Precision, *, matrix_units: bool) -> Literal["fp32", "bf16"]:
    """Return the precision of a network on a CPU with or without matrix units; see `cpu_precision`.

    Raises:
        UserError: The variable has an unknown value.
    """
    wanted = os.environ.get(PRECISION_VARIABLE) or "auto"
    if wanted not in ("auto", "fp32", "bf16"):
        raise UserError(
            f"{PRECISION_VARIABLE} must be auto, fp32 or bf16, not {printable(wanted)}",
            fix=f"export {PRECISION_VARIABLE}=auto",
        )
    chosen = wanted if requested == "auto" else requested
    if chosen == "auto":
        chosen = "bf16" if matrix_units else "fp32"
    return "bf16" if chosen == "bf16" else "fp32"
