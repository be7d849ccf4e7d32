"""Noise schedule tables, and the forward process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class NoiseSchedule:
    """Noise schedule derived from betas: q(x_t | x_start) = N(sqrt(abar_t) x_start, (1 - abar_t) I).

    In the notation of DDPM (arXiv 2006.11239, equation 4), abar_t is the product of 1 - beta_s for s <= t.
    Timesteps run from 0 to T - 1; timestep -1 is the clean image, where abar is exactly 1.

    Args:
        betas: `(T,)`, each strictly between 0 and 1; the last one may be 1, so that x_(T-1) is pure noise.

    Attributes:
        betas: float64 `(T,)`, read-only, as are the tables below.
        alphas_cumprod: float64 `(T,)`, the abar_t, strictly decreasing.
        sqrt_alphas_cumprod: float64 `(T,)`, the share of the image in x_t.
        sqrt_one_minus_alphas_cumprod: float64 `(T,)`, the standard deviation of the noise in x_t.

    Raises:
        ValueError: The betas are not a non-empty vector of numbers in this range.
    """

    def __init__(self, betas: ArrayLike) -> None:
        values = np.array(betas, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"betas must be a non-empty vector, not an array of shape {values.shape}")
        if not np.all((values > 0.0) & (values <= 1.0)) or np.any(values[:-1] == 1.0):
            raise ValueError("every beta must be strictly between 0 and 1; the last one may be 1")
        self.betas = _read_only(values)
        self.alphas_cumprod = _read_only(np.cumprod(1.0 - values))
        self.sqrt_alphas_cumprod = _read_only(np.sqrt(self.alphas_cumprod))
        self.sqrt_one_minus_alphas_cumprod = _read_only(np.sqrt(1.0 - self.alphas_cumprod))

    def rescaled_to_zero_snr(self) -> NoiseSchedule:
        """Return a copy of this schedule, rescaled to end in pure noise (arXiv 2305.08891, algorithm 1).

        sqrt(abar) is shifted to 0 at the last timestep, and scaled to keep its value at the first.

        Raises:
            ValueError: The schedule has only one timestep.
        """
        roots = self.sqrt_alphas_cumprod
        if len(roots) == 1:
            raise ValueError("a schedule with one timestep cannot be rescaled")
        alphas_cumprod = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
        return NoiseSchedule(1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1]))

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps."""
        return int(self.betas.size)

    @property
    def snr(self) -> NDArray[np.float64]:
        """Signal-to-noise ratio of x_t, `abar_t / (1 - abar_t)`, float64 `(T,)`, strictly decreasing."""
        return self.alphas_cumprod / (1.0 - self.alphas_cumprod)

    def alpha_cumprod_at(self, t: int) -> float:
        """Return alphas_cumprod at one timestep in [-1, T); 1 at -1.

        Raises:
            IndexError: `t` is outside [-1, T).
        """
        if not -1 <= t < self.num_train_timesteps:
            raise IndexError(f"timestep {t} is outside [-1, {self.num_train_timesteps})")
        return 1.0 if t == -1 else float(self.alphas_cumprod[t])

    def add_noise(
        self, x_start: NDArray[np.float32], noise: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Add noise: x_t = sqrt(abar_t) x_start + sqrt(1 - abar_t) noise (arXiv 2006.11239, equation 4).

        Args:
            x_start: float32 `(B, ...)`.
            noise: float32, of the same shape, standard normal.
            t: int64 `(B,)` in [0, T).

        Returns:
            float32, of the same shape.
        """
        image_share, noise_share = self.shares(t, x_start.ndim)
        return image_share * x_start + noise_share * noise

    def shares(self, t: NDArray[np.int64], ndim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the factors of image and noise in x_t.

        Args:
            t: int64 `(B,)` in [0, T).
            ndim: The number of axes of x_t.

        Returns:
            sqrt(abar_t) and sqrt(1 - abar_t), float32 `(B, 1, ...)`.
        """
        shape = (-1,) + (1,) * (ndim - 1)
        return (
            self.sqrt_alphas_cumprod[t].astype(np.float32).reshape(shape),
            self.sqrt_one_minus_alphas_cumprod[t].astype(np.float32).reshape(shape),
        )


def _read_only(table: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(table, dtype=np.float64)
    values.flags.writeable = False
    return values
