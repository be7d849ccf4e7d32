"""A timestep subset for ddim-host: which S of the T timesteps sampling visits."""

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
    """Name -> timestep subset."""
    return {"karras": karras}


def karras(schedule: NoiseSchedule, num_inference_steps: int, *, rho: float = 7.0) -> NDArray[np.int64]:
    """Evenly spaced in `sigma^(1 / rho)`, as in EDM (arXiv 2206.00364, equation 5).

    sigma is the noise in units of the image, `sqrt((1 - abar) / abar)`. Of the linear schedule, whose sigma
    ends at 157, rho 7 makes a subset that is dense at both ends; the larger rho, the denser at little noise.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        rho: Above 0.

    Returns:
        Exactly S strictly increasing timesteps, int64 `(S,)`.

    Raises:
        UserError: rho is not above 0.
    """
    if not rho > 0.0:
        raise UserError("the rho of karras must be above 0", why=f"given is {rho}")
    timesteps = schedule.num_train_timesteps
    # A schedule may end in pure noise, whose sigma is infinite.
    alphas_cumprod = schedule.alphas_cumprod[schedule.alphas_cumprod > 0.0]
    sigmas = np.sqrt(1.0 / alphas_cumprod - 1.0) ** (1.0 / rho)
    # A single step has to begin with the most noise.
    wanted = np.linspace(sigmas[-1], sigmas[0], num_inference_steps)[::-1]
    positions = np.interp(wanted, sigmas, np.arange(len(sigmas)))
    positions[-1] = timesteps - 1
    # Rounds, and moves timesteps apart that would be the same.
    return strictly_increasing(positions, timesteps)
