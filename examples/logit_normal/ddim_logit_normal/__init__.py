"""A timestep sampler for ddim-host, which draws the timestep of each image of a training batch."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, SamplerState, TimestepSamplerFactory

__all__ = ["LogitNormal"]


@hookimpl
def ddim_timestep_samplers() -> dict[str, TimestepSamplerFactory]:
    """Register the timestep sampler."""
    return {"logit_normal": LogitNormal}


class LogitNormal:
    """Draw timesteps in the middle more often: the logit of `t / T` is normally distributed.

    This is the density of Stable Diffusion 3 (arXiv 2403.03206, equation 19), mixed with a small share of the
    uniform distribution so that no timestep is neglected. In that paper it changes the objective; here the
    weights `1 / (T p_t)` correct that, and only the variance of the estimate changes.

    Args:
        schedule: The noise schedule of the run.
        mean: Mean of the logit; above 0 favours high noise.
        std: Standard deviation of the logit; above 0.
        uniform_share: Share of the uniform distribution, in (0, 1]. The weights are at most its inverse.

    Raises:
        UserError: A parameter is out of range.
    """

    needs_losses = False

    def __init__(
        self, schedule: NoiseSchedule, *, mean: float = 0.0, std: float = 1.0, uniform_share: float = 0.1
    ) -> None:
        label = "of timestep sampler 'logit_normal' must be a number"
        if not std > 0.0:
            raise UserError(f"parameter 'std' {label} above 0, not {std}")
        if not 0.0 < uniform_share <= 1.0:
            raise UserError(f"parameter 'uniform_share' {label} in (0, 1], not {uniform_share}")
        timesteps = schedule.num_train_timesteps
        # The exact probability of the interval from t / T to (t + 1) / T.
        edges = np.arange(1, timesteps) / timesteps
        normal = NormalDist(mean, std)
        inner = [normal.cdf(logit) for logit in np.log(edges / (1.0 - edges))]
        shares = np.diff([0.0, *inner, 1.0])
        self._probabilities = (1.0 - uniform_share) * shares + uniform_share / timesteps

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return timesteps int64 `(B,)`, and weights float32 `(B,)` that correct for their distribution."""
        timesteps = len(self._probabilities)
        t = rng.choice(timesteps, size=batch_size, p=self._probabilities).astype(np.int64)
        return t, (1.0 / (timesteps * self._probabilities[t])).astype(np.float32)

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Do nothing: the sampler ignores the losses."""

    def state_dict(self) -> SamplerState:
        """Return an empty state: the parameters determine everything."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Do nothing: there is no state."""
