"""Contracts of the parts that sampling needs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ddim_host.plugin import validation
from ddim_host.plugin.registry import Kind
from ddim_host.testing.part import PartContract, linear_schedule


class TimestepSubsetContract(PartContract):
    """Exactly S timesteps, int64 `(S,)`, strictly increasing, in [0, T).

    Attributes:
        sizes: Pairs (T, S) to try. S = T leaves no choice but all timesteps.
    """

    kind = Kind.TIMESTEP_SUBSET
    sizes: ClassVar[tuple[tuple[int, int], ...]] = (
        *((1000, steps) for steps in (1, 2, 3, 5, 10, 20, 50, 100, 333, 999, 1000)),
        *((25, steps) for steps in range(1, 26)),
    )

    def test_timesteps_are_valid_and_deterministic(self) -> None:
        """Dtype, number, order and range, the same every time."""
        for timesteps, steps in self.sizes:
            schedule = linear_schedule(timesteps)
            one, other = (
                validation.checked_subset(self.whole_part(), self.values(), schedule, steps) for _ in range(2)
            )
            np.testing.assert_array_equal(one, other)
