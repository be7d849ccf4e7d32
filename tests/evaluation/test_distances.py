"""Distances in a feature space, against SciPy and against direct implementations of their definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from ddim_host.evaluation.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]


def features(
    size: int, dimension: int, *, seed: int, shift: float = 0.0, rank: int | None = None
) -> Features:
    """Return correlated features; if `rank` is below the dimension, their covariance is singular."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((rank or dimension, dimension))
    found = rng.standard_normal((size, len(mix))) @ mix + shift
    return found.astype(np.float32)


def moments(*batches: Features) -> Moments:
    gathered = Moments(batches[0].shape[1])
    for batch in batches:
        gathered.add(batch)
    return gathered


def textbook(one: Features, other: Features) -> float:
    """Use the root of the product itself, as pytorch-fid does; imaginary parts are discarded."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    difference = x.mean(0) - y.mean(0)
    return float(difference @ difference + np.trace(cov_x + cov_y - 2 * root))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 99), st.floats(0, 1e3))
def test_moments_do_not_depend_on_the_batches(sizes: list[int], seed: int, shift: float) -> None:
    whole = features(sum(sizes) + 2, 5, seed=seed, shift=shift)
    gathered = moments(*np.split(whole, np.cumsum(sizes)))
    exact = whole.astype(np.float64)
    assert gathered.count == len(whole)
    np.testing.assert_allclose(gathered.mean, exact.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gathered.covariance, np.cov(exact.T), rtol=1e-7, atol=1e-7)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two"):
        _ = moments(features(1, 4, seed=0)).covariance


@pytest.mark.parametrize("size", [500, 64])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_frechet_distance_equals_the_textbook_formula(size: int, shift: float) -> None:
    one, other = features(500, 32, seed=1), features(size, 32, seed=2, shift=shift)
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(textbook(one, other), rel=1e-6)


def exact(one: Features, other: Features) -> float:
    """Compute the distance without a covariance: the trace of the root is a sum of singular values."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    centred = [(f - f.mean(0)) / (len(f) - 1) ** 0.5 for f in (x, y)]
    cross = np.linalg.norm(centred[0] @ centred[1].T, "nuc")
    spread = sum((c**2).sum() for c in centred)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spread - 2.0 * cross)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (features(400, 16, seed=1, rank=6), features(400, 16, seed=2, rank=4)),
        (features(5, 16, seed=3), features(5, 16, seed=4)),
        (features(5, 16, seed=3), features(300, 16, seed=4)),
        (100 * features(60, 256, seed=5), 1e-2 * features(80, 256, seed=6, shift=3.0)),
    ],
)
def test_singular_covariances_need_no_correction(one: Features, other: Features) -> None:
    """With fewer images than features, the root of the product is not unique, but its trace is."""
    expected = exact(one, other)
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(moments(other), moments(one)) == pytest.approx(expected, rel=1e-7)


def test_distance_of_a_set_to_itself_is_zero() -> None:
    for few in (features(5, 16, seed=3), features(500, 16, seed=3)):
        assert frechet_distance(moments(few), moments(few)) == pytest.approx(0.0, abs=1e-10)


def test_frechet_distance_of_gaussians_equals_the_closed_form() -> None:
    """For covariances that commute, it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    one = Moments(3)
    one.add(np.array([[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]], np.float32))
    other = Moments(3)
    other.add(np.array([[4, 0, 0], [-4, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32) + 1)
    deviations = [np.sqrt(np.diag(m.covariance)) for m in (one, other)]
    expected = 3.0 + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_squared_mmd_equals_its_definition() -> None:
    x, y = features(7, 3, seed=1).astype(np.float64), features(5, 3, seed=2).astype(np.float64)

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    expected = within_x + within_y - 2 * between
    assert squared_mmd(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased_and_has_a_standard_error() -> None:
    """For two samples of one distribution its mean is 0, so it is negative as often as positive."""
    means = []
    for seed in range(30):
        one, other = features(200, 8, seed=1), features(200, 8, seed=1)
        rng = np.random.default_rng(seed)
        mixed = rng.permutation(
            np.concatenate([one, other]) + rng.standard_normal((400, 8)).astype(np.float32)
        )
        means.append(kernel_distance(mixed[:200], mixed[200:], rng, subsets=10, subset_size=100).mean)
    assert min(means) < 0.0 < max(means)
    rng = np.random.default_rng(0)
    one, other = features(300, 8, seed=1), features(300, 8, seed=1, shift=1.0)
    distance = kernel_distance(one, other, rng, subsets=20, subset_size=100)
    assert distance.mean > 5 * distance.standard_error > 0.0


def test_precision_and_recall_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    real = rng.standard_normal((60, 2)).astype(np.float32)
    generated = (rng.standard_normal((50, 2)) * 0.5 + 0.3).astype(np.float32)

    def share(points: Features, manifold: Features) -> float:
        inside = 0
        for point in points:
            for centre in manifold:
                radius = np.sort(np.linalg.norm(manifold - centre, axis=1))[3]
                if np.linalg.norm(point - centre) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    expected = share(generated, real), share(real, generated)
    assert precision_recall(generated, real) == pytest.approx(expected, abs=1e-9)
    assert expected[0] > expected[1], "images near the centre only: high precision, low recall"


def test_images_lie_on_their_own_manifold() -> None:
    real = features(40, 6, seed=0)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 1e4, real) == (0.0, 0.0)


@pytest.mark.parametrize("size", [1, 3])
def test_too_few_images_are_refused(size: int) -> None:
    few, many = features(size, 4, seed=0), features(20, 4, seed=1)
    with pytest.raises(ValueError, match="more than 3 generated and 3 real images"):
        precision_recall(few, many)
    if size == 1:
        with pytest.raises(ValueError, match="at least two generated and two real images"):
            kernel_distance(few, many, np.random.default_rng(0))
