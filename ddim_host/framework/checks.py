"""Checks of the machine, each shown as one line by `ddim-host doctor`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ddim_host.errors import UserError
from ddim_host.framework.kernels import KERNELS_VARIABLE
from ddim_host.framework.precision import resolve_precision
from ddim_host.system.machine import processor_flags


@dataclass(frozen=True)
class Check:
    """The result of checking one requirement of a framework.

    Attributes:
        name: Short name of the requirement.
        ok: True if the requirement is met.
        detail: The version or path that was found, or the problem.
        fix: The remedy, if possible a command; empty if the check passed.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""

    @classmethod
    def failed(cls, name: str, error: UserError) -> Check:
        """Return a failed check that reports an error."""
        return cls(name, False, f"{error.what}: {error.why}", error.fix)


def bf16_check() -> Check:
    """Describe bf16 on this processor, and what `auto` would select if the kernels can be compiled."""
    flags = processor_flags().split()
    has_units = "amx_bf16" in flags
    enabled = os.environ.get(KERNELS_VARIABLE) != "framework"
    if has_units:
        found = (
            "matrix units (AMX)" if enabled else "matrix units (AMX), unused because the kernels are disabled"
        )
    else:
        instructions = "AVX512_BF16" if "avx512_bf16" in flags else "no bf16 instructions"
        found = f"{instructions}, no matrix units (AMX)"
    try:
        auto = resolve_precision("auto", matrix_units=has_units and enabled)
    except UserError as error:
        return Check.failed("bf16 on the CPU", error)
    return Check("bf16 on the CPU", True, f"{found}; auto selects {auto}")
