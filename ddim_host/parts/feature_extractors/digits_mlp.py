"""Features of the built-in digits from a small classifier. Distances between them are not FID."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images

_WEIGHTS = Path(__file__).with_name("digits_mlp.safetensors")
_SHAPE = (8, 8, 1)


class DigitsMLP:
    """128 features of a digit: the hidden ReLU layer of a perceptron that classifies the ten digits.

    The network is scikit-learn's `MLPClassifier((128,), max_iter=400, random_state=0)`, fitted once on the
    1,500 training digits with pixels scaled to [-1, 1]. Its hidden layer is stored next to this module, so
    that the features are the same on every machine; `tests/support/fit_digits_mlp.py` reproduces it.
    """

    def __init__(self) -> None:
        stored = _WEIGHTS.read_bytes()
        weights = safetensors.numpy.load(stored)
        self.fingerprint = hashlib.sha256(stored).hexdigest()
        self._weight = weights["weight"].astype(np.float64)
        self._bias = weights["bias"].astype(np.float64)

    def __call__(self, images: Images, /) -> NDArray[np.float32]:
        """See `contracts.FeatureExtractor`; maps uint8 `(N, 8, 8, 1)` to float32 `(N, 128)`."""
        if images.shape[1:] != _SHAPE:
            height, width, channels = images.shape[1:]
            raise UserError(
                "feature extractor 'digits_mlp' works only on digits",
                why=f"digits are 8 x 8 x 1, but these images are {height} x {width} x {channels}",
                fix="choose another extractor with --features, such as cifar_cnn",
            )
        pixels = images.reshape(len(images), -1) / 127.5 - 1.0
        return np.maximum(pixels @ self._weight + self._bias, 0.0).astype(np.float32)
