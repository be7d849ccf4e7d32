"""GPU kernels in Triton: the operations between the convolutions of the network.

PyTorch normalises, activates and adds in separate passes over memory, some of them in another layout. These
kernels need one or two passes. Tensors are images `(B, C, H, W)` with the channels last in memory, in fp32 or
bf16; sums are fp32.
"""

# Triton compiles the functions below as its own language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = 64
"""Maximum number of channels in a tile: 128 bytes in bf16, one line of the GPU's cache."""

_WHOLE_TILE = 16384
"""Maximum number of elements in a tile with all pixels of one or more groups, which is read once."""

_SPLIT_TILE = 2048
"""Number of elements in a tile of larger images: one kernel computes sums, and a second one the results."""

_MOST_CHUNKS = 8
_BLOCK = 4096


@triton.jit
def _channels(block, channels, WIDTH: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """Return the groups and channels of a program, `(GROUPS * LANES,)`, and a mask of those that exist."""
    at = tl.arange(0, GROUPS * LANES)
    group = block * GROUPS + at // LANES
    if WIDTH == LANES:
        # The compiler sees that these are contiguous, and reads 16 bytes at once.
        channel = block * (GROUPS * WIDTH) + at
        return group, channel, channel < channels
    channel = group * WIDTH + at % LANES
    return group, channel, (at % LANES < WIDTH) & (channel < channels)


@triton.jit
def _load(pointer, offsets, exists):
    return tl.load(pointer + offsets, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, offsets, values, exists):
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=exists)


