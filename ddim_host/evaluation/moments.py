"""Mean and covariance of features, accumulated batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Moments:
    """The first two moments of N feature vectors, in constant memory.

    Batches are merged with the parallel update of Chan, Golub and LeVeque (1979, equation 2.1). Unlike a
    running sum of squares, it is accurate even if the mean is large compared with the spread.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(dimension)
        self._scatter: NDArray[np.float64] = np.zeros((dimension, dimension))

    def add(self, features: NDArray[np.floating[Any]]) -> None:
        """Add features, `(B, D)`."""
        batch = features.astype(np.float64)
        size = len(batch)
        if size == 0:
            return
        mean = batch.mean(0)
        centred = batch - mean
        shift = mean - self.mean
        total = self.count + size
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * size / total)
        self.mean = self.mean + shift * (size / total)
        self.count = total

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The unbiased covariance, float64 `(D, D)`.

        Raises:
            ValueError: There are fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError("a covariance needs at least two feature vectors")
        return self._scatter / (self.count - 1)
