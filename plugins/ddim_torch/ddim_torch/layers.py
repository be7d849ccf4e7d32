"""The operations of the U-Net in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ddim_host.framework import LayersBase

if TYPE_CHECKING:
    from ddim_host.framework import Attention, Conv, GroupNorm, Linear


class TorchLayers(LayersBase[Tensor]):
    """Apply layers by name to tensors `(B, C, H, W)`; see `ddim_host.framework.Layers`."""

    def _convolve(self, layer: Conv, x: Tensor) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        x, padding = padded(layer, x)
        return functional.conv2d(x, weight, bias, layer.stride, padding)

    def linear(self, layer: Linear, x: Tensor) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        return self._dense(x, weight, bias)

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        normalised = functional.group_norm(x, layer.groups, weight, bias, layer.eps)
        return functional.silu(normalised) if silu else normalised

    def silu(self, x: Tensor) -> Tensor:
        return functional.silu(x)

    def dropout(self, x: Tensor) -> Tensor:
        return x if self._dropout is None else functional.dropout(x, self._dropout.probability)

    def self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)

        # One product for all three: wide matrices are faster, and the backward pass sums the gradients of the
        # tokens itself.
        weights, biases = zip(
            *(self._weight_and_bias(part.name) for part in (layer.to_q, layer.to_k, layer.to_v)), strict=True
        )
        projected = self._dense(tokens, torch.cat(weights), torch.cat(biases))
        q, k, v = projected.reshape(batch, height * width, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
        attended = self._attend(q, k, v)
        joined = self.linear(layer.to_out, attended.transpose(1, 2).flatten(2))
        return joined.transpose(1, 2).reshape(batch, channels, height, width)

    def upsample(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="nearest")

    def concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)


def padded(layer: Conv, x: Tensor) -> tuple[Tensor, int]:
    """Add asymmetric padding, which PyTorch's convolutions do not support.

    Args:
        layer: The convolution.
        x: `(B, C, H, W)`.

    Returns:
        The images, and the padding for the convolution to add, equal on all sides.
    """
    before, after = layer.padding
    if before == after:
        return x, before
    return functional.pad(x, (before, after, before, after)), 0


def apply_function(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """Call a custom autograd function."""
    apply: Any = function.apply  # typed only in some releases of PyTorch
    result: Tensor = apply(*arguments)
    return result
