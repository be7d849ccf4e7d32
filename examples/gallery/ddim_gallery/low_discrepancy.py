"""The timestep sampler `low_discrepancy`: every batch covers all noise levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddim_host import NoiseSchedule, hookimpl


@hookimpl
def ddim_timestep_samplers() -> dict[str, Any]:
    """Register the timestep sampler."""
    return {"low_discrepancy": LowDiscrepancy}


class LowDiscrepancy:
    """Draw evenly spaced timesteps with a random start, as in VDM (arXiv 2107.00630, appendix)."""

    needs_losses = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.timesteps = schedule.num_train_timesteps

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Any, Any]:
        """Return timesteps int64 `(B,)`, each uniformly distributed, and weights of 1, float32 `(B,)`."""
        spaced = np.arange(batch_size) * self.timesteps // batch_size
        return (rng.integers(self.timesteps) + spaced) % self.timesteps, np.ones(batch_size, np.float32)

    def update(self, t: Any, losses: Any) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Do nothing: there is no state."""
