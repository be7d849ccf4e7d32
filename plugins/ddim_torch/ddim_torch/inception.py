"""The Inception v3 network of FID: a table of layers, and its execution.

This is the 2015 network on which FID is defined, not torchvision's: average pooling ignores the padding, and
the last block uses max pooling. `tests/evaluation/test_peers.py` compares it with pytorch-fid.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    Kernel: TypeAlias = tuple[int, int]
    Layers: TypeAlias = "Conv | Pool | tuple[Layers, ...] | list[Layers]"

_IMAGE_SIZE = 299
_BATCH_NORM_EPS = 1e-3
# TF32 would leave features with three correct digits. PyTorch 2.6 has one switch for it, later releases two.
_EXACT: dict[str, Any] = {"enabled": True, "deterministic": True, "allow_tf32": False}
if "fp32_precision" in inspect.signature(torch.backends.cudnn.flags).parameters:
    _EXACT["fp32_precision"] = "ieee"
_1, _3, _5, _WIDE, _TALL = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, followed by batch normalisation and ReLU.

    Attributes:
        name: Prefix of the names of its parameters.
        channels: Output channels.
        kernel: Height and width.
        stride: 1 or 2; with 2 there is no padding.
        border: Whether to pad with zeros to preserve the size of the image.
    """

    name: str
    channels: int
    kernel: Kernel = _1
    stride: int = 1
    border: bool = True

    @property
    def padding(self) -> Kernel:
        """Rows and columns of zeros on each side."""
        height, width = self.kernel
        return (height // 2, width // 2) if self.border and self.stride == 1 else (0, 0)


@dataclass(frozen=True)
class Pool:
    """The maximum or mean of 3 x 3 pixels; pixels outside the image are excluded."""

    kind: Literal["max", "mean"]
    stride: int = 1


def _block_a(name: str, pooled: int) -> Layers:
    conv = functools.partial(_branch, name)
    return [
        conv("1x1", 64),
        (conv("5x5_1", 48), conv("5x5_2", 64, _5)),
        (conv("3x3dbl_1", 64), conv("3x3dbl_2", 96, _3), conv("3x3dbl_3", 96, _3)),
        (Pool("mean"), conv("_pool", pooled)),
    ]


def _block_b(name: str) -> Layers:
    conv = functools.partial(_branch, name)
    return [
        conv("3x3", 384, _3, 2),
        (conv("3x3dbl_1", 64), conv("3x3dbl_2", 96, _3), conv("3x3dbl_3", 96, _3, 2)),
        Pool("max", 2),
    ]


def _block_c(name: str, inner: int) -> Layers:
    conv = functools.partial(_branch, name)
    double = [conv(f"7x7dbl_{i}", inner, _TALL if i % 2 == 0 else _WIDE) for i in (2, 3, 4)]
    return [
        conv("1x1", 192),
        (conv("7x7_1", inner), conv("7x7_2", inner, _WIDE), conv("7x7_3", 192, _TALL)),
        (conv("7x7dbl_1", inner), *double, conv("7x7dbl_5", 192, _WIDE)),
        (Pool("mean"), conv("_pool", 192)),
    ]


def _block_d(name: str) -> Layers:
    conv = functools.partial(_branch, name)
    across = (conv("7x7x3_2", 192, _WIDE), conv("7x7x3_3", 192, _TALL))
    return [
        (conv("3x3_1", 192), conv("3x3_2", 320, _3, 2)),
        (conv("7x7x3_1", 192), *across, conv("7x7x3_4", 192, _3, 2)),
        Pool("max", 2),
    ]


def _block_e(name: str, pool: Pool) -> Layers:
    conv = functools.partial(_branch, name)

    def both(branch: str) -> Layers:
        return [conv(f"{branch}a", 384, (1, 3)), conv(f"{branch}b", 384, (3, 1))]

    return [
        conv("1x1", 320),
        (conv("3x3_1", 384), both("3x3_2")),
        (conv("3x3dbl_1", 448), conv("3x3dbl_2", 384, _3), both("3x3dbl_3")),
        (pool, conv("_pool", 192)),
    ]


def _branch(block: str, branch: str, channels: int, kernel: Kernel = _1, stride: int = 1) -> Conv:
    return Conv(f"{block}.branch{branch}", channels, kernel, stride)


# A tuple is a sequence of layers; a list contains parallel branches whose outputs are concatenated.
_NETWORK: Layers = (
    Conv("Conv2d_1a_3x3", 32, _3, 2),
    Conv("Conv2d_2a_3x3", 32, _3, border=False),
    Conv("Conv2d_2b_3x3", 64, _3),
    Pool("max", 2),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, _3, border=False),
    Pool("max", 2),
    _block_a("Mixed_5b", 32),
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", Pool("mean")),
    _block_e("Mixed_7c", Pool("max")),
)


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, by its name in the published file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, channels in _convs(_NETWORK, 3)[0]:
        shapes[f"{conv.name}.conv.weight"] = (conv.channels, channels, *conv.kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.name}.bn.{name}"] = (conv.channels,)
    return shapes


