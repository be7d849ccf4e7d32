"""What frameworks build layers of kernels with: dropout from a counter, cached weights, channel counts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Dropout", "cached", "transform_channels"]

_Tensor = TypeVar("_Tensor")


@dataclass
class Dropout:
    """The dropout of one training step, which goes from layer to layer.

    Attributes:
        probability: That an element is dropped; in (0, 1).
        seed: Of the step.
        first: Which image of the whole batch the first one here is: masks belong to the whole.
    """

    probability: float
    seed: int
    first: int
    _layers: Iterator[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._layers = itertools.count(self.seed)

    def next_seed(self) -> int:
        """The seed of the next layer, in [0, 2^64)."""
        return next(self._layers)


def cached(cache: dict[str, _Tensor] | None, name: str, make: Callable[[], _Tensor]) -> _Tensor:
    """Return what the cache holds of a layer; make it first if it holds nothing yet.

    Args:
        cache: Tensors by the layer's name; None where nothing stays valid.
        name: The layer.
        make: Makes the tensor.
    """
    if cache is None:
        return make()
    if name not in cache:
        cache[name] = make()
    return cache[name]


def transform_channels(shape: Sequence[int], *, turned: bool) -> tuple[int, int]:
    """Channels that go in and come out, as `Kernels.conv3x3_transform` takes them.

    Args:
        shape: Of the weight, `(out, in, 3, 3)`.
        turned: For the gradient with respect to the input, which goes the other way.
    """
    out_channels, in_channels = shape[:2]
    return (out_channels, in_channels) if turned else (in_channels, out_channels)
