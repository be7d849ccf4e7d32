"""Fit the classifier behind the features `digits_mlp`.

python -m tests.support.fit_digits_mlp FILE.safetensors
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from sklearn.neural_network import MLPClassifier

from ddim_host.parts.datasets import digits

if TYPE_CHECKING:
    from numpy.typing import NDArray


def digit_labels() -> NDArray[np.int64]:
    """Return the labels of all 1,797 digits, in the order of the data set."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    table = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(table, delimiter=",", usecols=64, dtype=np.int64)


def fitted() -> MLPClassifier:
    """Return the classifier, fitted on the training digits in [-1, 1]."""
    train = digits().load().train
    network = MLPClassifier((128,), max_iter=400, random_state=0)
    return network.fit(train.reshape(len(train), -1) / 127.5 - 1.0, digit_labels()[: len(train)])


def main(path: str) -> None:
    network = fitted()
    layer = {"weight": network.coefs_[0], "bias": network.intercepts_[0]}
    safetensors.numpy.save_file({name: array.astype(np.float32) for name, array in layer.items()}, path)


if __name__ == "__main__":
    main(sys.argv[1])