class InceptionNetwork:
    """The network up to its last pooling layer, in fp32.

    Each batch normalisation is a scale and a shift of its convolution's output, and is folded into the
    convolution's weight and bias in float64.

    Args:
        parameters: The parameters listed by `parameter_shapes`, by name.
        device: The device of the network.
    """

    def __init__(self, parameters: Mapping[str, NDArray[np.float32]], device: torch.device) -> None:
        self._device = device
        self._folded: dict[str, tuple[Tensor, Tensor]] = {}
        for conv, _ in _convs(_NETWORK, 3)[0]:
            kernel = parameters[f"{conv.name}.conv.weight"].astype(np.float64)
            weight, bias, mean, variance = (
                parameters[f"{conv.name}.bn.{name}"].astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight / np.sqrt(variance + _BATCH_NORM_EPS)
            folded = (
                torch.from_numpy(kernel * scale[:, None, None, None]),
                torch.from_numpy(bias - mean * scale),
            )
            self._folded[conv.name] = (
                folded[0].to(device, torch.float32).contiguous(memory_format=torch.channels_last),
                folded[1].to(device, torch.float32),
            )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features `(B, 2048)` of uint8 images `(B, 3, H, W)`."""
        with torch.backends.cudnn.flags(**_EXACT):
            pixels = images.to(self._device).contiguous(memory_format=torch.channels_last).float() / 255.0
            size = (_IMAGE_SIZE, _IMAGE_SIZE)
            resized = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
            return self._run(_NETWORK, 2.0 * resized - 1.0).mean((2, 3))

    def _run(self, layers: Layers, x: Tensor) -> Tensor:
        if isinstance(layers, Conv):
            weight, bias = self._folded[layers.name]
            convolved = functional.conv2d(x, weight, bias, stride=layers.stride, padding=layers.padding)
            return functional.relu_(convolved)
        if isinstance(layers, Pool):
            padding = 1 if layers.stride == 1 else 0
            if layers.kind == "max":
                return functional.max_pool2d(x, 3, layers.stride, padding)
            return functional.avg_pool2d(x, 3, layers.stride, padding, count_include_pad=False)
        if isinstance(layers, tuple):
            for layer in layers:
                x = self._run(layer, x)
            return x
        return torch.cat([self._run(branch, x) for branch in layers], 1)


def _convs(layers: Layers, channels: int) -> tuple[list[tuple[Conv, int]], int]:
    """Return all convolutions with their input channels, and the output channels."""
    if isinstance(layers, Conv):
        return [(layers, channels)], layers.channels
    if isinstance(layers, Pool):
        return [], channels
    found: list[tuple[Conv, int]] = []
    if isinstance(layers, tuple):
        for layer in layers:
            inner, channels = _convs(layer, channels)
            found += inner
        return found, channels
    joined = 0
    for branch in layers:
        inner, added = _convs(branch, channels)
        found += inner
        joined += added
    return found, joined
