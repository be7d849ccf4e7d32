"""The timestep subset `log_snr`: each step of the sampler removes an equal share of the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import hookimpl, strictly_increasing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, TimestepSubset


@hookimpl
def ddim_timestep_subsets() -> dict[str, TimestepSubset]:
    """Register the timestep subset."""
    return {"log_snr": log_snr}


def log_snr(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Space timesteps evenly in the log signal-to-noise ratio, as in DPM-Solver (arXiv 2206.00927).

    A schedule may end in pure noise, where the log SNR is infinite; sampling starts there anyway.
    """
    noise = -np.log(schedule.snr[schedule.snr > 0.0])
    # Start from the end, because a single step must begin at the noisiest timestep.
    wanted = np.linspace(noise[-1], noise[0], num_inference_steps)[::-1]
    positions = np.interp(wanted, noise, np.arange(len(noise)))
    positions[-1] = schedule.num_train_timesteps - 1
    return strictly_increasing(positions, schedule.num_train_timesteps)