@triton.jit
def _group_sums(of_channels, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """Return the sum over each group, repeated for all its channels."""
    sums = tl.sum(tl.reshape(of_channels, (GROUPS, LANES)), axis=1)
    return tl.reshape(tl.broadcast_to(sums[:, None], (GROUPS, LANES)), (GROUPS * LANES,))


@triton.jit
def _load_added(x_ptr, added, offsets, exists, ADDED: tl.constexpr):
    x = _load(x_ptr, offsets, exists)
    if ADDED:
        x += added[None, :]
    return x


@triton.jit
def _kept(offsets, seed_ptr, layer, first, limit, scale):
    """Return the dropout factors, computed with the same hash and mask as in the host's `dropout.h`."""
    seed = (tl.load(seed_ptr) + layer).to(tl.uint64)
    seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9
    seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB
    seed = seed ^ (seed >> 31)
    bits = (offsets + first).to(tl.uint32) * 0x9E3779B1 + seed.to(tl.uint32)
    bits = bits ^ (bits >> 16)
    bits = bits * 0x7FEB352D + (seed >> 32).to(tl.uint32)
    bits = bits ^ (bits >> 15)
    bits = bits * 0x846CA68B
    bits = bits ^ (bits >> 16)
    return tl.where(bits.to(tl.int64) >= limit, scale, 0.0)


@triton.jit
def _moments_kernel(
    x_ptr, partial_ptr, pixels, channels, chunk,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Compute each channel's mean and sum of squared deviations over one chunk of an image's pixels."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    _, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    start = number * chunk
    end = tl.minimum(start + chunk, pixels)
    x_ptr += image.to(tl.int64) * pixels * channels
    # Sum the differences from one of the values, so that their squares are of the order of the variance.
    pivot = _load(x_ptr, start * channels + channel, is_channel)
    sums = tl.zeros((PIXELS, GROUPS * LANES), dtype=tl.float32)
    squares = tl.zeros((PIXELS, GROUPS * LANES), dtype=tl.float32)
    for first in range(start, end, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        exists = (pixel < pixels)[:, None] & is_channel[None, :]
        x = _load(x_ptr, pixel[:, None] * channels + channel[None, :], exists)
        difference = tl.where(exists, x - pivot[None, :], 0.0)
        sums += difference
        squares += difference * difference
    mean = tl.sum(sums, axis=0) / (end - start)
    deviation = tl.maximum(tl.sum(squares, axis=0) - mean * mean * (end - start), 0.0)
    partial = partial_ptr + (image * tl.num_programs(2) + number) * 2 * channels + channel
    tl.store(partial, pivot + mean, mask=is_channel)
    tl.store(partial + channels, deviation, mask=is_channel)


@triton.jit
def _normalise(
    x, offsets, mean, scale, weight, bias,
    seed_ptr, layer, first_element, limit, scale_kept, SILU: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    y = (x - mean[None, :]) * scale[None, :] * weight[None, :] + bias[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    if DROPOUT:
        y = y * _kept(offsets, seed_ptr, layer, first_element, limit, scale_kept)
    return y


@triton.jit
def _group_norm_kernel(
    x_ptr, added_ptr, weight_ptr, bias_ptr, y_ptr, statistics_ptr, partial_ptr, pixels, channels, chunk, eps,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, ADDED: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Normalise groups over one chunk of an image's pixels; store mean and 1 / deviation of each group."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    groups = channels // WIDTH
    start = number * chunk
    begin = image.to(tl.int64) * pixels * channels
    pixel = start + tl.arange(0, PIXELS)
    offsets = begin + pixel[:, None] * channels + channel[None, :]
    exists = (pixel < pixels)[:, None] & is_channel[None, :]
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    added = tl.zeros((GROUPS * LANES,), dtype=tl.float32)
    if ADDED:
        added = _load(added_ptr, image * channels + channel, is_channel)
    x = _load_added(x_ptr, added, offsets, exists, ADDED)
    size = pixels * WIDTH * 1.0
    if CHUNKS == 1:
        mean = _group_sums(tl.sum(tl.where(exists, x, 0.0), axis=0), GROUPS, LANES) / size
        deviation = tl.where(exists, x - mean[None, :], 0.0)
        squares = _group_sums(tl.sum(deviation * deviation, axis=0), GROUPS, LANES)
    else:
        each = tl.arange(0, CHUNKS)[:, None]
        is_chunk = (each * chunk < pixels) & is_channel[None, :]
        partial = (image * tl.num_programs(2) + each) * 2 * channels + channel[None, :]
        # Means and squares of the chunks are combined as in Chan et al. (1979), without cancellation.
        means = _load(partial_ptr, partial, is_chunk)
        count = tl.maximum(tl.minimum(pixels - each * chunk, chunk), 0) * 1.0
        mean = tl.sum(means * count, axis=0) / pixels
        off = means - mean[None, :]
        squares = tl.sum(_load(partial_ptr, partial + channels, is_chunk) + off * off * count, axis=0)
        of_channel = mean + added
        mean = _group_sums(of_channel, GROUPS, LANES) / WIDTH
        off_group = tl.where(is_channel, of_channel - mean, 0.0)
        squares = _group_sums(squares + off_group * off_group * pixels, GROUPS, LANES)
    scale = 1.0 / tl.sqrt(squares / size + eps)
    if number == 0:
        statistics = statistics_ptr + (image * groups + group) * 2
        tl.store(statistics, mean, mask=is_channel)
        tl.store(statistics + 1, scale, mask=is_channel)
    y = _normalise(
        x,
        offsets,
        mean,
        scale,
        weight,
        bias,
        seed_ptr,
        layer,
        first_element,
        limit,
        scale_kept,
        SILU,
        DROPOUT,
    )
    _store(y_ptr, offsets, y, exists)
    if TILES > 1:
        for first in range(start + PIXELS, tl.minimum(start + chunk, pixels), PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            offsets = begin + pixel[:, None] * channels + channel[None, :]
            exists = (pixel < pixels)[:, None] & is_channel[None, :]
            y = _normalise(
                _load_added(x_ptr, added, offsets, exists, ADDED), offsets, mean, scale, weight, bias,
                seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT,
            )  # fmt: skip
            _store(y_ptr, offsets, y, exists)


@triton.jit
def _back_to_normalised(
    x_ptr, added, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, ADDED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Return the normalised input, and the gradient with respect to its scaled and shifted form."""
    x = _load_added(x_ptr, added, offsets, exists, ADDED)
    grad = _load(grad_y_ptr, offsets, exists)
    normalised = tl.where(exists, (x - mean[None, :]) * scale[None, :], 0.0)
    if DROPOUT:
        grad = grad * _kept(offsets, seed_ptr, layer, first_element, limit, scale_kept)
    if SILU:
        z = normalised * weight[None, :] + bias[None, :]
        sigmoid = tl.sigmoid(z)
        grad = grad * sigmoid * (1.0 + z * (1.0 - sigmoid))
    return normalised, grad


@triton.jit
def _grad_sums_kernel(
    x_ptr, added_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_y_ptr, sums_ptr, pixels, channels, chunk,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, ADDED: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of weight and bias, and the normalised input, over one chunk of an image's pixels."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    statistics = statistics_ptr + (image * (channels // WIDTH) + group) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)
    scale = tl.load(statistics + 1, mask=is_channel, other=0.0)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    added = tl.zeros((GROUPS * LANES,), dtype=tl.float32)
    if ADDED:
        added = _load(added_ptr, image * channels + channel, is_channel)
    begin = image.to(tl.int64) * pixels * channels
    start = number * chunk
    grad_weight = tl.zeros((PIXELS, GROUPS * LANES), dtype=tl.float32)
    grad_bias = tl.zeros((PIXELS, GROUPS * LANES), dtype=tl.float32)
    total = tl.zeros((PIXELS, GROUPS * LANES), dtype=tl.float32)
    for first in range(start, tl.minimum(start + chunk, pixels), PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        offsets = begin + pixel[:, None] * channels + channel[None, :]
        exists = (pixel < pixels)[:, None] & is_channel[None, :]
        normalised, grad = _back_to_normalised(
            x_ptr, added, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
            seed_ptr, layer, first_element, limit, scale_kept, SILU, ADDED, DROPOUT,
        )  # fmt: skip
        grad_weight += grad * normalised
        grad_bias += grad
        if ADDED:
            total += normalised
    sums = sums_ptr + (image * tl.num_programs(2) + number) * 3 * channels + channel
    tl.store(sums, tl.sum(grad_weight, axis=0), mask=is_channel)
    tl.store(sums + channels, tl.sum(grad_bias, axis=0), mask=is_channel)
    if ADDED:
        tl.store(sums + 2 * channels, tl.sum(total, axis=0), mask=is_channel)


@triton.jit
def _group_norm_grad_kernel(
    x_ptr, added_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_y_ptr, grad_x_ptr, sums_ptr,
    grad_added_ptr, grad_weight_ptr, grad_bias_ptr, stride, pixels, channels, chunk,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, ADDED: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the input for one chunk of pixels, and those of weight, bias and `added`."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    statistics = statistics_ptr + (image * (channels // WIDTH) + group) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)
    scale = tl.load(statistics + 1, mask=is_channel, other=0.0)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    added = tl.zeros((GROUPS * LANES,), dtype=tl.float32)
    if ADDED:
        added = _load(added_ptr, image * channels + channel, is_channel)
    start = number * chunk
    begin = image.to(tl.int64) * pixels * channels
    pixel = start + tl.arange(0, PIXELS)
    offsets = begin + pixel[:, None] * channels + channel[None, :]
    exists = (pixel < pixels)[:, None] & is_channel[None, :]
    normalised, grad = _back_to_normalised(
        x_ptr, added, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
        seed_ptr, layer, first_element, limit, scale_kept, SILU, ADDED, DROPOUT,
    )  # fmt: skip
    if CHUNKS == 1:
        grad_weight = tl.sum(grad * normalised, axis=0)
        grad_bias = tl.sum(grad, axis=0)
        total = tl.sum(normalised, axis=0)
    else:
        chunks = tl.num_programs(2)
        each = tl.arange(0, CHUNKS)[:, None]
        sums = (image * chunks + each) * 3 * channels + channel[None, :]
        is_sum = (each < chunks) & is_channel[None, :]
        grad_weight = tl.sum(_load(sums_ptr, sums, is_sum), axis=0)
        grad_bias = tl.sum(_load(sums_ptr, sums + channels, is_sum), axis=0)
        total = grad_bias
        if ADDED:
            total = tl.sum(_load(sums_ptr, sums + 2 * channels, is_sum), axis=0)
    size = pixels * WIDTH * 1.0
    mean_product = _group_sums(grad_weight * weight, GROUPS, LANES) / size
    mean_grad = _group_sums(grad_bias * weight, GROUPS, LANES) / size
    if number == 0:
        tl.store(grad_weight_ptr + image * stride + channel, grad_weight, mask=is_channel)
        tl.store(grad_bias_ptr + image * stride + channel, grad_bias, mask=is_channel)
        if ADDED:
            grad_added = scale * (weight * grad_bias - mean_grad * pixels - mean_product * total)
            tl.store(grad_added_ptr + image * channels + channel, grad_added, mask=is_channel)
    grad_x = grad * weight[None, :] - mean_grad[None, :] - normalised * mean_product[None, :]
    _store(grad_x_ptr, offsets, grad_x * scale[None, :], exists)
    if TILES > 1:
        for first in range(start + PIXELS, tl.minimum(start + chunk, pixels), PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            offsets = begin + pixel[:, None] * channels + channel[None, :]
            exists = (pixel < pixels)[:, None] & is_channel[None, :]
            normalised, grad = _back_to_normalised(
                x_ptr, added, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
                seed_ptr, layer, first_element, limit, scale_kept, SILU, ADDED, DROPOUT,
            )  # fmt: skip
            grad_x = grad * weight[None, :] - mean_grad[None, :] - normalised * mean_product[None, :]
            _store(grad_x_ptr, offsets, grad_x * scale[None, :], exists)


@triton.jit
def _add_kernel(
    x_ptr, bias_ptr, residual_ptr, size, channels, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Add a bias per channel, and optionally an image, in place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < size
    y = _load(x_ptr, at, exists) + _load(bias_ptr, at % channels, exists)
    if RESIDUAL:
        y += _load(residual_ptr, at, exists)
    _store(x_ptr, at, y, exists)


@triton.jit
def _dropout_kernel(
    x_ptr, y_ptr, size, seed_ptr, layer, first_element, limit, scale_kept, BLOCK: tl.constexpr
):  # fmt: skip
    """Drop elements; the mask is a function of their position in memory."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < size
    y = _load(x_ptr, at, exists) * _kept(at, seed_ptr, layer, first_element, limit, scale_kept)
    _store(y_ptr, at, y, exists)


@dataclass(frozen=True)
class Dropped:
    """Dropout of one layer.

    Attributes:
        seed: int64 `()`, the seed of the step.
        layer: Index of the dropout layer in the network, from 0; with `seed` it determines the mask.
        first: Index of the first element in the whole batch.
        probability: Probability that an element is dropped, in (0, 1).
    """

    seed: Tensor
    layer: int
    first: int
    probability: float


@dataclass(frozen=True)
class _Tile:
    """Division of an image's elements among programs.

    Attributes:
        width: Channels per group.
        pixels: Pixels read at once, a power of 2.
        groups: Groups per program, a power of 2.
        lanes: `width`, rounded up to a power of 2.
        chunk: Pixels per program.
        chunks: Programs that share the pixels of an image.
    """

    width: int
    pixels: int
    groups: int
    lanes: int
    chunk: int
    chunks: int

    @classmethod
    def of(cls, x: Tensor, groups: int) -> _Tile:
        _, channels, height, width_of_image = x.shape
        all_pixels, width = height * width_of_image, channels // groups
        lanes = triton.next_power_of_2(width)
        together = min(triton.next_power_of_2(groups), max(1, _CHANNELS // lanes))
        pixels = triton.next_power_of_2(all_pixels)
        if pixels * together * lanes <= _WHOLE_TILE:
            return cls(width, pixels, together, lanes, pixels, 1)
        pixels = max(1, _SPLIT_TILE // (together * lanes))
        chunk = pixels * triton.cdiv(all_pixels, pixels * _MOST_CHUNKS)
        return cls(width, pixels, together, lanes, chunk, triton.cdiv(all_pixels, chunk))

    def grid(self, images: int, groups: int) -> tuple[int, int, int]:
        return images, triton.cdiv(groups, self.groups), self.chunks

    @property
    def sizes(self) -> dict[str, int]:
        elements = self.pixels * self.groups * self.lanes
        return {
            "WIDTH": self.width,
            "PIXELS": self.pixels,
            "GROUPS": self.groups,
            "LANES": self.lanes,
            "num_warps": max(1, elements // (512 if self.chunks > 1 else 2048)),
        }


def _dropout_arguments(x: Tensor, dropped: Dropped | None) -> tuple[object, ...]:
    if dropped is None:
        return x, 0, 0, 0, 1.0
    probability = float(np.float32(dropped.probability))  # as in the kernels of the host
    limit, scale = int(probability * 2**32), 1.0 / (1.0 - probability)
    return dropped.seed, dropped.layer, dropped.first, limit, scale


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    silu: bool,
    added: Tensor | None = None,
    dropped: Dropped | None = None,
) -> tuple[Tensor, Tensor]:
    """Add, normalise, scale and shift; then apply x sigmoid(x) if `silu`, then dropout.

    Args:
        x: `(B, C, H, W)`.
        weight: `(C,)`.
        bias: `(C,)`.
        groups: Number of groups; must divide C.
        eps: Added to the variance.
        silu: Whether to apply x sigmoid(x).
        added: `(B, C)`, added to every pixel of x first.
        dropped: The dropout; None for no dropout.

    Returns:
        The result, and the statistics that `group_norm_grad` needs: fp32 `(B, groups, 2)`.
    """
    batch, channels, height, width = x.shape
    pixels, tile = height * width, _Tile.of(x, groups)
    grid = tile.grid(batch, groups)
    y = torch.empty_like(x)
    statistics = partial = torch.empty((batch, groups, 2), device=x.device)
    if tile.chunks > 1:
        partial = torch.empty((batch, tile.chunks, 2, channels), device=x.device)
        _moments_kernel[grid](x, partial, pixels, channels, tile.chunk, **tile.sizes)
    _group_norm_kernel[grid](
        *(x, x if added is None else added, weight, bias, y, statistics, partial),
        *(pixels, channels, tile.chunk, eps, *_dropout_arguments(x, dropped)),
        SILU=silu,
        ADDED=added is not None,
        DROPOUT=dropped is not None,
        CHUNKS=triton.next_power_of_2(tile.chunks),
        TILES=tile.chunk // tile.pixels,
        **tile.sizes,
    )
    return y, statistics


def group_norm_grad(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    grad_y: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    *,
    silu: bool,
    added: Tensor | None = None,
    dropped: Dropped | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of `group_norm`.

    Args:
        x: `(B, C, H, W)`, the input of `group_norm`.
        weight: `(C,)`.
        bias: `(C,)`.
        statistics: The statistics returned by `group_norm`.
        grad_y: `(B, C, H, W)`.
        grad_weight: fp32 `(B, C)`, a slice of the columns of a larger matrix; receives the gradient of the
            weight for each image.
        grad_bias: The same for the bias, in the same matrix.
        silu: See `group_norm`.
        added: See `group_norm`.
        dropped: See `group_norm`.

    Returns:
        The gradients of x, and of `added` in fp32 `(B, C)`.
    """
    batch, channels, height, width = x.shape
    pixels, groups = height * width, statistics.shape[1]
    tile = _Tile.of(x, groups)
    grid = tile.grid(batch, groups)
    grad_x = torch.empty_like(x)
    grad_added = torch.empty((batch, channels), device=x.device)
    sums = torch.empty((batch, tile.chunks, 3, channels) if tile.chunks > 1 else (1,), device=x.device)
    inputs = x, x if added is None else added, weight, bias, statistics, grad_y
    sizes = pixels, channels, tile.chunk, *_dropout_arguments(x, dropped)
    how: dict[str, object] = {
        "SILU": silu,
        "ADDED": added is not None,
        "DROPOUT": dropped is not None,
        **tile.sizes,
    }
    if tile.chunks > 1:
        _grad_sums_kernel[grid](*inputs, sums, *sizes, **how)
    _group_norm_grad_kernel[grid](
        *(*inputs, grad_x, sums, grad_added, grad_weight, grad_bias, grad_weight.stride(0), *sizes),
        CHUNKS=triton.next_power_of_2(tile.chunks),
        TILES=tile.chunk // tile.pixels,
        **how,
    )
    return grad_x, grad_added


def add_(x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    """Add bias and residual to x, in place.

    Args:
        x: `(B, C, H, W)`.
        bias: `(C,)`.
        residual: `(B, C, H, W)`, or None.
    """
    _add_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
        *(x, bias, x if residual is None else residual, x.numel(), x.shape[1]),
        RESIDUAL=residual is not None,
        BLOCK=_BLOCK,
        num_warps=8,
    )
    return x


def dropout(x: Tensor, dropped: Dropped) -> Tensor:
    """Set random elements to zero, and divide the others by 1 - probability; also used for gradients.

    Args:
        x: `(B, C, H, W)`.
        dropped: The dropout.
    """
    y = torch.empty_like(x)
    _dropout_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
        *(x, y, x.numel(), *_dropout_arguments(x, dropped)), BLOCK=_BLOCK, num_warps=8
    )
    return y
