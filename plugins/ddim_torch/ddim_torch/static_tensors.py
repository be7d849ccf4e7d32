"""Tensors with fixed addresses: parameters in one block of memory, and inputs updated with one copy."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

_ALIGNMENT = 16
"""Alignment of parameters (in elements) and inputs (in bytes): a GPU reads at most 16 bytes at once."""

_STAGES = 4
"""Maximum number of copies in flight before the host waits for the oldest."""


class FlatTensors(dict[str, Tensor]):
    """Named tensors in one block of memory, so that one operation can process all of them; initially zero.

    Tensors with four axes have the channels last.

    Args:
        shapes: Names and shapes.
        device: The device of the tensors.
        dtype: The dtype of the tensors.

    Attributes:
        flat: The entire block, `(N,)`, padded with zeros between the tensors.
        slices: The position of each tensor in the block.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = [_aligned(math.prod(shape)) for shape in shapes.values()]
        self.flat = torch.zeros(sum(sizes), device=device, dtype=dtype)
        pieces = torch.split(self.flat, sizes)
        super().__init__(
            (name, _view(piece, shape)) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        )
        ends = itertools.accumulate(sizes)
        self.slices = {
            name: slice(end - size, end - size + self[name].numel())
            for name, size, end in zip(shapes, sizes, ends, strict=True)
        }

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate tensors of one dtype, with the shapes of the first ones, in the layout of `flat`."""
        zeros = tensors[0].new_zeros(_ALIGNMENT)
        pieces = []
        for tensor in tensors:
            in_order = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor
            pieces += [in_order.reshape(-1), zeros[: -tensor.numel() % _ALIGNMENT]]
        return torch.cat(pieces)


class StagedInputs(dict[str, Tensor]):
    """Tensors on the device whose values the host replaces repeatedly, all in one copy.

    The copy is made from pinned memory and queued with the device's other work, so the host need not wait.

    Args:
        examples: For each name, an array with the shape and dtype of its values.
        device: The device of the tensors.
    """

    def __init__(self, examples: Mapping[str, ArrayLike], device: torch.device) -> None:
        arrays = {name: np.asarray(example) for name, example in examples.items()}
        self._on_device = torch.zeros(sum(_aligned(a.nbytes) for a in arrays.values()), dtype=torch.uint8)
        self._on_device = self._on_device.to(device)
        on_gpu = device.type == "cuda"
        self._stages = [
            _Stage(torch.zeros(len(self._on_device), dtype=torch.uint8, pin_memory=on_gpu), arrays)
            for _ in range(_STAGES if on_gpu else 1)
        ]
        self._next = 0
        super().__init__(_views(self._on_device, arrays))

    def load(self, values: Mapping[str, ArrayLike]) -> None:
        """Replace all values; they apply to all work submitted to the device afterwards."""
        stage = self._stages[self._next]
        self._next = (self._next + 1) % len(self._stages)
        if stage.copied is not None:
            stage.copied.synchronize()
        for name, value in values.items():
            np.copyto(stage.arrays[name], value, casting="same_kind")
        self._on_device.copy_(stage.memory, non_blocking=True)
        if stage.memory.is_pinned():
            stage.copied = torch.cuda.current_stream().record_event()


class _Stage:
    """A buffer in host memory from which inputs are copied."""

    def __init__(self, memory: Tensor, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self.memory = memory
        self.arrays = {name: view.numpy() for name, view in _views(memory, arrays).items()}
        self.copied: torch.cuda.Event | None = None


def _views(memory: Tensor, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Return consecutive views of a block of memory."""
    views, start = {}, 0
    for name, array in arrays.items():
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        views[name] = memory[start : start + array.nbytes].view(dtype).view(array.shape)
        start += _aligned(array.nbytes)
    return views


def _view(piece: Tensor, shape: tuple[int, ...]) -> Tensor:
    piece = piece[: math.prod(shape)]
    if len(shape) != 4:
        return piece.view(shape)
    out, inputs, height, width = shape
    return piece.view(out, height, width, inputs).permute(0, 3, 1, 2)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
