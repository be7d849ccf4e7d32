"""Interpolation between two noise samples: along the sphere, at constant speed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_host.diffusion import slerp

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (3, 4, 4)
FRACTION = st.floats(0, 1)


def noise(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


noises = st.integers(0, 2**32).map(noise)


def norm(vector: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def angle(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Use the half-angle formula, which stays exact at small angles, where the cosine is flat."""
    a, b = (v.astype(np.float64).ravel() / norm(v) for v in (one, other))
    return 2 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b)))


@given(noises, noises)
def test_ends_are_exact_copies(start: NDArray[np.float32], end: NDArray[np.float32]) -> None:
    for fraction, expected in ((0.0, start), (1.0, end)):
        result = slerp(start, end, fraction)
        np.testing.assert_array_equal(result, expected)
        assert not np.shares_memory(result, expected)


@given(noises, noises, FRACTION)
def test_shape_and_dtype_are_kept_and_inputs_unchanged(
    start: NDArray[np.float32], end: NDArray[np.float32], fraction: float
) -> None:
    before = start.copy(), end.copy()
    result = slerp(start, end, fraction)
    assert result.shape == SHAPE
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    np.testing.assert_array_equal([start, end], before)


@given(noises, noises, FRACTION)
def test_common_norm_of_the_ends_is_kept(
    start: NDArray[np.float32], end: NDArray[np.float32], fraction: float
) -> None:
    end = (end * (norm(start) / norm(end))).astype(np.float32)
    assert norm(slerp(start, end, fraction)) == pytest.approx(norm(start), rel=1e-5)


def test_halfway_noise_has_unit_variance() -> None:
    """The mean of two noise samples is too weak by a factor of sqrt(2), and yields washed-out images."""
    start, end = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    assert float(slerp(start, end, 0.5).std()) == pytest.approx(1.0, abs=0.02)
    assert float(((start + end) / 2).std()) == pytest.approx(math.sqrt(0.5), abs=0.02)


@given(noises, noises, FRACTION)
def test_swapping_the_ends_gives_the_same_path(
    start: NDArray[np.float32], end: NDArray[np.float32], fraction: float
) -> None:
    there, back = slerp(start, end, fraction), slerp(end, start, 1 - fraction)
    np.testing.assert_allclose(there, back, atol=1e-5)


@given(noises, noises, FRACTION)
def test_angle_grows_linearly(start: NDArray[np.float32], end: NDArray[np.float32], fraction: float) -> None:
    end = (end * (norm(start) / norm(end))).astype(np.float32)
    assume(norm(start - end) > 0)
    middle = slerp(start, end, fraction)
    assert angle(start, middle) == pytest.approx(fraction * angle(start, end), abs=1e-5)
    assert angle(middle, end) == pytest.approx((1 - fraction) * angle(start, end), abs=1e-5)


def test_quarter_circle_computed_by_hand() -> None:
    x, y = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(slerp(x, y, 1 / 3), [math.cos(math.pi / 6), math.sin(math.pi / 6)], rtol=1e-6)
    np.testing.assert_allclose(slerp(x, 2 * y, 1 / 3), [math.cos(math.pi / 6), 1.0], rtol=1e-6)


@given(noises, st.floats(0.1, 10), FRACTION)
def test_parallel_noises_are_interpolated_linearly(
    start: NDArray[np.float32], factor: float, fraction: float
) -> None:
    end = (start * np.float32(factor)).astype(np.float32)
    expected = (1 - fraction) * start.astype(np.float64) + fraction * end.astype(np.float64)
    np.testing.assert_allclose(slerp(start, end, fraction), expected, rtol=1e-5, atol=1e-5)


@given(noises, st.floats(1e-9, 1e-3), FRACTION)
def test_nearly_parallel_noises_do_not_blow_up(
    start: NDArray[np.float32], difference: float, fraction: float
) -> None:
    end = (start + difference * noise(1)).astype(np.float32)
    result = slerp(start, end, fraction)
    low, high = np.minimum(start, end), np.maximum(start, end)
    assert np.all(result >= low - 1e-5)
    assert np.all(result <= high + 1e-5)
