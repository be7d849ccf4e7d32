"""The computation of the network, written once in terms of a framework's operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework.unet.description import (
        Attention,
        Conv,
        GroupNorm,
        Linear,
        ResNet,
        UNet,
    )
    from ddim_host.framework.unet.spec import UNetSpec

Tensor = TypeVar("Tensor", bound=Any)


class Layers(Protocol[Tensor]):
    """Operations that each framework implements, on tensors `(B, C, H, W)` and the network's parameters."""

    def conv(
        self, layer: Conv, x: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Convolve with the layer's stride and padding, then add `shift` and `residual` if given.

        Args:
            layer: The layer.
            x: `(B, C, H, W)`.
            shift: `(B, C')`, added to every pixel.
            residual: `(B, C', H', W')`, the shape of the result.
        """
        ...

    def linear(self, layer: Linear, x: Tensor) -> Tensor:
        """Apply a dense layer to the last axis."""
        ...

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        """Normalise, scale and shift, then apply x sigmoid(x) if `silu` is true."""
        ...

    def conv_norm_dropout(self, conv: Conv, norm: GroupNorm, x: Tensor, *, shift: Tensor) -> Tensor:
        """Convolve, add `shift`, normalise and apply x sigmoid(x); in training, also apply dropout."""
        ...

    def modulate_dropout(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        """Compute x (1 + scale) + shift and apply x sigmoid(x); in training, also apply dropout.

        Args:
            x: `(B, C, H, W)`.
            scale_shift: `(B, 2C)`, the scales of all channels, then their shifts.
        """
        ...

    def silu(self, x: Tensor) -> Tensor:
        """Compute x sigmoid(x)."""
        ...

    def self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        """Attend from every pixel to all pixels; includes the projections but not the norm or residual."""
        ...

    def upsample(self, x: Tensor) -> Tensor:
        """Double height and width by repeating pixels."""
        ...

    def concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenate along the channel axis."""
        ...


def run_unet(unet: UNet, layers: Layers[Tensor], x_t: Tensor, time_embedding: Tensor) -> Tensor:
    """Run the network.

    Args:
        unet: The network's description.
        layers: A framework's operations, with the parameters.
        x_t: `(B, C, H, W)`.
        time_embedding: `(B, base_channels)`, rows of `time_embedding_table`.

    Returns:
        The prediction, `(B, C, H, W)`.
    """
    time = layers.silu(layers.linear(unet.time_linear_1, time_embedding))
    # Every residual block uses the silu of the time embedding, so it is computed once.
    time = layers.silu(layers.linear(unet.time_linear_2, time))
    x = layers.conv(unet.conv_in, x_t * 2.0 - 1.0 if unet.spec.center_input else x_t)
    skips = [x]
    for level in unet.down:
        for index, resnet in enumerate(level.resnets):
            x = _resnet(layers, resnet, x, time)
            if level.attentions:
                x = _attention(layers, level.attentions[index], x)
            skips.append(x)
        if level.resample is not None:
            x = layers.conv(level.resample, x)
            skips.append(x)
    first, attention, second = unet.middle
    x = _resnet(layers, first, x, time)
    if attention is not None:
        x = _attention(layers, attention, x)
    x = _resnet(layers, second, x, time)
    for level in unet.up:
        for index, resnet in enumerate(level.resnets):
            x = _resnet(layers, resnet, layers.concatenate(x, skips.pop()), time)
            if level.attentions:
                x = _attention(layers, level.attentions[index], x)
        if level.resample is not None:
            x = layers.conv(level.resample, layers.upsample(x))
    return layers.conv(unet.conv_out, layers.group_norm(unet.conv_norm_out, x, silu=True))


def _resnet(layers: Layers[Tensor], block: ResNet, x: Tensor, time: Tensor) -> Tensor:
    shift = layers.linear(block.time_emb_proj, time)
    hidden = layers.group_norm(block.norm1, x, silu=True)
    if block.scale_shift:
        normalised = layers.group_norm(block.norm2, layers.conv(block.conv1, hidden), silu=False)
        hidden = layers.modulate_dropout(normalised, shift)
    else:
        hidden = layers.conv_norm_dropout(block.conv1, block.norm2, hidden, shift=shift)
    shortcut = x if block.conv_shortcut is None else layers.conv(block.conv_shortcut, x)
    return _scaled(layers.conv(block.conv2, hidden, residual=shortcut), block.scale_factor)


def _attention(layers: Layers[Tensor], block: Attention, x: Tensor) -> Tensor:
    normalised: Tensor = x if block.group_norm is None else layers.group_norm(block.group_norm, x, silu=False)
    result: Tensor = x + layers.self_attention(block, normalised)
    return _scaled(result, block.scale_factor)


def _scaled(x: Tensor, factor: float) -> Tensor:
    result: Tensor = x if factor == 1.0 else x / factor
    return result


def time_embedding_table(spec: UNetSpec) -> NDArray[np.float32]:
    """Compute the sines and cosines of every timestep (arXiv 1706.03762, section 3.5, as in DDPM).

    Row t contains all `sin(t w_k)`, then all `cos(t w_k)`, or the reverse with `flip_sin_to_cos`, where
    `w_k = 10000^(-k / (n - freq_shift))` for k < n = base_channels / 2.

    Args:
        spec: The network.

    Returns:
        float32 `(T, base_channels)`, computed in float64.
    """
    half = spec.base_channels // 2
    frequencies = np.exp(-math.log(10000.0) * np.arange(half) / (half - spec.freq_shift))
    angles = np.arange(spec.num_train_timesteps)[:, None] * frequencies[None, :]
    parts = [np.sin(angles), np.cos(angles)]
    ordered = parts[::-1] if spec.flip_sin_to_cos else parts
    return np.concatenate(ordered, axis=1).astype(np.float32)
