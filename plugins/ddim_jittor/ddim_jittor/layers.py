"""The operations of the U-Net in Jittor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt

from ddim_jittor.attention import attention
from ddim_jittor.group_norm import group_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.unet import Attention, Conv, GroupNorm, Linear

__all__ = ["JittorLayers"]


class JittorLayers:
    """Applies layers by name to tensors `(B, C, H, W)`; see `ddim_host.unet.Layers`.

    Args:
        parameters: Parameters by canonical name.
        dropout: Probability; 0 outside of training.
    """

    def __init__(self, parameters: Mapping[str, jt.Var], dropout: float = 0.0) -> None:
        self._parameters = parameters
        self._dropout = dropout

    def conv(
        self, layer: Conv, x: jt.Var, *, shift: jt.Var | None = None, residual: jt.Var | None = None
    ) -> jt.Var:
        """See `ddim_host.unet.Layers`, as for the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.stride == 2:
            x = jt.nn.conv2d(jt.nn.pad(x, [0, 1, 0, 1]), weight, bias, stride=2)
        else:
            x = jt.nn.conv2d(x, weight, bias, padding=layer.kernel // 2)
        x = x if shift is None else x + shift.reshape((*shift.shape, 1, 1))
        return x if residual is None else residual + x

    def linear(self, layer: Linear, x: jt.Var) -> jt.Var:
        weight, bias = self._weight_and_bias(layer.name)
        return jt.nn.matmul_transpose(x, weight) + bias

    def group_norm(self, layer: GroupNorm, x: jt.Var, *, silu: bool) -> jt.Var:
        weight, bias = self._weight_and_bias(layer.name)
        return group_norm(x, weight, bias, groups=layer.groups, silu=silu)

    def silu(self, x: jt.Var) -> jt.Var:
        return x * x.sigmoid()

    def dropout(self, x: jt.Var) -> jt.Var:
        if self._dropout == 0.0:
            return x
        kept = (jt.random(x.shape) >= self._dropout).float32()
        return x * kept * (1.0 / (1.0 - self._dropout))

    def self_attention(self, layer: Attention, x: jt.Var) -> jt.Var:
        batch, channels, height, width = x.shape
        heads = (batch * layer.heads, channels // layer.heads, height * width)
        q, k, v = (
            self._per_pixel(projection, x).reshape(heads)
            for projection in (layer.to_q, layer.to_k, layer.to_v)
        )
        return self._per_pixel(layer.to_out, attention(q, k, v).reshape(x.shape))

    def upsample(self, x: jt.Var) -> jt.Var:
        batch, channels, height, width = x.shape
        # By far the fastest of Jittor's ways, in both directions.
        return x.reindex([batch, channels, 2 * height, 2 * width], ["i0", "i1", "i2/2", "i3/2"])

    def concatenate(self, x: jt.Var, skip: jt.Var) -> jt.Var:
        return jt.concat([x, skip], dim=1)

    def _per_pixel(self, layer: Linear, x: jt.Var) -> jt.Var:
        """A dense layer over the channels of each pixel, as a 1 x 1 convolution: nothing is transposed."""
        weight, bias = self._weight_and_bias(layer.name)
        return jt.nn.conv2d(x, weight.reshape((*weight.shape, 1, 1)), bias)

    def _weight_and_bias(self, name: str) -> tuple[jt.Var, jt.Var]:
        return self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]
