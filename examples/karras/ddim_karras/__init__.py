"""A timestep subset for ddim-host: the S of the T timesteps that sampling visits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError, hookimpl, strictly_increasing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, TimestepSubset

__all__ = ["karras"]


@hookimpl
def ddim_timestep_subsets() -> dict[str, TimestepSubset]:
    """Register the timestep subset."""
    return {"karras": karras}


def karras(schedule: NoiseSchedule, num_inference_steps: int, *, rho: float = 7.0) -> NDArray[np.int64]:
    """Space timesteps evenly in `sigma^(1 / rho)`, as in EDM (arXiv 2206.00364, equation 5).

    sigma is the ratio of noise to image, `sqrt((1 - abar) / abar)`. For the linear schedule, whose sigma ends
    at 157, rho 7 gives a subset that is dense at both ends; with a larger rho, it is denser at low noise.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        rho: The root of sigma that is spaced evenly, above 0.

    Returns:
        Exactly S strictly increasing timesteps, int64 `(S,)`.

    Raises:
        UserError: rho is not above 0.
    """
    if not rho > 0.0:
        raise UserError(f"parameter 'rho' of timestep subset 'karras' must be a number above 0, not {rho}")
    timesteps = schedule.num_train_timesteps
    # A schedule may end in pure noise, where sigma is infinite.
    alphas_cumprod = schedule.alphas_cumprod[schedule.alphas_cumprod > 0.0]
    sigmas = np.sqrt(1.0 / alphas_cumprod - 1.0) ** (1.0 / rho)
    # A single step must start at the noisiest timestep.
    wanted = np.linspace(sigmas[-1], sigmas[0], num_inference_steps)[::-1]
    positions = np.interp(wanted, sigmas, np.arange(len(sigmas)))
    positions[-1] = timesteps - 1
    # Round, and separate equal timesteps.
    return strictly_increasing(positions, timesteps)
