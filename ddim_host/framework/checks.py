"""Checks of the machine, each shown as one line by `ddim-host doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from ddim_host.errors import UserError
from ddim_host.framework.kernels import cpu_kernels
from ddim_host.framework.precision import cpu_precision
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
    """Describe bf16 on this processor, and what `auto` selects; compile the kernels first if necessary."""
    flags = processor_flags().split()
    try:
        kernels = cpu_kernels()
        auto = cpu_precision("auto", kernels)
    except UserError as error:
        return Check.failed("bf16 on the CPU", error)
    if "amx_bf16" in flags:
        found = "matrix units (AMX)"
        if kernels is None:
            found += ", unused without the host's kernels"
        elif not kernels.has_matrix_units():
            found += ", which the compiler or the operating system does not support"
    else:
        instructions = "AVX512_BF16" if "avx512_bf16" in flags else "no bf16 instructions"
        found = f"{instructions}, no matrix units (AMX)"
    return Check("bf16 on the CPU", True, f"{found}; auto selects {auto}")
