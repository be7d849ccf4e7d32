"""Helpers for layers built on the kernels: cached weights, channel counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Tensor = TypeVar("_Tensor")


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
