"""Compile the Triton kernels for NVIDIA GPUs, which needs no GPU, and print their sizes.

python -m tests.support.compile_kernels
"""

from __future__ import annotations

import itertools
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile  # noqa: A004 - it is what it does

from ddim_torch import triton_kernels

_TILES = (
    {"WIDTH": 4, "PIXELS": 32, "GROUPS": 16, "LANES": 4},
    {"WIDTH": 12, "PIXELS": 32, "GROUPS": 4, "LANES": 16},
)
_HOW = tuple(
    {"SILU": silu, "ADDED": added, "DROPOUT": added}
    for silu, added in ((True, False), (True, True), (False, False))
)


def main() -> None:
    """Compile every kernel in all variants that are called."""
    kernels: list[tuple[Any, dict[str, Any]]] = []
    for tile in _TILES:
        kernels.append((triton_kernels._moments_kernel, tile))
        kernels += [(triton_kernels._grad_sums_kernel, how | tile) for how in _HOW]
        for how, chunks in itertools.product(_HOW, (1, 8)):
            split = {"CHUNKS": chunks, "TILES": min(chunks, 2)}
            kernels.append((triton_kernels._group_norm_kernel, how | split | tile))
            kernels.append((triton_kernels._group_norm_grad_kernel, how | split | tile))
    kernels += [(triton_kernels._add_kernel, {"RESIDUAL": added, "BLOCK": 4096}) for added in (True, False)]
    kernels.append((triton_kernels._dropout_kernel, {"BLOCK": 4096}))
    for kernel, constants in kernels:
        names = kernel.arg_names
        signature = {name: _type(name) for name in names if name not in constants}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            kernel, signature, {(names.index(name),): value for name, value in constants.items()}
        )
        compiled = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4})
        print(kernel.__name__, constants, len(compiled.asm["cubin"]), "bytes")


def _type(name: str) -> str:
    if name in ("x_ptr", "y_ptr", "grad_x_ptr", "grad_y_ptr", "residual_ptr"):
        return "*bf16"
    if name.endswith("_ptr"):
        return "*i64" if name == "seed_ptr" else "*fp32"
    return "fp32" if name in ("eps", "scale_kept") else "i32"


if __name__ == "__main__":
    main()
