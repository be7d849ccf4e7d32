"""The parameters of a network, and their initial values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ddim_host.diffusion.randomness import Stream, generator
from ddim_host.framework.unet.description import Attention, Conv, GroupNorm, Level, Linear, ResNet, UNet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Weights: TypeAlias = "dict[str, NDArray[np.float32]]"
"""Parameters by canonical name: the names and layouts of diffusers' `UNet2DModel`."""


@dataclass(frozen=True)
class Parameter:
    """An array of weights or biases.

    Attributes:
        name: Canonical name, as in diffusers' `UNet2DModel`.
        shape: Shape of the array.
        init: `uniform` (variance scaling), `zeros` or `ones`.
    """

    name: str
    shape: tuple[int, ...]
    init: str


def parameters(unet: UNet) -> tuple[Parameter, ...]:
    """List every parameter of the network, in a fixed order."""
    return tuple(parameter for layer in _layers(unet) for parameter in _layer_parameters(layer))


def initial_weights(unet: UNet, seed: int) -> Weights:
    """Compute the initial values of all parameters from a seed; they are the same in every framework.

    As in DDPM, weights are uniform with variance 2 / (fan_in + fan_out), and biases are zero. The last layer
    of every residual branch and of the network is zero, so that each block starts as the identity.

    Args:
        unet: The network.
        seed: The run's seed.

    Returns:
        float32 arrays by canonical name.
    """
    weights: Weights = {}
    for index, parameter in enumerate(parameters(unet)):
        if parameter.init == "uniform":
            fan_out, fan_in = parameter.shape[0], parameter.shape[1]
            receptive_field = math.prod(parameter.shape[2:])
            limit = math.sqrt(6.0 / (receptive_field * (fan_in + fan_out)))
            rng = generator(seed, Stream.INITIAL_WEIGHTS, index=index)
            weights[parameter.name] = rng.uniform(-limit, limit, parameter.shape).astype(np.float32)
        else:
            fill = np.ones if parameter.init == "ones" else np.zeros
            weights[parameter.name] = fill(parameter.shape, dtype=np.float32)
    return weights


def _layers(unet: UNet) -> Iterator[Conv | Linear | GroupNorm]:
    yield unet.conv_in
    yield unet.time_linear_1
    yield unet.time_linear_2
    for level in unet.down:
        yield from _level_layers(level)
    for level in unet.up:
        yield from _level_layers(level)
    first, attention, second = unet.middle
    yield from _block_layers(first)
    if attention is not None:
        yield from _block_layers(attention)
    yield from _block_layers(second)
    yield unet.conv_norm_out
    yield unet.conv_out


def _level_layers(level: Level) -> Iterator[Conv | Linear | GroupNorm]:
    blocks: tuple[ResNet | Attention, ...] = (*level.resnets, *level.attentions)
    for block in blocks:
        yield from _block_layers(block)
    if level.resample is not None:
        yield level.resample


def _block_layers(block: ResNet | Attention) -> Iterator[Conv | Linear | GroupNorm]:
    if isinstance(block, Attention):
        if block.group_norm is not None:
            yield block.group_norm
        yield from (block.to_q, block.to_k, block.to_v, block.to_out)
        return
    yield from (block.norm1, block.conv1, block.time_emb_proj, block.norm2, block.conv2)
    if block.conv_shortcut is not None:
        yield block.conv_shortcut


def _layer_parameters(layer: Conv | Linear | GroupNorm) -> tuple[Parameter, Parameter]:
    if isinstance(layer, GroupNorm):
        shape = (layer.channels,)
        return Parameter(f"{layer.name}.weight", shape, "ones"), Parameter(
            f"{layer.name}.bias", shape, "zeros"
        )
    init = "zeros" if layer.starts_at_zero else "uniform"
    weight: tuple[int, ...]
    if isinstance(layer, Linear):
        weight = (layer.out_features, layer.in_features)
        bias = (layer.out_features,)
    else:
        weight = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        bias = (layer.out_channels,)
    return Parameter(f"{layer.name}.weight", weight, init), Parameter(f"{layer.name}.bias", bias, "zeros")
