"""Features and distances against pytorch-fid and torch-fidelity, with the same weights and images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from ddim_host.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from ddim_host.evaluation.moments import Moments
from ddim_torch.features import Inception
from tests.support.inception_weights import random_weights
from tests.support.repository import SUPPORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEERS = Path(sys.prefix) / "peers"
WORKER = SUPPORT / "peers_worker.py"

pytestmark = pytest.mark.slow


def pictures(seed: int, count: int) -> NDArray[np.uint8]:
    """Return images of coloured blobs, 32 x 32 pixels: smooth like photographs, and all different."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:32, 0:32] / 32
    images = np.zeros((count, 32, 32, 3))
    for index in range(4 * count):
        y, x, width = rng.uniform(0, 1, 3)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (0.02 + 0.2 * width))
        images[index // 4] += blob[..., None] * rng.uniform(-1, 1, 3)
    return np.clip(127.5 + 100 * images, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
    """The peers' numbers; then our features and theirs for two sets of images."""
    folder = tmp_path_factory.mktemp("peers")
    weights = folder / "weights.safetensors"
    safetensors.numpy.save_file(random_weights(), weights)
    paths = [folder / "one.npy", folder / "other.npy"]
    sets = [pictures(1, 80), pictures(2, 60)]
    for path, images in zip(paths, sets, strict=True):
        np.save(path, images)
    assert PEERS.is_dir(), f"install the peers: pip install --no-deps --target {PEERS} -r tests/peers.txt"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(WORKER), str(PEERS), str(weights), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    extract = Inception(weights=weights, device="cpu")
    theirs = [np.load(folder / f"{name}-features.npy") for name in ("one", "other")]
    return json.loads(done.stdout), [*(extract(images) for images in sets), *theirs]


def moments(features: NDArray[np.float32]) -> Moments:
    gathered = Moments(features.shape[1])
    gathered.add(features)
    return gathered


def exact_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the Fréchet distance without taking a matrix root.

    With centred features, the trace of the root of C1 C2 is the sum of the singular values of X Y^T.
    """
    centred = [(features - features.mean(0)) / (len(features) - 1) ** 0.5 for features in (x, y)]
    cross = np.linalg.norm(centred[0] @ centred[1].T, "nuc")
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(means + sum((c**2).sum() for c in centred) - 2.0 * cross)


def test_features_equal_those_of_pytorch_fid(
    compared: tuple[dict[str, Any], list[NDArray[np.float32]]],
) -> None:
    _, (one, other, their_one, their_other) = compared
    assert one.std(0).mean() > 1e-3, "features must differ between images"
    for ours, theirs in ((one, their_one), (other, their_other)):
        # Ours folds batch normalisation into the convolutions and uses channels last and other batches. The
        # difference is fp32 rounding; theirs itself has an error of 6e-7 of the largest feature.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_frechet_distance_equals_that_of_pytorch_fid(
    compared: tuple[dict[str, Any], list[NDArray[np.float32]]],
) -> None:
    numbers, (_, _, one, other) = compared
    for dimension, theirs in numbers["frechet"].items():
        few = [features[:, : int(dimension)] for features in (one, other)]
        ours = frechet_distance(moments(few[0]), moments(few[1]))
        exact = exact_distance(few[0].astype(np.float64), few[1].astype(np.float64))
        assert ours == pytest.approx(exact, rel=1e-9)
        # With more features than images, their root of a singular matrix has fewer correct digits.
        singular = int(dimension) > len(other)
        assert ours == pytest.approx(theirs, rel=1e-4 if singular else 1e-6)
        assert abs(theirs - exact) >= abs(ours - exact) or not singular


def test_kernel_distance_equals_that_of_torch_fidelity(
    compared: tuple[dict[str, Any], list[NDArray[np.float32]]],
) -> None:
    numbers, (_, _, one, other) = compared
    assert squared_mmd(one[:60], other[:60]) == pytest.approx(numbers["kernel"], rel=1e-6)
    # Their generator of subsets; ours draws the same subsets from it in the same order.
    rng: Any = np.random.RandomState(2020)
    ours = kernel_distance(one, other, rng, subsets=10, subset_size=40)
    assert ours.mean == pytest.approx(numbers["kernel_mean"], rel=1e-6)
    # Theirs is the standard deviation with N in the denominator, not N - 1.
    assert ours.standard_error * 9**0.5 == pytest.approx(numbers["kernel_std"], rel=1e-6)


def test_precision_and_recall_equal_those_of_torch_fidelity(
    compared: tuple[dict[str, Any], list[NDArray[np.float32]]],
) -> None:
    numbers, (_, _, one, other) = compared
    assert precision_recall(one, other) == pytest.approx((numbers["precision"], numbers["recall"]), abs=1e-7)
    assert 0.0 < numbers["precision"] < 1.0
    assert 0.0 < numbers["recall"] < 1.0


def test_distance_computed_from_images_equals_theirs(
    compared: tuple[dict[str, Any], list[NDArray[np.float32]]],
) -> None:
    numbers, (one, other, _, _) = compared
    assert frechet_distance(moments(one[:, :32]), moments(other[:, :32])) == pytest.approx(
        numbers["frechet"]["32"], rel=1e-5
    )
