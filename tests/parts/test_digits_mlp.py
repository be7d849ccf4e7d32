"""The built-in features for digits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.evaluation.distances import frechet_distance
from ddim_host.evaluation.moments import Moments
from ddim_host.parts import feature_extractors
from ddim_host.parts.datasets import digits
from ddim_host.parts.feature_extractors import DigitsMLP
from tests.support.fit_digits_mlp import digit_labels, fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXTRACT = DigitsMLP()
DIGITS = digits().load()


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    moments = []
    for features in (one, other):
        moments.append(Moments(features.shape[1]))
        moments[-1].add(features)
    return frechet_distance(*moments)


def test_features_of_an_image_do_not_depend_on_the_batch() -> None:
    features = EXTRACT(DIGITS.test)
    assert features.shape == (297, 128)
    assert features.dtype == np.float32
    assert features.min() == 0.0, "a ReLU layer has zeros and no negative outputs"
    np.testing.assert_allclose(EXTRACT(DIGITS.test[7:9]), features[7:9], rtol=1e-6)


def test_the_fingerprint_is_the_hash_of_the_stored_weights() -> None:
    stored = Path(str(feature_extractors.__file__)).with_name("digits_mlp.safetensors")
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == EXTRACT.fingerprint


def test_the_stored_weights_are_those_of_the_classifier() -> None:
    """The classifier is fitted again, which is not bit-identical on every machine, and must be accurate."""
    network = fitted()
    hidden = np.maximum(
        (DIGITS.test.reshape(297, -1) / 127.5 - 1.0) @ network.coefs_[0] + network.intercepts_[0], 0.0
    )
    correlation = np.corrcoef(hidden.ravel(), EXTRACT(DIGITS.test).ravel())[0, 1]
    assert correlation > 0.999
    predicted = network.predict(DIGITS.test.reshape(297, -1) / 127.5 - 1.0)
    assert (predicted == digit_labels()[1500:]).mean() > 0.9


def test_distance_ranks_real_digits_worse_ones_and_noise() -> None:
    train, test = EXTRACT(DIGITS.train), EXTRACT(DIGITS.test)
    assert distance(train, test) == pytest.approx(distance(test, train)) == pytest.approx(4.27, abs=0.01)
    rng = np.random.default_rng(0)
    distances = []
    for spread in (20, 40, 80):
        noisy = np.clip(DIGITS.test + rng.normal(0, spread, DIGITS.test.shape), 0, 255).astype(np.uint8)
        distances.append(distance(EXTRACT(noisy), test))
    distances.append(distance(EXTRACT(rng.integers(0, 256, DIGITS.test.shape, np.uint8)), test))
    assert distances == sorted(distances)
    assert distances[0] > 0.1
    assert distances[-1] > 80


def test_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="only on digits") as caught:
        EXTRACT(np.zeros((2, 32, 32, 3), np.uint8))
    assert "--features" in caught.value.fix
