"""The built-in features for natural images, on crops of the two photographs that scikit-learn ships."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.evaluation.distances import frechet_distance, squared_mmd
from ddim_host.evaluation.moments import Moments
from ddim_host.parts import feature_extractors
from ddim_host.parts.feature_extractors import CifarCNN
from ddim_host.testing import FeatureExtractorContract
from tests.support.judge_cifar_cnn import blurred, noisy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images

EXTRACT = CifarCNN()
STORED = Path(str(feature_extractors.__file__)).with_name("cifar_cnn.safetensors")
_SIZE = 32


class TestColour(FeatureExtractorContract):
    part = CifarCNN
    image_shape = (32, 32, 3)


class TestGreyOfAnotherSize(FeatureExtractorContract):
    part = CifarCNN
    image_shape = (20, 20, 1)


def crops(name: str) -> Images:
    """Return the 32 x 32 crops of a photograph, one every 16 pixels, in random order."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    photo = np.asarray(Image.open(Path(spec.submodule_search_locations[0]) / "datasets" / "images" / name))
    windows = np.lib.stride_tricks.sliding_window_view(photo, (_SIZE, _SIZE), axis=(0, 1))[::16, ::16]
    images = windows.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1)
    return images[np.random.default_rng(0).permutation(len(images))]


CHINA, FLOWER = crops("china.jpg"), crops("flower.jpg")
REAL = np.concatenate([CHINA[:300], FLOWER[:300]])
OTHERS = np.concatenate([CHINA[300:600], FLOWER[300:600]])


@pytest.fixture(scope="module")
def real() -> NDArray[np.float32]:
    return EXTRACT(REAL)


def distances(images: Images, real: NDArray[np.float32]) -> tuple[float, float]:
    """Return the Fréchet and the kernel distance to the real features."""
    found = EXTRACT(images)
    moments = []
    for features in (found, real):
        moments.append(Moments(features.shape[1]))
        moments[-1].add(features)
    return frechet_distance(*moments), squared_mmd(found, real)


def test_a_feature_is_a_standardised_mean_of_a_channel() -> None:
    features = EXTRACT(REAL[:7])
    assert features.shape == (7, 224)
    assert features.dtype == np.float32
    weights = safetensors.numpy.load_file(STORED)
    means = features / np.where(weights["scale"], weights["scale"], 1.0) + weights["mean"]
    assert means.min() > -1e-4, "means of ReLU outputs cannot be negative"
    assert (weights["scale"] > 0.0).mean() > 0.9, "more than 10% of the channels are constant"


def test_convolution_follows_its_definition() -> None:
    """The reference is written out as sums, with a border of zeros, for both strides."""
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
    extract = CifarCNN()
    kernel = extract._weights["stem.weight"]
    padded = np.zeros((2, 8, 8, 3), np.float32)
    padded[:, 1:-1, 1:-1] = x
    for stride in (1, 2):
        wanted = extract._weights["stem.bias"] + sum(
            padded[:, i : i + 6 : stride, j : j + 6 : stride] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        np.testing.assert_allclose(extract._convolved(x, "stem", stride), wanted, rtol=1e-4, atol=1e-5)


def test_stored_file_is_small_and_its_hash_is_the_fingerprint() -> None:
    stored = STORED.read_bytes()
    assert len(stored) < 4e6
    assert hashlib.sha256(stored).hexdigest() == EXTRACT.fingerprint


def test_grey_images_are_rgb_with_equal_channels() -> None:
    grey = REAL[:5, :, :, :1]
    np.testing.assert_array_equal(EXTRACT(grey), EXTRACT(np.repeat(grey, 3, axis=3)))


def test_images_of_other_sizes_are_resized_by_area() -> None:
    """Images enlarged pixel by pixel have nearly the same features, and every size works, even 1 x 1."""
    images = REAL[:50]
    large = images.repeat(3, axis=1).repeat(3, axis=2)
    off = np.abs(EXTRACT(large) - EXTRACT(images)).mean()
    assert off < 0.25 * np.abs(EXTRACT(images[::-1]) - EXTRACT(images)).mean()
    for size in (1, 8, 31, 33, 100):
        assert EXTRACT(np.zeros((2, size, size, 3), np.uint8)).shape == (2, 224)


def test_distances_rank_real_damaged_and_incomplete_sets(real: NDArray[np.float32]) -> None:
    """Both distances rank other real images nearest, and grow with noise, blur and missing images."""
    nearest = distances(OTHERS, real)
    noise = [distances(noisy(OTHERS, spread), real) for spread in (4.0, 16.0, 64.0)]
    blur = [distances(blurred(OTHERS, radius), real) for radius in (0.7, 1.5, 3.0)]
    lost = [
        distances(np.concatenate([CHINA[600:900], FLOWER[600 : 600 + left]]), real) for left in (300, 100, 0)
    ]
    pixels = distances(np.random.default_rng(1).integers(0, 256, OTHERS.shape, np.uint8), real)
    for measure in (0, 1):
        for worse in (noise, blur, lost[1:]):
            values = [nearest[measure], *(one[measure] for one in worse)]
            assert values == sorted(values), f"{measure}: {values}"
        assert lost[0][measure] < lost[1][measure]
        assert pixels[measure] > max(one[measure] for one in (*noise[:2], *blur, *lost))
