"""The operations of the U-Net on a GPU: convolutions and attention in PyTorch, the others in Triton."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ddim_torch import triton_kernels
from ddim_torch.layers import TorchLayers, apply_function, padded
from ddim_torch.triton_kernels import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ddim_host.framework import Conv, GroupNorm


@dataclass
class Training:
    """Training mode of a network call.

    Attributes:
        gradients: For each bias of a convolution and each weight and bias of a group norm, a buffer, fp32
            `(B, C)`, in which the backward pass stores each image's gradient. All are summed at once.
        dropout: Probability that an element is dropped.
        seed: int64 `()`, the seed of the step's dropout.
        first: Index of this process's first image in the whole batch.
    """

    gradients: Mapping[str, Tensor]
    dropout: float
    seed: Tensor
    first: int
    _layers: Iterator[int] = field(default_factory=itertools.count, init=False, repr=False)

    def dropped(self, x: Tensor) -> Dropped | None:
        """Return the dropout of the next layer for x, `(B, C, H, W)`."""
        if not self.dropout:
            return None
        return Dropped(self.seed, next(self._layers), self.first * x[0].numel(), self.dropout)


class TritonLayers(TorchLayers):
    """Apply layers to tensors with the channels last, in the dtype of the dense and convolution weights.

    Args:
        parameters: Parameters by canonical name, convolutions with the channels last.
        training: The training mode; None outside a training step.
    """

    def __init__(self, parameters: Mapping[str, Tensor], training: Training | None = None) -> None:
        super().__init__(parameters)
        self._training = training

    def conv(
        self, layer: Conv, x: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """See `ddim_host.framework.Layers`, which also documents the operations below."""
        _, bias = self._weight_and_bias(layer.name)
        y = self._convolve(layer, x)
        if shift is not None:
            y = y + shift[:, :, None, None]
        return apply_function(_Add, y, bias, residual, self._gradient(f"{layer.name}.bias"))

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        return self._normalise(layer, x, silu=silu)

    def conv_norm_dropout(self, conv: Conv, norm: GroupNorm, x: Tensor, *, shift: Tensor) -> Tensor:
        # The norm's kernel adds the values that are equal for all pixels of a channel.
        _, bias = self._weight_and_bias(conv.name)
        added = apply_function(_AddBias, shift, bias, self._gradient(f"{conv.name}.bias"))
        y = self._convolve(conv, x)
        dropped = self._training.dropped(y) if self._training else None
        return self._normalise(norm, y, silu=True, added=added, dropped=dropped)

    def dropout(self, x: Tensor) -> Tensor:
        dropped = self._training.dropped(x) if self._training else None
        return x if dropped is None else apply_function(_Dropout, x, dropped)

    def _convolve(self, layer: Conv, x: Tensor) -> Tensor:
        """Convolve, without the bias."""
        weight, _ = self._weight_and_bias(layer.name)
        x, padding = padded(layer, x)
        return functional.conv2d(x, weight, None, layer.stride, padding)

    def _normalise(
        self,
        layer: GroupNorm,
        x: Tensor,
        *,
        silu: bool,
        added: Tensor | None = None,
        dropped: Dropped | None = None,
    ) -> Tensor:
        gradients = [self._gradient(f"{layer.name}.{part}") for part in ("weight", "bias")]
        weight, bias = self._weight_and_bias(layer.name)
        how = layer.groups, layer.eps, silu, dropped
        return apply_function(_GroupNorm, x, added, weight, bias, *gradients, *how)

    def _gradient(self, name: str) -> Tensor | None:
        return self._training.gradients[name] if self._training else None


class _Add(torch.autograd.Function):
    """Add bias and residual to the result of a convolution, in place."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, bias: Tensor, residual: Tensor | None, grad_bias: Tensor | None
    ) -> Tensor:
        ctx.mark_dirty(y)
        ctx.grad_bias = grad_bias
        return triton_kernels.add_(y, bias, None if residual is None else _channels_last(residual))

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = _channels_last(grad_y)
        torch.sum(grad_y, (2, 3), dtype=torch.float32, out=ctx.grad_bias)
        return grad_y, None, grad_y if ctx.needs_input_grad[2] else None, None


class _AddBias(torch.autograd.Function):
    """Add a bias to one number per channel of each image, in fp32."""

    @staticmethod
    def forward(ctx: Any, shift: Tensor, bias: Tensor, grad_bias: Tensor | None) -> Tensor:
        ctx.dtype, ctx.grad_bias = shift.dtype, grad_bias
        return shift.float() + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.grad_bias.copy_(grad)
        return grad.to(ctx.dtype), None, None


class _GroupNorm(torch.autograd.Function):
    """Group norm of a sum, x sigmoid(x), and dropout that regenerates its mask in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        grad_weight: Tensor | None,
        grad_bias: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
        dropped: Dropped | None,
    ) -> Tensor:
        x = _channels_last(x)
        y, statistics = triton_kernels.group_norm(
            x, weight, bias, groups, eps, silu=silu, added=added, dropped=dropped
        )
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.gradients = grad_weight, grad_bias
        ctx.how = {"silu": silu, "added": added, "dropped": dropped}
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        grad_weight, grad_bias = ctx.gradients
        grad_x, grad_added = triton_kernels.group_norm_grad(
            *(x, weight, bias, statistics, _channels_last(grad_y), grad_weight, grad_bias), **ctx.how
        )
        return grad_x, grad_added if ctx.needs_input_grad[1] else None, *[None] * 8


class _Dropout(torch.autograd.Function):
    """Dropout that regenerates its mask in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Dropped) -> Tensor:
        ctx.dropped = dropped
        return triton_kernels.dropout(_channels_last(x), dropped)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return triton_kernels.dropout(_channels_last(grad_y), ctx.dropped), None


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
