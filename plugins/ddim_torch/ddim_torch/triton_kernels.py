"""Kernels for a GPU, in Triton: what lies between the convolutions of the network.

PyTorch normalises, activates and adds in separate passes over memory, some of them in another layout. Each kernel
here is one pass. Tensors are images `(B, C, H, W)` with the channels last in memory, in fp32 or bf16; sums are fp32.
"""

# Triton reads the functions below as a language of its own: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, N803

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from ddim_host.framework import GROUP_NORM_EPS

if TYPE_CHECKING:
    from torch import Tensor

_TILE_ELEMENTS = 16384
_FEWEST_CHANNELS = 32
_ELEMENTS_PER_WARP = 512
_BLOCK = 4096


@triton.jit
def _tile(
    image, first_pixel, block, pixels, channels,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The offsets of `(PIXELS, GROUPS, LANES)` elements, a group's channels in the last axis, and which exist."""
    pixel = first_pixel + tl.arange(0, PIXELS)[:, None, None]
    group = block * GROUPS + tl.arange(0, GROUPS)[None, :, None]
    lane = tl.arange(0, LANES)[None, None, :]
    offsets = image.to(tl.int64) * pixels * channels + pixel * channels + group * WIDTH + lane
    return offsets, (pixel < pixels) & (group * WIDTH < channels) & (lane < WIDTH)


@triton.jit
def _channels(block, channels, WIDTH: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """The channels of a tile `(GROUPS, LANES)`, and which exist."""
    group = block * GROUPS + tl.arange(0, GROUPS)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    return group * WIDTH + lane, (group * WIDTH < channels) & (lane < WIDTH)


@triton.jit
def _load(pointer, offsets, exists):
    return tl.load(pointer + offsets, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, offsets, values, exists):
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=exists)


@triton.jit
def _group_sums(tile):
    return tl.sum(tl.sum(tile, axis=2), axis=0)


@triton.jit
def _scale_and_shift(x, mean, scale, weight, bias, SILU: tl.constexpr):
    z = (x - mean[None, :, None]) * scale[None, :, None] * weight[None, :, :] + bias[None, :, :]
    if SILU:
        z = z * tl.sigmoid(z)
    return z


@triton.jit
def _group_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, statistics_ptr, pixels, channels, eps,
    SILU: tl.constexpr, ONE_TILE: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Normalise some groups of one image; keep the mean and 1 / deviation of each group."""
    image, block = tl.program_id(0), tl.program_id(1)
    group = block * GROUPS + tl.arange(0, GROUPS)
    offsets, exists = _tile(image, 0, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
    x = _load(x_ptr, offsets, exists)
    count = tl.minimum(pixels, PIXELS) * WIDTH * 1.0
    mean = _group_sums(x) / count
    deviation = tl.where(exists, x - mean[None, :, None], 0.0)
    squares = _group_sums(deviation * deviation)
    if not ONE_TILE:
        for first in range(PIXELS, pixels, PIXELS):
            offsets, exists = _tile(image, first, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
            x = _load(x_ptr, offsets, exists)
            # Means and squares of two parts are combined as Chan et al. (1979) do it: nothing cancels.
            here = tl.minimum(pixels - first, PIXELS) * WIDTH * 1.0
            tile_mean = _group_sums(x) / here
            deviation = tl.where(exists, x - tile_mean[None, :, None], 0.0)
            difference = tile_mean - mean
            total = count + here
            mean += difference * (here / total)
            squares += _group_sums(deviation * deviation) + difference * difference * (count * here / total)
            count = total
    scale = 1.0 / tl.sqrt(squares / count + eps)
    groups = channels // WIDTH
    tl.store(statistics_ptr + (image * groups + group) * 2, mean, mask=group < groups)
    tl.store(statistics_ptr + (image * groups + group) * 2 + 1, scale, mask=group < groups)
    channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    if ONE_TILE:
        _store(y_ptr, offsets, _scale_and_shift(x, mean, scale, weight, bias, SILU), exists)
    else:
        for first in range(0, pixels, PIXELS):
            offsets, exists = _tile(image, first, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
            x = _load(x_ptr, offsets, exists)
            _store(y_ptr, offsets, _scale_and_shift(x, mean, scale, weight, bias, SILU), exists)


@triton.jit
def _back_to_normalised(
    x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias, SILU: tl.constexpr
):  # fmt: skip
    """The normalised input, and the gradient with respect to its scaled and shifted form."""
    x = _load(x_ptr, offsets, exists)
    grad = _load(grad_y_ptr, offsets, exists)
    normalised = tl.where(exists, (x - mean[None, :, None]) * scale[None, :, None], 0.0)
    if SILU:
        z = normalised * weight[None, :, :] + bias[None, :, :]
        sigmoid = tl.sigmoid(z)
        grad = grad * sigmoid * (1.0 + z * (1.0 - sigmoid))
    return normalised, grad


@triton.jit
def _back_to_input(normalised, grad, scale, weight, mean_product, mean_grad):
    centred = grad * weight[None, :, :] - mean_grad[None, :, None] - normalised * mean_product[None, :, None]
    return centred * scale[None, :, None]


@triton.jit
def _group_norm_grad_kernel(
    x_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_y_ptr, grad_x_ptr, grad_weight_ptr, grad_bias_ptr,
    pixels, channels,
    SILU: tl.constexpr, ONE_TILE: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The way back, with the gradients of weight and bias for this image alone."""
    image, block = tl.program_id(0), tl.program_id(1)
    group = block * GROUPS + tl.arange(0, GROUPS)
    groups = channels // WIDTH
    statistics = statistics_ptr + (image * groups + group) * 2
    mean = tl.load(statistics, mask=group < groups, other=0.0)
    scale = tl.load(statistics + 1, mask=group < groups, other=0.0)
    channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    offsets, exists = _tile(image, 0, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
    normalised, grad = _back_to_normalised(
        x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias, SILU
    )
    grad_weight = tl.sum(grad * normalised, axis=0)
    grad_bias = tl.sum(grad, axis=0)
    if not ONE_TILE:
        for first in range(PIXELS, pixels, PIXELS):
            offsets, exists = _tile(image, first, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
            normalised, grad = _back_to_normalised(
                x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias, SILU
            )
            grad_weight += tl.sum(grad * normalised, axis=0)
            grad_bias += tl.sum(grad, axis=0)
    tl.store(grad_weight_ptr + image * channels + channel, grad_weight, mask=is_channel)
    tl.store(grad_bias_ptr + image * channels + channel, grad_bias, mask=is_channel)
    mean_product = tl.sum(grad_weight * weight, axis=1) / (pixels * WIDTH)
    mean_grad = tl.sum(grad_bias * weight, axis=1) / (pixels * WIDTH)
    if ONE_TILE:
        grad_x = _back_to_input(normalised, grad, scale, weight, mean_product, mean_grad)
        _store(grad_x_ptr, offsets, grad_x, exists)
    else:
        for first in range(0, pixels, PIXELS):
            offsets, exists = _tile(image, first, block, pixels, channels, WIDTH, PIXELS, GROUPS, LANES)
            normalised, grad = _back_to_normalised(
                x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias, SILU
            )
            grad_x = _back_to_input(normalised, grad, scale, weight, mean_product, mean_grad)
            _store(grad_x_ptr, offsets, grad_x, exists)


@triton.jit
def _add_kernel(
    x_ptr, bias_ptr, shift_ptr, residual_ptr, size, image_size, channels,
    SHIFT: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add a number for each channel, one for each channel of an image, and an image; in place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < size
    channel = at % channels
    y = _load(x_ptr, at, exists) + _load(bias_ptr, channel, exists)
    if SHIFT:
        y += _load(shift_ptr, at // image_size * channels + channel, exists)
    if RESIDUAL:
        y += _load(residual_ptr, at, exists)
    _store(x_ptr, at, y, exists)


@triton.jit
def _dropout_kernel(x_ptr, y_ptr, seed_ptr, layer, size, first, limit, scale, BLOCK: tl.constexpr):
    """Drop what the host's kernels drop, by the same hash (`dropout.h`): the mask is that of the CPU."""
    seed = (tl.load(seed_ptr) + layer).to(tl.uint64)
    seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9
    seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB
    seed = seed ^ (seed >> 31)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < size
    bits = (at + first).to(tl.uint32) * 0x9E3779B1 + seed.to(tl.uint32)
    bits = bits ^ (bits >> 16)
    bits = bits * 0x7FEB352D + (seed >> 32).to(tl.uint32)
    bits = bits ^ (bits >> 15)
    bits = bits * 0x846CA68B
    bits = bits ^ (bits >> 16)
    x = _load(x_ptr, at, exists)
    _store(y_ptr, at, tl.where(bits.to(tl.int64) >= limit, x * scale, 0.0), exists)


@dataclass(frozen=True)
class Tile:
    """How the groups of an image are shared among programs.

    Attributes:
        width: Channels in a group.
        pixels: Pixels that are read at once, a power of 2.
        groups: Groups of a program, a power of 2.
        lanes: `width` or the next power of 2.
    """

    width: int
    pixels: int
    groups: int
    lanes: int

    @classmethod
    def of(cls, pixels: int, channels: int, groups: int, *, elements: int = _TILE_ELEMENTS) -> Tile:
        """Choose a tile: as many pixels as fit, and neighbouring groups until reads are long enough."""
        width = channels // groups
        lanes = triton.next_power_of_2(width)
        at_once = min(triton.next_power_of_2(pixels), max(1, elements // lanes))
        wanted = min(max(1, _FEWEST_CHANNELS // lanes), triton.next_power_of_2(groups))
        return cls(width, at_once, max(1, min(wanted, elements // (lanes * at_once))), lanes)

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return max(1, min(16, self.pixels * self.groups * self.lanes // _ELEMENTS_PER_WARP))


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, silu: bool) -> tuple[Tensor, Tensor]:
    """Normalise, scale and shift, then x sigmoid(x) if `silu`.

    Args:
        x: `(B, C, H, W)`.
        weight: `(C,)`.
        bias: `(C,)`.
        groups: They divide C.
        silu: Whether to activate.

    Returns:
        The result, and the statistics that `group_norm_grad` needs: fp32 `(B, groups, 2)`.
    """
    batch, channels, height, width = x.shape
    pixels = height * width
    tile = Tile.of(pixels, channels, groups)
    y = torch.empty_like(x)
    statistics = torch.empty((batch, groups, 2), device=x.device)
    _group_norm_kernel[(batch, triton.cdiv(groups, tile.groups))](
        *(x, weight, bias, y, statistics, pixels, channels, GROUP_NORM_EPS),
        SILU=silu,
        ONE_TILE=tile.pixels >= pixels,
        WIDTH=tile.width,
        PIXELS=tile.pixels,
        GROUPS=tile.groups,
        LANES=tile.lanes,
        num_warps=tile.warps,
    )
    return y, statistics


def group_norm_grad(
    x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, grad_y: Tensor, *, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `group_norm` with respect to x, weight and bias.

    Args:
        x: As there, like `weight`, `bias` and `silu`.
        weight: `(C,)`.
        bias: `(C,)`.
        statistics: From there.
        grad_y: `(B, C, H, W)`.
        silu: Whether it activated.
    """
    batch, channels, height, width = x.shape
    pixels, groups = height * width, statistics.shape[1]
    tile = Tile.of(pixels, channels, groups)
    grad_x = torch.empty_like(x)
    of_images = torch.empty((2, batch, channels), device=x.device)
    _group_norm_grad_kernel[(batch, triton.cdiv(groups, tile.groups))](
        *(x, weight, bias, statistics, grad_y, grad_x, of_images[0], of_images[1], pixels, channels),
        SILU=silu,
        ONE_TILE=tile.pixels >= pixels,
        WIDTH=tile.width,
        PIXELS=tile.pixels,
        GROUPS=tile.groups,
        LANES=tile.lanes,
        num_warps=tile.warps,
    )
    grad_weight, grad_bias = of_images.sum(1).to(weight.dtype)
    return grad_x, grad_weight, grad_bias


def add_(x: Tensor, bias: Tensor, shift: Tensor | None, residual: Tensor | None) -> Tensor:
    """Add to x, in place.

    Args:
        x: `(B, C, H, W)`.
        bias: `(C,)`.
        shift: `(B, C)`.
        residual: `(B, C, H, W)`.
    """
    _add_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
        *(x, bias, x if shift is None else shift, x if residual is None else residual),
        *(x.numel(), x[0].numel(), x.shape[1]),
        SHIFT=shift is not None,
        RESIDUAL=residual is not None,
        BLOCK=_BLOCK,
        num_warps=8,
    )
    return x


def dropout(x: Tensor, seed: Tensor, layer: int, *, first: int, probability: float) -> Tensor:
    """Drop elements, and divide the others by 1 - probability.

    Args:
        x: `(B, C, H, W)`.
        seed: int64 `()`, the seed of the step.
        layer: Which of the network's dropouts it is, from 0; with `seed` it determines the mask.
        first: Index of the first element in the whole batch.
        probability: In (0, 1).
    """
    y = torch.empty_like(x)
    _dropout_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
        *(x, y, seed, layer, x.numel(), first, int(probability * 2**32), 1.0 / (1.0 - probability)),
        BLOCK=_BLOCK,
        num_warps=8,
    )
    return y
