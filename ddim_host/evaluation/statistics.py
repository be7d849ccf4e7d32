"""Statistics of the features of many images, and the measures that compare two sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion.randomness import Stream, generator
from ddim_host.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from ddim_host.evaluation.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Statistics of the features of a set of images.

    Attributes:
        count: N, the number of images.
        mean: float64 `(D,)`.
        covariance: float64 `(D, D)`, unbiased.
        kept: float32 `(K, D)`, K <= N, the features of a subset of the images.
    """

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    kept: NDArray[np.float32]


class StatisticsAccumulator:
    """Accumulate statistics of features batch by batch, in bounded memory.

    The features of evenly spaced images are kept, because the set may be sorted by class.

    Args:
        count: N, the number of images.
        max_kept: Maximum number of images whose features are kept.
    """

    def __init__(self, count: int, max_kept: int) -> None:
        self._count = count
        self._chosen = np.linspace(0, count - 1, min(count, max_kept)).astype(np.int64)
        self._moments: Moments | None = None
        self._kept: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32]) -> None:
        """Add the next features, `(B, D)`."""
        if self._moments is None:
            self._moments = Moments(features.shape[1])
        rows = self._chosen - self._moments.count
        self._kept.append(features[rows[(rows >= 0) & (rows < len(features))]])
        self._moments.add(features)

    def statistics(self) -> FeatureStatistics:
        """Return the statistics, once all images have been added.

        Raises:
            ValueError: The number of images added differs from `count`.
        """
        if self._moments is None or self._moments.count != self._count:
            came = 0 if self._moments is None else self._moments.count
            raise ValueError(f"expected {self._count} images, got {came}")
        return FeatureStatistics(
            self._count, self._moments.mean, self._moments.covariance, np.concatenate(self._kept)
        )


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measures; part of the protocol of every score.

    Attributes:
        kernel_subsets: Number of subsets over which the kernel distance is averaged.
        kernel_subset_size: Number of generated and of real images in a subset; all if there are fewer.
        neighbours: Number of nearest neighbours, k, for precision and recall.
        max_kept: Maximum number of generated and of real images for kernel distance, precision and recall.
    """

    kernel_subsets: int = 100
    kernel_subset_size: int = 1000
    neighbours: int = 3
    max_kept: int = 10_000


@dataclass(frozen=True)
class Measures:
    """Measures of the distance between generated and real images.

    Attributes:
        frechet_distance: See `distances.frechet_distance`; with the features of `inception`, the FID.
        kernel_distance: See `distances.kernel_distance`; with the features of `inception`, the KID.
        kernel_distance_error: Standard error of the kernel distance over the subsets.
        precision: Share of generated images that resemble real ones.
        recall: Share of real images that resemble generated ones.
    """

    frechet_distance: float
    kernel_distance: float
    kernel_distance_error: float
    precision: float
    recall: float


def measure(generated: FeatureStatistics, real: FeatureStatistics, settings: MeasureSettings) -> Measures:
    """Compute all measures; the random subsets of the kernel distance are always the same.

    Args:
        generated: Statistics of the images to score; for the noise floor, these are real images.
        real: Statistics of the reference.
        settings: Settings of the measures.

    Raises:
        ValueError: A set has at most `neighbours` images.
    """
    kernel = kernel_distance(
        generated.kept,
        real.kept,
        generator(0, Stream.KERNEL_SUBSETS),
        subsets=settings.kernel_subsets,
        subset_size=settings.kernel_subset_size,
    )
    precision, recall = precision_recall(generated.kept, real.kept, neighbours=settings.neighbours)
    return Measures(
        frechet_distance=frechet_distance(generated, real),
        kernel_distance=kernel.mean,
        kernel_distance_error=kernel.standard_error,
        precision=precision,
        recall=recall,
    )
