"""Convolutions of bf16 images with oneDNN, for processors with bf16 instructions.

Jittor's own oneDNN operations support only fp32. These multiply bf16 numbers, sum in fp32 and round the
results. Images are `(B, H, W, C)`.
"""

from __future__ import annotations

from pathlib import Path

import jittor as jt

from ddim_host.framework import DECLARATIONS
from ddim_jittor.kernel_operators import call, gradients_of_added

_HEADER = DECLARATIONS + Path(__file__).with_name("onednn.h").read_text(encoding="utf-8")


class _Convolution(jt.Function):
    """Convolution with bias, shift and residual in one operation."""

    def __init__(self, stride: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self._stride = stride
        self._padding = padding

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, shift: jt.Var | None, residual: jt.Var | None
    ) -> jt.Var:
        self._saved = x, weight
        self._added = shift is not None, residual is not None
        before, after = self._padding
        batch, *sides, _ = x.shape
        height, width = ((side + before + after - weight.shape[2]) // self._stride + 1 for side in sides)
        source = self._source("in0", "in1", "out0", "forward_pass(in0_p, in1_p, in2_p, out0_p)")
        inputs = [x, weight, bias]
        if any(self._added):
            pointers = []
            for added in (shift, residual):
                pointers.append("nullptr" if added is None else f"in{len(inputs)}_p")
                inputs += [] if added is None else [added]
            sizes = "out0_shape0, out0_shape1 * out0_shape2, out0_shape3"
            source += f"ddim_add(out0_p, nullptr, {', '.join(pointers)}, {sizes}, true);"
        return call(inputs, source, images=[(batch, height, width, weight.shape[0])], header=_HEADER)[0]

    def grad(self, grad_y: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight = self._saved
        assert str(grad_y.dtype) == "bfloat16"
        source = self._source("out0", "in1", "in0", "gradient_of_image(in0_p, in1_p, out0_p)")
        (grad_x,) = call([grad_y, weight], source, images=[x.shape], header=_HEADER)
        source = self._source("in0", "out0", "in1", "gradient_of_weights(in0_p, in1_p, out0_p)")
        (grad_weight,) = call([x, grad_y], source, floats=[weight.shape], header=_HEADER)
        return grad_x, grad_weight, *gradients_of_added(grad_y, *self._added)

    def _source(self, x: str, weight: str, y: str, call_of: str) -> str:
        """Return C++ that calls a method; sizes are runtime values, so one kernel serves all sizes."""
        dims = (
            f"{{{', '.join(f'{name}_shape{axis}' for axis in axes)}}}"
            for name, axes in ((x, (0, 3, 1, 2)), (weight, range(4)), (y, (0, 3, 1, 2)))
        )
        before, after = self._padding
        return f"Convolution({', '.join(dims)}, {self._stride}, {before}, {after}).{call_of};"


def convolve(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    shift: jt.Var | None = None,
    residual: jt.Var | None = None,
) -> jt.Var:
    """Convolve, then add the bias, and shift and residual if given. The weight is rounded to bf16.

    Args:
        x: bf16 `(B, H, W, in)`.
        weight: fp32 `(out, in, K, K)`.
        bias: fp32 `(out,)`.
        stride: Stride in both directions.
        padding: Number of zeros before and after, in both directions.
        shift: fp32 `(B, out)`, or None.
        residual: bf16 `(B, H', W', out)`, or None.

    Returns:
        bf16 `(B, H', W', out)`.
    """
    return _Convolution(stride, padding)(x, weight, bias, shift, residual)
