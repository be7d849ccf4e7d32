"""The operations of the U-Net on the CPU, on the host's own kernels, with the channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt
import numpy as np

from ddim_host.framework import cached
from ddim_jittor import kernel_operators
from ddim_jittor.attention import attention
from ddim_jittor.layers import JittorLayers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.framework import Attention, Conv, Dropout, GroupNorm, Kernels, Linear


class KernelLayers(JittorLayers):
    """Apply layers by name to images that lie in memory as `(B, H, W, C)`; see `ddim_host.framework.Layers`.

    Args:
        kernels: The host's kernels.
        parameters: Parameters by canonical name.
        dropout: That of a training step; None where there is none.
        transformed: Transformed weights of convolutions by name, kept from call to call; it is filled here.
            None where the parameters change.
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
        """See `ddim_host.framework.Layers`, as for the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.kernel == 3 and layer.stride == 1:
            transformed = cached(
                self._transformed,
                layer.name,
                lambda: kernel_operators.transform(self._kernels, weight, turned=False).stop_grad(),
            )
            weights = weight, bias, transformed
            return kernel_operators.conv3x3(self._kernels, x, weights, shift=shift, residual=residual)
        if layer.kernel == 1:
            # A dense layer over the channels of each pixel, which lie beside each other.
            y = jt.nn.matmul_transpose(x, weight.reshape(weight.shape[:2])) + bias
        else:
            y = self.to_layout(self._convolve(layer, self.from_layout(x)))
        y = y if shift is None else y + self._at_every_pixel(shift)
        return y if residual is None else residual + y

    def group_norm(self, layer: GroupNorm, x: jt.Var, *, silu: bool) -> jt.Var:
        weight, bias = self._weight_and_bias(layer.name)
        return kernel_operators.group_norm(x, weight, bias, groups=layer.groups, eps=layer.eps, silu=silu)

    def dropout(self, x: jt.Var) -> jt.Var:
        dropout = self._dropout
        if dropout is None:
            return x
        halves = np.array([dropout.next_seed(), dropout.first], dtype=np.uint64).view(np.int32)
        return kernel_operators.dropout(x, jt.array(halves).stop_grad(), dropout.probability)

    def self_attention(self, layer: Attention, x: jt.Var) -> jt.Var:
        batch, height, width, channels = x.shape
        pixels = x.reshape((batch, height * width, channels))

        def projected(projection: Linear) -> jt.Var:
            return self.linear(projection, pixels)

        attended = attention(
            projected(layer.to_q), projected(layer.to_k), projected(layer.to_v), heads=layer.heads
        )
        return self.linear(layer.to_out, attended).reshape(x.shape)

    def upsample(self, x: jt.Var) -> jt.Var:
        batch, height, width, channels = x.shape
        return x.reindex([batch, 2 * height, 2 * width, channels], ["i0", "i1/2", "i2/2", "i3"])

    def concatenate(self, x: jt.Var, skip: jt.Var) -> jt.Var:
        return jt.concat([x, skip], dim=3)

    def _at_every_pixel(self, values: jt.Var) -> jt.Var:
        return values.reshape((values.shape[0], 1, 1, -1))
