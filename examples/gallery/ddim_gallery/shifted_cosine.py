"""The noise schedule `shifted_cosine`: more noise for larger images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError, hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host import NoiseScheduleFactory


@hookimpl
def ddim_noise_schedules() -> dict[str, NoiseScheduleFactory]:
    """Register the noise schedule."""
    return {"shifted_cosine": shifted_cosine}


def shifted_cosine(num_train_timesteps: int, *, size: int = 64, reference: int = 32) -> NDArray[np.float64]:
    """Cosine schedule with its log SNR shifted by `2 log(reference / size)` (arXiv 2301.11093).

    Neighbouring pixels of larger images are more similar, so the same noise hides less of the image. If
    size equals reference, alphas_cumprod is `cos^2(pi/2 t / T)`. Betas are limited to 0.999.
    """
    for name, value in (("size", size), ("reference", reference)):
        if value < 1:
            raise UserError(
                f"parameter {name!r} of noise schedule 'shifted_cosine' must be at least 1, not {value}"
            )
    u = np.arange(num_train_timesteps + 1) / num_train_timesteps
    alphas_cumprod = 1.0 / (1.0 + (size / reference * np.tan(0.5 * np.pi * u)) ** 2)
    betas: NDArray[np.float64] = np.minimum(1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)
    return betas
