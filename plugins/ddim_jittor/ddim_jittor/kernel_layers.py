"""The operations of the U-Net on the CPU, using the host's kernels, with the channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt
import numpy as np

from ddim_host.framework import cached, processor_flags
from ddim_jittor import kernel_operators, onednn
from ddim_jittor.attention import attention
from ddim_jittor.layers import JittorLayers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.framework import Attention, Conv, Dropout, GroupNorm, Kernels, Linear

_HAS_BF16 = bool({"amx_bf16", "avx512_bf16"} & set(processor_flags().split()))
"""True if the processor has bf16 instructions, so that oneDNN is faster in bf16 than in fp32."""


class KernelLayers(JittorLayers):
    """Apply layers by name to images stored as `(B, H, W, C)`; see `ddim_host.framework.Layers`.

    Between layers, images are either all fp32 or all bf16. Parameters and time embeddings are fp32.
    Operations that neither the host's kernels nor oneDNN compute in bf16 run in fp32, and their results are
    rounded once.

    Args:
        kernels: The host's kernels.
        parameters: Parameters by canonical name.
        dropout: The dropout of a training step; None for no dropout.
        transformed: Cache of transformed convolution weights by name, filled by this class; None if the
            parameters change between calls.
    """

    def __init__(
        self,
        kernels: Kernels,
        parameters: Mapping[str, jt.Var],
        dropout: Dropout | None = None,
        *,
        transformed: dict[str, jt.Var] | None = None,
    ) -> None:
        super().__init__(parameters, dropout)
        self._kernels = kernels
        self._transformed = transformed

    def to_layout(self, x: jt.Var) -> jt.Var:
        return x.transpose(0, 2, 3, 1)

    def from_layout(self, x: jt.Var) -> jt.Var:
        return x.transpose(0, 3, 1, 2)

    def conv(
        self, layer: Conv, x: jt.Var, *, shift: jt.Var | None = None, residual: jt.Var | None = None
    ) -> jt.Var:
        """See `ddim_host.framework.Layers`, which also documents the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.kernel == 3 and layer.stride == 1:
            transformed = cached(
                self._transformed,
                layer.name,
                lambda: kernel_operators.transform(self._kernels, weight, turned=False, like=x).stop_grad(),
            )
            weights = weight, bias, transformed
            return kernel_operators.conv3x3(self._kernels, x, weights, shift=shift, residual=residual)
        if _HAS_BF16 and _is_bf16(x):
            return onednn.convolve(
                *(x, weight, bias),
                stride=layer.stride,
                padding=layer.padding,
                shift=shift,
                residual=residual,
            )
        exact = _fp32(x)
        if layer.kernel == 1:
            # A dense layer over the channels of each pixel, which are contiguous.
            y = jt.nn.matmul_transpose(exact, weight.reshape(weight.shape[:2])) + bias
        else:
            y = self.to_layout(self._convolve(layer, self.from_layout(exact)))
        y = y if shift is None else y + self._at_every_pixel(shift)
        return _like(x, y if residual is None else _fp32(residual) + y)

    def linear(self, layer: Linear, x: jt.Var) -> jt.Var:
        if _HAS_BF16 and _is_bf16(x):
            weight, bias = self._weight_and_bias(layer.name)
            # As a 1 x 1 convolution: `(B, P, C)` is an image of 1 x P pixels.
            image = x.reshape((x.shape[0], 1, *x.shape[1:]))
            y = onednn.convolve(image, weight.reshape((*weight.shape, 1, 1)), bias)
            return y.reshape((*x.shape[:2], -1))
        return _like(x, super().linear(layer, _fp32(x)))

    def group_norm(self, layer: GroupNorm, x: jt.Var, *, silu: bool) -> jt.Var:
        weight, bias = self._weight_and_bias(layer.name)
        return kernel_operators.group_norm(x, weight, bias, groups=layer.groups, eps=layer.eps, silu=silu)

    def dropout(self, x: jt.Var) -> jt.Var:
        dropout = self._dropout
        if dropout is None:
            return x
        halves = np.array([dropout.next_seed(), dropout.first], dtype=np.uint64).view(np.int32)
        return kernel_operators.dropout(x, jt.array(halves).stop_grad(), dropout.probability)

    def modulate_dropout(self, x: jt.Var, scale_shift: jt.Var) -> jt.Var:
        return _like(x, super().modulate_dropout(_fp32(x), scale_shift))

    def self_attention(self, layer: Attention, x: jt.Var) -> jt.Var:
        batch, height, width, channels = x.shape
        pixels = x.reshape((batch, height * width, channels))

        def projected(projection: Linear) -> jt.Var:
            return _fp32(self.linear(projection, pixels))

        attended = attention(
            projected(layer.to_q), projected(layer.to_k), projected(layer.to_v), heads=layer.heads
        )
        return self.linear(layer.to_out, _like(x, attended)).reshape(x.shape)

    def upsample(self, x: jt.Var) -> jt.Var:
        batch, height, width, channels = x.shape
        shape = [batch, 2 * height, 2 * width, channels]
        # In fp32, because its gradient is a sum of four values.
        return _like(x, _fp32(x).reindex(shape, ["i0", "i1/2", "i2/2", "i3"]))

    def concatenate(self, x: jt.Var, skip: jt.Var) -> jt.Var:
        return jt.concat([x, skip], dim=3)

    def _at_every_pixel(self, values: jt.Var) -> jt.Var:
        return values.reshape((values.shape[0], 1, 1, -1))


def _is_bf16(x: jt.Var) -> bool:
    return str(x.dtype) == "bfloat16"


def _fp32(x: jt.Var) -> jt.Var:
    return x.float32() if _is_bf16(x) else x


def _like(x: jt.Var, y: jt.Var) -> jt.Var:
    """Convert y to the dtype of x, rounding if it is bf16."""
    return y.bfloat16() if _is_bf16(x) else y
