"""Check that the part honours its contract, and has the correct spacing."""

from __future__ import annotations

import numpy as np
from ddim_karras import karras

from ddim_host.testing import TimestepSubsetContract, linear_schedule


class TestKarras(TimestepSubsetContract):
    """The tests are inherited; add your own."""

    part = karras


def test_both_ends_and_the_spacing() -> None:
    """Check the range from 0 to T - 1, and even spacing in sigma^(1 / 7) to within half a timestep."""
    schedule = linear_schedule(1000)
    t = karras(schedule, 10)
    assert (t[0], t[-1]) == (0, 999)
    roots = np.sqrt(1.0 / schedule.alphas_cumprod - 1.0) ** (1.0 / 7.0)
    wanted = np.linspace(roots[0], roots[-1], 10)
    assert np.abs(np.interp(wanted, roots, np.arange(1000)) - t).max() <= 0.5


def test_a_schedule_may_end_in_pure_noise() -> None:
    """Check that sampling starts at pure noise although its sigma is infinite."""
    t = karras(linear_schedule(1000).rescaled_to_zero_snr(), 10)
    assert (t[0], t[-1]) == (0, 999)
