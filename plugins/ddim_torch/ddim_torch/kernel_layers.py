"""The operations of the U-Net that the host's own kernels compute on the CPU, as PyTorch functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ddim_host.framework import cached, processor_name, transform_channels
from ddim_torch.layers import TorchLayers, apply_function

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ddim_host.framework import Conv, Dropout, GroupNorm, Kernels


def _onednn_is_faster() -> bool:
    """Whether dense layers are best left to oneDNN, which PyTorch has for convolutions, not to MKL.

    MKL does not use AVX-512 on other makers' processors: on two cores of a Zen 5 it does 200 GFLOP/s, and
    oneDNN 440.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AMD" in processor_name()


_ONEDNN_IS_FASTER = _onednn_is_faster()


class KernelLayers(TorchLayers):
    """Convolutions of 3 x 3 and group norms by the host's kernels; all else by PyTorch.

    Args:
        kernels: The host's kernels.
        parameters: Parameters by canonical name, contiguous.
        dropout: That of a training step; None where there is none.
        transformed: Transformed weights of convolutions by name, kept from call to call; it is filled here.
            None where the parameters change.
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
        """See `ddim_host.framework.Layers`, as for the operation below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.kernel == 1 and shift is None and residual is None and not _ONEDNN_IS_FASTER:
            # A dense layer over the channels of each pixel, which lie beside each other.
            pixels = functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return pixels.permute(0, 3, 1, 2)
        if layer.kernel != 3 or layer.stride != 1:
            return super().conv(layer, x, shift=shift, residual=residual)
        transformed = cached(
            self._transformed, layer.name, lambda: _transform(self._kernels, weight, turned=False)
        )
        return apply_function(_Conv3x3, self._kernels, transformed, x, weight, bias, shift, residual)

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        return apply_function(_GroupNorm, self._kernels, x, weight, bias, layer.groups, layer.eps, silu)

    def dropout(self, x: Tensor) -> Tensor:
        dropout = self._dropout
        if dropout is None:
            return x
        first = dropout.first * x[0].numel()
        return apply_function(_Dropout, self._kernels, x, first, dropout.next_seed(), dropout.probability)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if x.ndim != 3 or not _ONEDNN_IS_FASTER:
            return super()._dense(x, weight, bias)
        # As a convolution of 1 x 1, `(B, P, C)` being an image of 1 x P pixels with the channels last.
        image = x.transpose(1, 2).unsqueeze(2)
        return functional.conv2d(image, weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)


def _transform(kernels: Kernels, weight: Tensor, *, turned: bool) -> Tensor:
    channels = transform_channels(weight.shape, turned=turned)
    transformed = torch.empty(kernels.conv3x3_weights_size(*channels))
    kernels.conv3x3_transform(weight.data_ptr(), transformed.data_ptr(), *channels, turned)
    return transformed


def _convolve(
    kernels: Kernels,
    x: Tensor,
    transformed: Tensor,
    out_channels: int,
    added: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Tensor:
    """Convolve, and add bias, shift and residual."""
    batch, in_channels, height, width = x.shape
    y = torch.empty((batch, out_channels, height, width), memory_format=torch.channels_last)
    kernels.conv3x3(
        x.data_ptr(),
        transformed.data_ptr(),
        *(None if tensor is None else tensor.data_ptr() for tensor in added),
        y.data_ptr(),
        *(batch, height, width, in_channels, out_channels),
    )
    return y


class _Conv3x3(torch.autograd.Function):
    """Convolution, bias, shift and residual in one."""

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
            grad_x = _convolve(kernels, grad_y, _transform(kernels, weight, turned=True), in_channels)
        grad_weight = torch.empty_like(weight)
        kernels.conv3x3_grad_weights(x.data_ptr(), grad_y.data_ptr(), grad_weight.data_ptr(), *sizes)
        of_images = torch.empty((batch, len(weight)))
        kernels.sum_pixels(grad_y.data_ptr(), of_images.data_ptr(), batch, height * width, len(weight))
        grad_shift = of_images if needs_shift else None
        grad_residual = grad_y if needs_residual else None
        return None, None, grad_x, grad_weight, of_images.sum(0), grad_shift, grad_residual


class _GroupNorm(torch.autograd.Function):
    """Group norm, and x sigmoid(x) after it."""

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
            *(batch, height * width, channels, groups, eps, silu),
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
            *(batch, height * width, channels, ctx.groups, ctx.silu),
        )
        return None, grad_x, grad_weight, grad_bias, None, None, None


class _Dropout(torch.autograd.Function):
    """Dropout whose mask is drawn again on the way back."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, first: int, seed: int, probability: float) -> Tensor:
        x = _channels_last(x)
        y = torch.empty_like(x)
        kernels.dropout(x.data_ptr(), y.data_ptr(), x.numel(), first, seed, probability)
        ctx.saved = kernels, first, seed, probability
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        kernels, first, seed, probability = ctx.saved
        grad_y = _channels_last(grad_y)
        grad_x = torch.empty_like(grad_y)
        kernels.dropout(grad_y.data_ptr(), grad_x.data_ptr(), grad_y.numel(), first, seed, probability)
        return None, grad_x, None, None, None


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
