"""Timestep samplers that ignore the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, SamplerState


class _Stateless:
    """Base class of samplers that ignore the losses."""

    needs_losses = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.num_train_timesteps = schedule.num_train_timesteps

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Do nothing."""

    def state_dict(self) -> SamplerState:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Do nothing: there is no state."""


class Uniform(_Stateless):
    """Draw timesteps uniformly and independently for each image (arXiv 2006.11239, algorithm 1).

    Args:
        schedule: The noise schedule of the run.
    """

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return timesteps int64 `(B,)`, and weights of 1."""
        t = rng.integers(0, self.num_train_timesteps, batch_size, dtype=np.int64)
        return t, np.ones(batch_size, dtype=np.float32)


class Antithetic(_Stateless):
    """Draw half of the batch at random, and mirror it: `t` and `T - 1 - t` (as in ermongroup/ddim).

    Each image's timestep is uniform, so the objective is the same, but every batch has as many high noise
    levels as low ones, which reduces the variance of its mean loss. In a batch of odd size, one image has no
    mirrored partner.

    Args:
        schedule: The noise schedule of the run.
    """

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return timesteps int64 `(B,)`, and weights of 1."""
        half = rng.integers(0, self.num_train_timesteps, (batch_size + 1) // 2, dtype=np.int64)
        t = np.concatenate([half, self.num_train_timesteps - 1 - half])[:batch_size]
        return t, np.ones(batch_size, dtype=np.float32)
