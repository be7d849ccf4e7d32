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

_CHANNELS = 64
"""Channels of a tile, if an image has so many: 128 bytes in bf16, a line of the GPU's cache."""

_WHOLE_TILE = 16384
"""The most elements of a tile with all pixels of some groups, which one kernel reads once."""

_SPLIT_TILE = 4096
"""Elements of a tile of larger images: one kernel takes their sums, a second one computes the results."""

_MOST_CHUNKS = 64
_ELEMENTS_PER_WARP = 512
_BLOCK = 4096


@triton.jit
def _channels(block, channels, WIDTH: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """The groups and channels of a program, `(GROUPS * LANES,)`, and which of them exist."""
    at = tl.arange(0, GROUPS * LANES)
    group = block * GROUPS + at // LANES
    if WIDTH == LANES:
        # Said apart, so that the compiler sees that they lie beside each other: it then reads 16 bytes at once.
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
    """The sum over each group, at all of its channels."""
    sums = tl.sum(tl.reshape(of_channels, (GROUPS, LANES)), axis=1)
    return tl.reshape(tl.broadcast_to(sums[:, None], (GROUPS, LANES)), (GROUPS * LANES,))


@triton.jit
def _moments(x, exists, count, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """The mean of each group, and the sum of its squared deviations from it."""
    mean = _group_sums(tl.sum(x, axis=0), GROUPS, LANES) / count
    deviation = tl.where(exists, x - mean[None, :], 0.0)
    return mean, _group_sums(tl.sum(deviation * deviation, axis=0), GROUPS, LANES)


@triton.jit
def _kept(offsets, seed_ptr, layer, first, limit, scale):
    """What dropout multiplies with: the hash, and so the mask, of the host's kernels (`dropout.h`)."""
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
    """The moments of some groups over one chunk of an image's pixels, at each of a group's channels."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    start = number * chunk
    end = tl.minimum(start + chunk, pixels)
    x_ptr += image.to(tl.int64) * pixels * channels
    pixel = start + tl.arange(0, PIXELS)
    exists = (pixel < pixels)[:, None] & is_channel[None, :]
    count = tl.minimum(end - start, PIXELS) * WIDTH * 1.0
    x = _load(x_ptr, pixel[:, None] * channels + channel[None, :], exists)
    mean, squares = _moments(x, exists, count, GROUPS, LANES)
    for first in range(start + PIXELS, end, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        exists = (pixel < pixels)[:, None] & is_channel[None, :]
        here = tl.minimum(end - first, PIXELS) * WIDTH * 1.0
        x = _load(x_ptr, pixel[:, None] * channels + channel[None, :], exists)
        tile_mean, tile_squares = _moments(x, exists, here, GROUPS, LANES)
        # The moments of two parts are combined as Chan et al. (1979) do it: nothing cancels.
        difference = tile_mean - mean
        total = count + here
        mean += difference * (here / total)
        squares += tile_squares + difference * difference * (count * here / total)
        count = total
    partial = partial_ptr + (image * tl.num_programs(2) + number) * 2 * channels + channel
    tl.store(partial, mean, mask=is_channel)
    tl.store(partial + channels, squares, mask=is_channel)


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
    x_ptr, weight_ptr, bias_ptr, y_ptr, statistics_ptr, partial_ptr, pixels, channels, chunk, eps,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Normalise some groups over one chunk of an image's pixels; keep mean and 1 / deviation of each group."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    groups = channels // WIDTH
    start = number * chunk
    begin = image.to(tl.int64) * pixels * channels
    pixel = start + tl.arange(0, PIXELS)
    offsets = begin + pixel[:, None] * channels + channel[None, :]
    exists = (pixel < pixels)[:, None] & is_channel[None, :]
    x = _load(x_ptr, offsets, exists)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    size = pixels * WIDTH * 1.0
    if CHUNKS == 1:
        mean, squares = _moments(x, exists, size, GROUPS, LANES)
    else:
        each = tl.arange(0, CHUNKS)[:, None]
        is_chunk = (each * chunk < pixels) & is_channel[None, :]
        partial = (image * tl.num_programs(2) + each) * 2 * channels + channel[None, :]
        means = _load(partial_ptr, partial, is_chunk)
        count = tl.maximum(tl.minimum(pixels - each * chunk, chunk), 0) * WIDTH * 1.0
        mean = tl.sum(means * count, axis=0) / size
        difference = means - mean[None, :]
        squares = tl.sum(_load(partial_ptr, partial + channels, is_chunk) + difference * difference * count, axis=0)
    scale = 1.0 / tl.sqrt(squares / size + eps)
    statistics = statistics_ptr + (image * groups + group) * 2
    tl.store(statistics, mean, mask=is_channel & (number == 0))
    tl.store(statistics + 1, scale, mask=is_channel & (number == 0))
    y = _normalise(
        x, offsets, mean, scale, weight, bias, seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT
    )
    _store(y_ptr, offsets, y, exists)
    if TILES > 1:
        for first in range(start + PIXELS, tl.minimum(start + chunk, pixels), PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            offsets = begin + pixel[:, None] * channels + channel[None, :]
            exists = (pixel < pixels)[:, None] & is_channel[None, :]
            y = _normalise(
                _load(x_ptr, offsets, exists), offsets, mean, scale, weight, bias,
                seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT,
            )  # fmt: skip
            _store(y_ptr, offsets, y, exists)


@triton.jit
def _back_to_normalised(
    x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
    seed_ptr, layer, first_element, limit, scale_kept, SILU: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """The normalised input, and the gradient with respect to its scaled and shifted form."""
    x = _load(x_ptr, offsets, exists)
    grad = _load(grad_y_ptr, offsets, exists)
    normalised = (x - mean[None, :]) * scale[None, :]
    if DROPOUT:
        grad = grad * _kept(offsets, seed_ptr, layer, first_element, limit, scale_kept)
    if SILU:
        z = normalised * weight[None, :] + bias[None, :]
        sigmoid = tl.sigmoid(z)
        grad = grad * sigmoid * (1.0 + z * (1.0 - sigmoid))
    return normalised, grad


@triton.jit
def _grad_sums_kernel(
    x_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_y_ptr, sums_ptr, pixels, channels, chunk,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The gradients of weight and bias over one chunk of an image's pixels."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    statistics = statistics_ptr + (image * (channels // WIDTH) + group) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)
    scale = tl.load(statistics + 1, mask=is_channel, other=0.0)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    begin = image.to(tl.int64) * pixels * channels
    start = number * chunk
    grad_weight = tl.zeros((GROUPS * LANES,), dtype=tl.float32)
    grad_bias = tl.zeros((GROUPS * LANES,), dtype=tl.float32)
    for first in range(start, tl.minimum(start + chunk, pixels), PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        offsets = begin + pixel[:, None] * channels + channel[None, :]
        exists = (pixel < pixels)[:, None] & is_channel[None, :]
        normalised, grad = _back_to_normalised(
            x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
            seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT,
        )  # fmt: skip
        grad_weight += tl.sum(grad * normalised, axis=0)
        grad_bias += tl.sum(grad, axis=0)
    sums = sums_ptr + (image * tl.num_programs(2) + number) * 2 * channels + channel
    tl.store(sums, grad_weight, mask=is_channel)
    tl.store(sums + channels, grad_bias, mask=is_channel)


@triton.jit
def _group_norm_grad_kernel(
    x_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_y_ptr, grad_x_ptr, sums_ptr, pixels, channels, chunk,
    seed_ptr, layer, first_element, limit, scale_kept,
    SILU: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The gradient of the input over one chunk; without chunks, also those of weight and bias for this image."""
    image, block, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, channel, is_channel = _channels(block, channels, WIDTH, GROUPS, LANES)
    statistics = statistics_ptr + (image * (channels // WIDTH) + group) * 2
    mean = tl.load(statistics, mask=is_channel, other=0.0)
    scale = tl.load(statistics + 1, mask=is_channel, other=0.0)
    weight = _load(weight_ptr, channel, is_channel)
    bias = _load(bias_ptr, channel, is_channel)
    start = number * chunk
    begin = image.to(tl.int64) * pixels * channels
    pixel = start + tl.arange(0, PIXELS)
    offsets = begin + pixel[:, None] * channels + channel[None, :]
    exists = (pixel < pixels)[:, None] & is_channel[None, :]
    normalised, grad = _back_to_normalised(
        x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
        seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT,
    )  # fmt: skip
    if CHUNKS == 1:
        grad_weight = tl.sum(grad * normalised, axis=0)
        grad_bias = tl.sum(grad, axis=0)
        sums = sums_ptr + image * 2 * channels + channel
        tl.store(sums, grad_weight, mask=is_channel)
        tl.store(sums + channels, grad_bias, mask=is_channel)
    else:
        chunks = tl.num_programs(2)
        each = tl.arange(0, CHUNKS)[:, None]
        sums = (image * chunks + each) * 2 * channels + channel[None, :]
        is_sum = (each < chunks) & is_channel[None, :]
        grad_weight = tl.sum(_load(sums_ptr, sums, is_sum), axis=0)
        grad_bias = tl.sum(_load(sums_ptr, sums + channels, is_sum), axis=0)
    size = pixels * WIDTH * 1.0
    mean_product = _group_sums(grad_weight * weight, GROUPS, LANES) / size
    mean_grad = _group_sums(grad_bias * weight, GROUPS, LANES) / size
    grad_x = grad * weight[None, :] - mean_grad[None, :] - normalised * mean_product[None, :]
    _store(grad_x_ptr, offsets, grad_x * scale[None, :], exists)
    if TILES > 1:
        for first in range(start + PIXELS, tl.minimum(start + chunk, pixels), PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            offsets = begin + pixel[:, None] * channels + channel[None, :]
            exists = (pixel < pixels)[:, None] & is_channel[None, :]
            normalised, grad = _back_to_normalised(
                x_ptr, grad_y_ptr, offsets, exists, mean, scale, weight, bias,
                seed_ptr, layer, first_element, limit, scale_kept, SILU, DROPOUT,
            )  # fmt: skip
            grad_x = grad * weight[None, :] - mean_grad[None, :] - normalised * mean_product[None, :]
            _store(grad_x_ptr, offsets, grad_x * scale[None, :], exists)


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


@dataclass(frozen=True)
class Dropped:
    """What dropout drops in one layer.

    Attributes:
        seed: int64 `()`, the seed of the step.
        layer: Which of the network's dropouts it is, from 0; with `seed` it determines the mask.
        first: Index of the first element in the whole batch.
        probability: In (0, 1).
    """

    seed: Tensor
    layer: int
    first: int
    probability: float


@dataclass(frozen=True)
class _Tile:
    """How the elements of an image are shared among programs.

    Attributes:
        width: Channels in a group.
        pixels: Pixels that are read at once, a power of 2.
        groups: Groups of a program, a power of 2.
        lanes: `width` or the next power of 2.
        chunk: Pixels of a program.
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
            "num_warps": max(1, min(16, elements // _ELEMENTS_PER_WARP)),
        }


def _dropout_arguments(x: Tensor, dropped: Dropped | None) -> tuple[object, ...]:
    if dropped is None:
        return x, 0, 0, 0, 1.0
    limit, scale = int(dropped.probability * 2**32), 1.0 / (1.0 - dropped.probability)
    return dropped.seed, dropped.layer, dropped.first, limit, scale


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, silu: bool, dropped: Dropped | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise, scale and shift; then x sigmoid(x) if `silu`, then dropout.

    Args:
        x: `(B, C, H, W)`.
        weight: `(C,)`.
        bias: `(C,)`.
        groups: They divide C.
        silu: Whether to activate.
        dropped: What to drop, if anything.

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
        *(x, weight, bias, y, statistics, partial, pixels, channels, tile.chunk, GROUP_NORM_EPS),
        *_dropout_arguments(x, dropped),
        SILU=silu,
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
    *,
    silu: bool,
    dropped: Dropped | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `group_norm` with respect to x, weight and bias.

    Args:
        x: As there, like `weight`, `bias`, `silu` and `dropped`.
        weight: `(C,)`.
        bias: `(C,)`.
        statistics: From there.
        grad_y: `(B, C, H, W)`.
        silu: Whether it activated.
        dropped: What it dropped.
    """
    batch, channels, height, width = x.shape
    pixels, groups = height * width, statistics.shape[1]
    tile = _Tile.of(x, groups)
    grid = tile.grid(batch, groups)
    grad_x = torch.empty_like(x)
    sums = torch.empty((batch * tile.chunks, 2, channels), device=x.device)
    how: dict[str, object] = {"SILU": silu, "DROPOUT": dropped is not None, **tile.sizes}
    sizes = pixels, channels, tile.chunk
    drawn = _dropout_arguments(x, dropped)
    if tile.chunks > 1:
        _grad_sums_kernel[grid](x, weight, bias, statistics, grad_y, sums, *sizes, *drawn, **how)
    _group_norm_grad_kernel[grid](
        *(x, weight, bias, statistics, grad_y, grad_x, sums, *sizes, *drawn),
        CHUNKS=triton.next_power_of_2(tile.chunks),
        TILES=tile.chunk // tile.pixels,
        **how,
    )
    grad_weight, grad_bias = sums.sum(0).to(weight.dtype)
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
