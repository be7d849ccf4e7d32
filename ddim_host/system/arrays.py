"""Named arrays in the safetensors format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def safetensors_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the contents of a safetensors file with these arrays, in any memory layout.

    By itself, `safetensors.numpy.save` writes wrong numbers for an array that is not contiguous, such as a
    transposed one.
    """
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
