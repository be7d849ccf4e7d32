"""Weights per timestep that change the training objective (unlike a sampler's, which only undo its bias)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule

__all__ = ["none"]


def none(schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Weight 1 at every timestep: L_simple of DDPM (arXiv 2006.11239, equation 14).

    Args:
        schedule: The noise schedule of the run.

    Returns:
        float64 `(T,)` of ones.
    """
    return np.ones(schedule.num_train_timesteps)
