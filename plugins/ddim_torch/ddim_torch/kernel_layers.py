"""The operations of the U-Net that use the host's CPU kernels, as PyTorch functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ddim_host.framework import cached, processor_name, transform_channels
from ddim_torch.layers import TorchLayers, apply_function, padded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ddim_host.framework import Conv, Dropout, GroupNorm, Kernels


def _onednn_is_faster() -> bool:
    """Return whether oneDNN is faster than MKL for dense layers on this processor.

    MKL uses AVX-512 only on Intel processors: on two Zen 5 cores it reaches 200 GFLOP/s, and oneDNN 440.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AMD" in processor_name()


_ONEDNN_IS_FASTER = _onednn_is_faster()

_FEW_TOKENS = 64
"""Up to this number of tokens, PyTorch's gradient of attention is slower in bf16 than in fp32: 3 to 12 times
on a Xeon with AMX. With 256 tokens, bf16 is at least as fast there."""


class KernelLayers(TorchLayers):
    """Layers that use the host's kernels for 3 x 3 convolutions and group norms, and PyTorch otherwise.

    Between layers, images are either all fp32 or all bf16. Parameters and time embeddings are fp32; weights
    that PyTorch multiplies with bf16 images are rounded first.

    Args:
        kernels: The host's kernels.
        parameters: Parameters by canonical name, contiguous.
        dropout: The dropout of a training step; None for no dropout.
        transformed: Cache of transformed convolution weights by name, filled by this class; None if the
            parameters change between calls.
    """

    def __init__(
        self,
        kernels: Kernels,
        parameters: Mapping[str, Tensor],
        dropout: Dropout | None = None,
        *,
        transformed: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__(parameters, dropout)
        self._kernels = kernels
        self._transformed = transformed

    def conv(
        self, layer: Conv, x: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """See `ddim_host.framework.Layers`, which also documents the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.kernel == 3 and layer.stride == 1:
            bf16 = _is_bf16(x)
            transformed = cached(
                self._transformed,
                layer.name,
                lambda: _transform(self._kernels, weight, turned=False, bf16=bf16),
            )
            return apply_function(_Conv3x3, self._kernels, transformed, x, weight, bias, shift, residual)
        if _is_bf16(x):
            rounded = cached(self._transformed, layer.name, lambda: _channels_last(weight.to(x.dtype)))
            x, padding = padded(layer, x)
            y = _channels_last(functional.conv2d(x, rounded, None, layer.stride, padding))
            return apply_function(_Add, self._kernels, y, bias, shift, residual)
        if layer.kernel == 1 and shift is None and residual is None and not _ONEDNN_IS_FASTER:
            # A dense layer over the channels of each pixel, which are contiguous.
            pixels = functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return pixels.permute(0, 3, 1, 2)
        return super().conv(layer, x, shift=shift, residual=residual)

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        return apply_function(_GroupNorm, self._kernels, x, weight, bias, layer.groups, layer.eps, silu)

    def dropout(self, x: Tensor) -> Tensor:
        dropout = self._dropout
        if dropout is None:
            return x
        first = dropout.first * x[0].numel()
        return apply_function(_Dropout, self._kernels, x, first, dropout.next_seed(), dropout.probability)

    def modulate_dropout(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        scale, shift = (self._at_every_pixel(half) for half in torch.chunk(scale_shift, 2, dim=1))
        return self.dropout(self.silu(x * (scale + 1.0) + shift).to(x.dtype))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if _is_bf16(q) and q.requires_grad and q.shape[-2] <= _FEW_TOKENS:
            return super()._attend(q.float(), k.float(), v.float()).to(q.dtype)
        return super()._attend(q, k, v)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if _is_bf16(x):
            return super()._dense(x, weight.to(x.dtype), bias.to(x.dtype))
        if x.ndim != 3 or not _ONEDNN_IS_FASTER:
            return super()._dense(x, weight, bias)
        # As a 1 x 1 convolution: `(B, P, C)` is an image of 1 x P pixels with the channels last.
        image = x.transpose(1, 2).unsqueeze(2)
        return functional.conv2d(image, weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)


def _transform(kernels: Kernels, weight: Tensor, *, turned: bool, bf16: bool) -> Tensor:
    channels = transform_channels(weight.shape, turned=turned)
    transformed = torch.empty(kernels.conv3x3_weights_size(*channels, bf16))
    kernels.conv3x3_transform(weight.data_ptr(), transformed.data_ptr(), *channels, turned, bf16)
    return transformed


def _convolve(
    kernels: Kernels,
    x: Tensor,
    transformed: Tensor,
    out_channels: int,
    added: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Tensor:
    """Convolve, then add bias, shift and residual."""
    batch, in_channels, height, width = x.shape
    y = torch.empty((batch, out_channels, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    kernels.conv3x3(
        x.data_ptr(),
        transformed.data_ptr(),
        *(None if tensor is None else tensor.data_ptr() for tensor in added),
        y.data_ptr(),
        *(batch, height, width, in_channels, out_channels, _is_bf16(x)),
    )
    return y


class _Conv3x3(torch.autograd.Function):
    """Convolution, bias, shift and residual in one operation."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        transformed: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        x = _channels_last(x)
        shift = None if shift is None else shift.contiguous()
        residual = None if residual is None else _channels_last(residual)
        ctx.kernels = kernels
        ctx.save_for_backward(x, weight)
        return _convolve(kernels, x, transformed, len(weight), (bias, shift, residual))

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.kernels
        x, weight = ctx.saved_tensors
        grad_y = _channels_last(grad_y)
        batch, in_channels, height, width = x.shape
        sizes = batch, height, width, in_channels, len(weight)
        _, _, needs_x, _, _, needs_shift, needs_residual = ctx.needs_input_grad
        grad_x = None
        if needs_x:
            turned = _transform(kernels, weight, turned=True, bf16=_is_bf16(grad_y))
            grad_x = _convolve(kernels, grad_y, turned, in_channels)
        grad_weight = torch.empty_like(weight)
        pointers = (tensor.data_ptr() for tensor in (x, grad_y, grad_weight))
        kernels.conv3x3_grad_weights(*pointers, *sizes, _is_bf16(x))
        of_images = _sum_pixels(kernels, grad_y)
        grad_shift = of_images if needs_shift else None
        grad_residual = grad_y if needs_residual else None
        return None, None, grad_x, grad_weight, of_images.sum(0), grad_shift, grad_residual


class _Add(torch.autograd.Function):
    """Add bias, shift and residual to the result of a convolution, in place."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, y: Tensor, bias: Tensor, shift: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        ctx.mark_dirty(y)
        ctx.kernels = kernels
        shift = None if shift is None else shift.contiguous()
        residual = None if residual is None else _channels_last(residual)
        batch, channels, height, width = y.shape
        kernels.add(
            *(None if tensor is None else tensor.data_ptr() for tensor in (y, bias, shift, residual)),
            *(batch, height * width, channels, _is_bf16(y)),
        )
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = _channels_last(grad_y)
        of_images = _sum_pixels(ctx.kernels, grad_y)
        _, _, _, needs_shift, needs_residual = ctx.needs_input_grad
        grad_shift = of_images if needs_shift else None
        return None, grad_y, of_images.sum(0), grad_shift, grad_y if needs_residual else None


def _sum_pixels(kernels: Kernels, x: Tensor) -> Tensor:
    """Sum `(B, C, H, W)` to fp32 `(B, C)`."""
    batch, channels, height, width = x.shape
    sums = torch.empty((batch, channels))
    kernels.sum_pixels(x.data_ptr(), sums.data_ptr(), batch, height * width, channels, _is_bf16(x))
    return sums


class _GroupNorm(torch.autograd.Function):
    """Group norm, then optionally x sigmoid(x)."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        x = _channels_last(x)
        batch, channels, height, width = x.shape
        y, statistics = torch.empty_like(x), torch.empty((batch, groups, 2))
        kernels.group_norm(
            *(tensor.data_ptr() for tensor in (x, weight, bias, y, statistics)),
            *(batch, height * width, channels, groups, eps, silu, _is_bf16(x)),
        )
        ctx.kernels, ctx.groups, ctx.silu = kernels, groups, silu
        ctx.save_for_backward(x, weight, bias, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        grad_y = _channels_last(grad_y)
        grad_x, grad_weight, grad_bias = (torch.empty_like(tensor) for tensor in (x, weight, bias))
        batch, channels, height, width = x.shape
        ctx.kernels.group_norm_grad(
            *(tensor.data_ptr() for tensor in (x, weight, bias, statistics, grad_y)),
            *(tensor.data_ptr() for tensor in (grad_x, grad_weight, grad_bias)),
            *(batch, height * width, channels, ctx.groups, ctx.silu, _is_bf16(x)),
        )
        return None, grad_x, grad_weight, grad_bias, None, None, None


class _Dropout(torch.autograd.Function):
    """Dropout that regenerates its mask in the backward pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, first: int, seed: int, probability: float) -> Tensor:
        x = _channels_last(x)
        y = torch.empty_like(x)
        kernels.dropout(x.data_ptr(), y.data_ptr(), x.numel(), first, seed, probability, _is_bf16(x))
        ctx.saved = kernels, first, seed, probability
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        kernels, first, seed, probability = ctx.saved
        grad_y = _channels_last(grad_y)
        grad_x = torch.empty_like(grad_y)
        kernels.dropout(
            *(grad_y.data_ptr(), grad_x.data_ptr(), grad_y.numel(), first, seed, probability),
            _is_bf16(grad_y),
        )
        return None, grad_x, None, None, None


def _is_bf16(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
