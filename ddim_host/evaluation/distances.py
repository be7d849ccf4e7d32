"""Distances between generated and real images in a feature space, computed in float64 with NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Rows of a distance matrix computed at a time, to limit memory to a few hundred megabytes.
_BLOCK = 1024


class Gaussian(Protocol):
    """Mean, float64 `(D,)`, and covariance, float64 `(D, D)`, of features."""

    @property
    def mean(self) -> NDArray[np.float64]: ...

    @property
    def covariance(self) -> NDArray[np.float64]: ...


def frechet_distance(generated: Gaussian, real: Gaussian) -> float:
    """Return the squared Fréchet distance between two Gaussians (arXiv 1706.08500, equation 6).

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. With `C1 = A A^T` and `C2 = B B^T`, the trace of the
    square root is the sum of the singular values of `A^T B`. This avoids matrix square roots, discarded
    imaginary parts and offsets on the diagonals, and it is exact for singular covariances.

    Args:
        generated: Moments of the generated images' features.
        real: Moments of the real images' features.
    """
    one, other = _factor(generated.covariance), _factor(real.covariance)
    cross = scipy.linalg.svdvals(one.T @ other, overwrite_a=True).sum()
    means = ((generated.mean - real.mean) ** 2).sum()
    return float(means + np.trace(generated.covariance) + np.trace(real.covariance) - 2.0 * cross)


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance, averaged over subsets, and its standard error.

    Attributes:
        mean: The kernel distance.
        standard_error: Standard deviation over the subsets, divided by the square root of their number.
    """

    mean: float
    standard_error: float


def kernel_distance(
    generated: NDArray[np.float32],
    real: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """Return the kernel distance KID: the unbiased MMD^2 with a cubic kernel (arXiv 1801.01401, section 4).

    Its expected value, unlike that of the Fréchet distance, does not depend on the number of images.

    Args:
        generated: Features `(N, D)`.
        real: Features `(M, D)`.
        rng: Draws the subsets, each without replacement.
        subsets: Number of subsets.
        subset_size: Number of generated and of real images in a subset; all images if there are fewer.

    Raises:
        ValueError: There are fewer than two generated or fewer than two real images.
    """
    size = min(subset_size, len(generated), len(real))
    if size < 2:
        raise ValueError("a kernel distance needs at least two generated and two real images")
    estimates = [
        squared_mmd(
            generated[rng.choice(len(generated), size, replace=False)],
            real[rng.choice(len(real), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    spread = float(np.std(estimates, ddof=1)) if subsets > 1 else 0.0
    return KernelDistance(float(np.mean(estimates)), spread / subsets**0.5)


def squared_mmd(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the unbiased squared MMD of two samples (Gretton et al., 2012, equation 3).

    The kernel is `(x . y / D + 1)^3`. The estimate is unbiased, so it can be negative.

    Args:
        one: `(N, D)`.
        other: `(M, D)`.
    """
    x, y = (features.astype(np.float64) / features.shape[1] ** 0.5 for features in (one, other))
    within = sum(
        (_kernel_sum(a @ a.T) - _kernel_sum((a * a).sum(1))) / (len(a) * (len(a) - 1)) for a in (x, y)
    )
    return float(within - 2.0 * _kernel_sum(x @ y.T) / (len(x) * len(y)))


def precision_recall(
    generated: NDArray[np.float32], real: NDArray[np.float32], *, neighbours: int = 3
) -> tuple[float, float]:
    """Return precision and recall (arXiv 1904.06991, equations 1 and 2).

    A point is on the manifold of a set if its distance from some point of the set is at most that point's
    distance from its k-th nearest neighbour. Precision, the share of generated images on the manifold of the
    real ones, measures fidelity. Recall, the share of real images on the manifold of the generated ones,
    measures coverage.

    Args:
        generated: Features `(N, D)`.
        real: Features `(M, D)`.
        neighbours: k, the number of nearest neighbours.

    Raises:
        ValueError: A set has at most k images.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(
            f"precision and recall need more than {neighbours} generated and {neighbours} real images"
        )
    x, y = generated.astype(np.float64), real.astype(np.float64)
    return _share_on_manifold(x, y, neighbours), _share_on_manifold(y, x, neighbours)


def _factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return A, `(D, rank)`, such that `A A^T` is the covariance; drop eigenvalues at rounding level."""
    # SciPy's default algorithm (MRRR) is twice as fast as NumPy's.
    values, vectors = scipy.linalg.eigh(covariance)
    keep = values > len(values) * np.finfo(np.float64).eps * values[-1]
    factor: NDArray[np.float64] = vectors[:, keep] * np.sqrt(values[keep])
    return factor


def _kernel_sum(products: NDArray[np.float64]) -> float:
    """Return the sum of the kernel over the scalar products `x . y / D`; the argument is overwritten."""
    products += 1.0
    flat = products.ravel()
    return float((flat * flat) @ flat)


def _share_on_manifold(points: NDArray[np.float64], manifold: NDArray[np.float64], neighbours: int) -> float:
    # The nearest point is the point itself, at distance 0.
    radii = np.concatenate(
        [np.partition(block, neighbours, axis=1)[:, neighbours] for block in _distances(manifold, manifold)]
    )
    inside = [(block <= radii).any(axis=1) for block in _distances(points, manifold)]
    return float(np.concatenate(inside).mean())


def _distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the squared Euclidean distances from blocks of rows of x to all rows of y."""
    squares = (y**2).sum(1)
    for first in range(0, len(x), _BLOCK):
        rows = x[first : first + _BLOCK]
        yield np.maximum((rows**2).sum(1)[:, None] + squares - 2.0 * (rows @ y.T), 0.0)
