"""Helpers for layers that use the kernels: cached weights and channel counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Tensor = TypeVar("_Tensor")


def cached(cache: dict[str, _Tensor] | None, name: str, make: Callable[[], _Tensor]) -> _Tensor:
    """Return a layer's cached tensor, creating it on the first call.

    Args:
        cache: Tensors by layer name; None to create the tensor on every call.
        name: The layer's name.
        make: Creates the tensor.
    """
    if cache is None:
        return make()
    if name not in cache:
        cache[name] = make()
    return cache[name]


def transform_channels(shape: Sequence[int], *, turned: bool) -> tuple[int, int]:
    """Return the input and output channels in the order expected by `Kernels.conv3x3_transform`.

    Args:
        shape: Shape of the weight, `(out, in, 3, 3)`.
        turned: True for the gradient with respect to the input, which swaps input and output channels.
    """
    out_channels, in_channels = shape[:2]
    return (out_channels, in_channels) if turned else (in_channels, out_channels)
