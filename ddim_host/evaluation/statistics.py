"""What is kept of the features of many images, and what is measured between two such sets."""

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
    """The features of a set of images.

    Attributes:
        count: N, the number of images.
        mean: float64 `(D,)`.
        covariance: float64 `(D, D)`, unbiased.
        kept: float32 `(K, D)`, K <= N, the features of single images.
    """

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    kept: NDArray[np.float32]


class StatisticsAccumulator:
    """Gathers the statistics of images whose features come batch by batch; bounded memory for any number.

    The images whose features are kept are spread evenly over the set, which may be sorted by class.

    Args:
        count: N, how many will come.
        max_kept: How many are kept at most.
    """

    def __init__(self, count: int, max_kept: int) -> None:
        self._count = count
        self._chosen = np.linspace(0, count - 1, min(count, max_kept)).astype(np.int64)
        self._moments: Moments | None = None
        self._kept: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32]) -> None:
        """Take the next features, `(B, D)`."""
        if self._moments is None:
            self._moments = Moments(features.shape[1])
        rows = self._chosen - self._moments.count
        self._kept.append(features[rows[(rows >= 0) & (rows < len(features))]])
        self._moments.add(features)

    def statistics(self) -> FeatureStatistics:
        """The statistics, once all images have come.

        Raises:
            ValueError: Another number of images came than was said.
        """
        if self._moments is None or self._moments.count != self._count:
            came = 0 if self._moments is None else self._moments.count
            raise ValueError(f"{self._count} images were announced, {came} came")
        return FeatureStatistics(
            self._count, self._moments.mean, self._moments.covariance, np.concatenate(self._kept)
        )


@dataclass(frozen=True)
class MeasureSettings:
    """How the measures are taken; a part of every number's protocol.

    Attributes:
        kernel_subsets: Subsets that the kernel distance is averaged over.
        kernel_subset_size: Images of either kind in each, or all where there are fewer.
        neighbours: k of precision and recall.
        max_kept: Images of either kind, at most, that kernel distance, precision and recall look at.
    """

    kernel_subsets: int = 100
    kernel_subset_size: int = 1000
    neighbours: int = 3
    max_kept: int = 10_000


@dataclass(frozen=True)
class Measures:
    """How far generated images are from real ones.

    Attributes:
        frechet_distance: See `distances.frechet_distance`; in the features of `inception` it is the FID.
        kernel_distance: See `distances.kernel_distance`; in the features of `inception` it is the KID.
        kernel_distance_error: The standard error of its mean over the subsets.
        precision: The share of generated images that look like real ones.
        recall: The share of real images that look like generated ones.
    """

    frechet_distance: float
    kernel_distance: float
    kernel_distance_error: float
    precision: float
    recall: float


def measure(generated: FeatureStatistics, real: FeatureStatistics, settings: MeasureSettings) -> Measures:
    """Take all measures; the subsets of the kernel distance are the same every time.

    Args:
        generated: Of the images to judge, or of other real ones.
        real: Of the reference.
        settings: How.

    Raises:
        ValueError: There are not more images than `neighbours`.
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
