"""The operations of the U-Net in NumPy, each with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.framework import LayersBase
from ddim_numpy.tensor import Tensor, result

if TYPE_CHECKING:
    from ddim_host.framework import Attention, Conv, GroupNorm, Linear
    from ddim_numpy.tensor import Array

__all__ = ["NumpyLayers"]


class NumpyLayers(LayersBase[Tensor]):
    """Apply layers by name to tensors `(B, C, H, W)`; see `ddim_host.framework.Layers`."""

    def _convolve(self, layer: Conv, x: Tensor) -> Tensor:
        """Convolve with one matrix product, in which each row is the neighbourhood of a pixel (im2col)."""
        weight, bias = self._weight_and_bias(layer.name)
        kernel, stride = layer.kernel, layer.stride
        before, after = layer.padding
        # With the channels last, memory is copied in long contiguous runs.
        image = x.array.transpose(0, 2, 3, 1)
        padded = np.pad(image, ((0, 0), (before, after), (before, after), (0, 0)))
        batch = len(padded)
        height, width = ((size - kernel) // stride + 1 for size in padded.shape[1:3])
        # The pixels multiplied by each element of the kernel.
        places = [
            np.s_[:, row : row + stride * height : stride, column : column + stride * width : stride]
            for row in range(kernel)
            for column in range(kernel)
        ]
        rows = np.concatenate([padded[place] for place in places], axis=3).reshape(batch * height * width, -1)
        matrix = weight.array.transpose(2, 3, 1, 0).reshape(-1, layer.out_channels)
        out = (rows @ matrix + bias.array).reshape(batch, height, width, -1).transpose(0, 3, 1, 2)

        def flat(g: Array) -> Array:
            return g.transpose(0, 2, 3, 1).reshape(-1, layer.out_channels)

        def to_input(g: Array) -> Array:
            shares = (flat(g) @ matrix.T).reshape(batch, height, width, len(places), -1)
            gradient = np.zeros_like(padded)
            for index, place in enumerate(places):
                gradient[place] += shares[..., index, :]
            inner = np.s_[:, before : before + x.shape[2], before : before + x.shape[3]]
            return gradient[inner].transpose(0, 3, 1, 2)

        def to_weight(g: Array) -> Array:
            shares = (rows.T @ flat(g)).reshape(kernel, kernel, -1, layer.out_channels)
            gradient: Array = shares.transpose(3, 2, 0, 1)
            return gradient

        return result(
            np.ascontiguousarray(out),
            (x, to_input),
            (weight, to_weight),
            (bias, lambda g: g.sum((0, 2, 3))),
        )

    def linear(self, layer: Linear, x: Tensor) -> Tensor:
        """Apply a dense layer as one matrix product."""
        weight, bias = self._weight_and_bias(layer.name)

        def flat(array: Array) -> Array:
            return array.reshape(-1, array.shape[-1])

        return result(
            x.array @ weight.array.T + bias.array,
            (x, lambda g: g @ weight.array),
            (weight, lambda g: flat(g).T @ flat(x.array)),
            (bias, lambda g: flat(g).sum(0)),
        )

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        """See `ddim_host.framework.Layers`, which also documents the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        groups = (x.shape[0], layer.groups, -1)
        per_channel = (1, -1, 1, 1)
        grouped = x.array.reshape(groups)
        deviation: Array = np.sqrt(grouped.var(2, keepdims=True) + layer.eps)
        normal: Array = (grouped - grouped.mean(2, keepdims=True)) / deviation

        def to_input(g: Array) -> Array:
            # Mean and deviation of a group are fixed, so the components of the gradient that would change
            # them are removed.
            g = (g * weight.array.reshape(per_channel)).reshape(groups)
            along = g.mean(2, keepdims=True) + normal * (g * normal).mean(2, keepdims=True)
            gradient: Array = ((g - along) / deviation).reshape(x.shape)
            return gradient

        spread = normal.reshape(x.shape)
        normalised = result(
            spread * weight.array.reshape(per_channel) + bias.array.reshape(per_channel),
            (x, to_input),
            (weight, lambda g: (g * spread).sum((0, 2, 3))),
            (bias, lambda g: g.sum((0, 2, 3))),
        )
        return self.silu(normalised) if silu else normalised

    def silu(self, x: Tensor) -> Tensor:
        tanh: Array = np.tanh(0.5 * x.array)
        sigmoid: Array = 0.5 + 0.5 * tanh  # this form does not overflow
        slope: Array = sigmoid + x.array * sigmoid * (1.0 - sigmoid)
        return result(x.array * sigmoid, (x, lambda g: g * slope))

    def dropout(self, x: Tensor) -> Tensor:
        if self._dropout is None:
            return x
        probability = self._dropout.probability
        rng = np.random.default_rng(self._dropout.next_seed())
        keep = rng.random(x.shape, dtype=np.float32) >= probability
        return x * (keep.astype(np.float32) / np.float32(1.0 - probability))

    def self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.reshape((batch, channels, height * width)).transpose((0, 2, 1))

        def heads(projection: Linear) -> Tensor:
            projected = self.linear(projection, tokens)
            return projected.reshape((batch, height * width, layer.heads, -1)).transpose((0, 2, 1, 3))

        attended = _attend(heads(layer.to_q), heads(layer.to_k), heads(layer.to_v))
        joined = attended.transpose((0, 2, 1, 3)).reshape((batch, height * width, channels))
        return self.linear(layer.to_out, joined).transpose((0, 2, 1)).reshape(x.shape)

    def upsample(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        doubled = x.array.repeat(2, axis=2).repeat(2, axis=3)

        def to_input(g: Array) -> Array:
            gradient: Array = g.reshape(batch, channels, height, 2, width, 2).sum((3, 5))
            return gradient

        return result(doubled, (x, to_input))

    def concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        channels = x.shape[1]
        return result(
            np.concatenate([x.array, skip.array], axis=1),
            (x, lambda g: g[:, :channels]),
            (skip, lambda g: g[:, channels:]),
        )


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `softmax(q k^T / sqrt(d)) v`, each `(B, heads, N, d)` (arXiv 1706.03762, equation 1)."""
    scale = float(q.shape[-1] ** -0.5)
    logits = scale * (q.array @ k.array.swapaxes(2, 3))
    shares: Array = np.exp(logits - logits.max(3, keepdims=True))
    shares /= shares.sum(3, keepdims=True)

    def to_logits(g: Array) -> Array:
        to_shares = g @ v.array.swapaxes(2, 3)
        gradient: Array = scale * shares * (to_shares - (to_shares * shares).sum(3, keepdims=True))
        return gradient

    return result(
        shares @ v.array,
        (q, lambda g: to_logits(g) @ k.array),
        (k, lambda g: to_logits(g).swapaxes(2, 3) @ q.array),
        (v, lambda g: shares.swapaxes(2, 3) @ g),
    )
