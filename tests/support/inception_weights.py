"""Random weights of the Inception network, because tests cannot download the published ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

from ddim_torch.inception import parameter_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def random_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return weights under which images remain different from each other through all layers."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in parameter_shapes().items():
        kind = name.rpartition(".")[2]
        if len(shape) == 4:
            array = rng.standard_normal(shape) * (2.0 / np.prod(shape[1:])) ** 0.5
        elif kind in ("weight", "running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = 0.1 * rng.standard_normal(shape)
        weights[name] = array.astype(np.float32)
    return weights


if __name__ == "__main__":
    safetensors.numpy.save_file(random_weights(), sys.argv[1])
