"""The operations of the U-Net on a GPU: convolutions and attention by PyTorch, what lies between by Triton."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ddim_torch import triton_kernels
from ddim_torch.layers import TorchLayers
from ddim_torch.triton_kernels import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ddim_host.framework import Conv, GroupNorm


@dataclass
class DeviceDropout:
    """The dropout of a training step whose seed lies on the GPU; see `ddim_host.framework.Dropout`.

    Attributes:
        probability: Probability that an element is dropped, in (0, 1).
        seed: int64 `()`, the seed of the step.
        first: Index of this process's first image in the whole batch.
    """

    probability: float
    seed: Tensor
    first: int
    layers: Iterator[int] = field(default_factory=itertools.count, repr=False)


class TritonLayers(TorchLayers):
    """Apply layers to tensors with the channels last, all of one dtype with the parameters.

    Args:
        parameters: Parameters by canonical name, convolutions with the channels last.
        dropout: That of a training step; None if there is none.
    """

    def __init__(self, parameters: Mapping[str, Tensor], dropout: DeviceDropout | None = None) -> None:
        super().__init__(parameters)
        self._device_dropout = dropout

    def conv(
        self, layer: Conv, x: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """See `ddim_host.framework.Layers`, as for the operations below."""
        weight, bias = self._weight_and_bias(layer.name)
        if layer.stride == 2:
            y = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight, stride=2)
        else:
            y = functional.conv2d(x, weight, padding=layer.kernel // 2)
        return _apply(_Add, y, bias, shift, residual)

    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        weight, bias = self._weight_and_bias(layer.name)
        return _apply(_GroupNorm, x, weight, bias, layer.groups, silu, None)

    def group_norm_dropout(self, layer: GroupNorm, x: Tensor) -> Tensor:
        # The one place where the network drops elements.
        weight, bias = self._weight_and_bias(layer.name)
        dropped, dropout = None, self._device_dropout
        if dropout is not None:
            first = dropout.first * x[0].numel()
            dropped = Dropped(dropout.seed, next(dropout.layers), first, dropout.probability)
        return _apply(_GroupNorm, x, weight, bias, layer.groups, True, dropped)


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Add(torch.autograd.Function):
    """Bias, shift and residual, added to the result of a convolution in its own memory."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, shift: Tensor | None, residual: Tensor | None) -> Tensor:
        residual = None if residual is None else _channels_last(residual)
        ctx.mark_dirty(y)
        return triton_kernels.add_(y, bias, None if shift is None else shift.contiguous(), residual)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _, _, needs_shift, needs_residual = ctx.needs_input_grad
        grad_y = _channels_last(grad_y)
        # In two steps: PyTorch is several times slower at all three axes at once.
        of_images = grad_y.sum((2, 3), dtype=torch.float32)
        grad_shift = of_images.to(grad_y.dtype) if needs_shift else None
        return grad_y, of_images.sum(0), grad_shift, grad_y if needs_residual else None


class _GroupNorm(torch.autograd.Function):
    """Group norm, x sigmoid(x) after it, and dropout, whose mask is drawn again on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool, dropped: Dropped | None
    ) -> Tensor:
        x = _channels_last(x)
        y, statistics = triton_kernels.group_norm(x, weight, bias, groups, silu=silu, dropped=dropped)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.silu, ctx.dropped = silu, dropped
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        gradients = triton_kernels.group_norm_grad(
            *ctx.saved_tensors, _channels_last(grad_y), silu=ctx.silu, dropped=ctx.dropped
        )
        return *gradients, None, None, None


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
