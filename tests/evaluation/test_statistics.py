"""Statistics of features, and the measures that compare two sets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion.randomness import Stream, generator
from ddim_host.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from ddim_host.evaluation.statistics import MeasureSettings, StatisticsAccumulator, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.evaluation.statistics import FeatureStatistics

SETTINGS = MeasureSettings(kernel_subsets=5, kernel_subset_size=50)


def features(count: int, dimension: int = 4, *, seed: int = 0, shift: float = 0.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dimension)) + shift).astype(np.float32)


def gathered(vectors: NDArray[np.float32], batch_size: int, max_kept: int = 1000) -> FeatureStatistics:
    gathering = StatisticsAccumulator(len(vectors), max_kept)
    for first in range(0, len(vectors), batch_size):
        gathering.add(vectors[first : first + batch_size])
    return gathering.statistics()


@given(count=st.integers(2, 60), batch_size=st.integers(1, 70), max_kept=st.integers(1, 70))
def test_statistics_do_not_depend_on_the_batch_size(count: int, batch_size: int, max_kept: int) -> None:
    vectors = features(count)
    statistics = gathered(vectors, batch_size, max_kept)
    assert statistics.count == count
    np.testing.assert_allclose(statistics.mean, vectors.mean(0, dtype=np.float64), atol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(vectors.astype(np.float64).T), atol=1e-12)
    np.testing.assert_array_equal(statistics.kept, gathered(vectors, count, max_kept).kept)
    assert len(statistics.kept) == min(count, max_kept)


def test_kept_images_are_spread_over_a_sorted_set() -> None:
    classes = np.repeat(np.arange(10, dtype=np.float32), 100)[:, None]
    kept = gathered(classes, batch_size=64, max_kept=50).kept
    assert np.bincount(kept[:, 0].astype(int), minlength=10).tolist() == pytest.approx([5] * 10, abs=1)
    assert len(np.unique(gathered(features(1000), 64, max_kept=50).kept, axis=0)) == 50, (
        "each image must be kept at most once"
    )


@pytest.mark.parametrize("count", [0, 9, 11])
def test_wrong_number_of_images_is_an_error(count: int) -> None:
    gathering = StatisticsAccumulator(10, 5)
    if count:
        gathering.add(features(count))
    with pytest.raises(ValueError, match=f"expected 10 images, got {count}"):
        gathering.statistics()


def test_measures_equal_those_of_their_functions() -> None:
    generated, real = features(120, seed=1, shift=0.3), features(150, seed=2)
    one, other = gathered(generated, 50), gathered(real, 40)
    measures = measure(one, other, SETTINGS)
    kernel = kernel_distance(generated, real, generator(0, Stream.KERNEL_SUBSETS), subsets=5, subset_size=50)
    assert measures.frechet_distance == frechet_distance(one, other)
    assert (measures.kernel_distance, measures.kernel_distance_error) == (kernel.mean, kernel.standard_error)
    assert (measures.precision, measures.recall) == precision_recall(generated, real, neighbours=3)
    assert measure(one, other, SETTINGS) == measures, "the subsets must be reproducible"
    looser = measure(one, other, replace(SETTINGS, neighbours=10))
    assert looser.precision > measures.precision
