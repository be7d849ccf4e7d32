"""Check that the part honours its contract, and draws from the logit-normal distribution."""

from __future__ import annotations

import numpy as np
import pytest
from ddim_logit_normal import LogitNormal

from ddim_host import UserError
from ddim_host.testing import TimestepSamplerContract, linear_schedule


class TestLogitNormal(TimestepSamplerContract):
    """The tests are inherited; add your own."""

    part = LogitNormal


class TestShifted(TimestepSamplerContract):
    """Run the inherited tests with other parameters."""

    part = LogitNormal
    parameters = {"mean": 1.0, "std": 0.5, "uniform_share": 0.3}  # noqa: RUF012 - nothing changes it


def test_the_logits_are_normal() -> None:
    """Check the mean and standard deviation of the logit of t / T, with almost no uniform share."""
    sampler = LogitNormal(linear_schedule(1000), mean=0.5, std=0.8, uniform_share=1e-6)
    t, _ = sampler.sample(100_000, np.random.default_rng(0))
    share = (t + 0.5) / 1000
    logits = np.log(share / (1.0 - share))
    assert abs(logits.mean() - 0.5) < 0.02
    assert abs(logits.std() - 0.8) < 0.02


@pytest.mark.parametrize("parameters", [{"std": 0.0}, {"uniform_share": 0.0}, {"uniform_share": 2.0}])
def test_parameters_out_of_range(parameters: dict[str, float]) -> None:
    """Check that the error is a UserError, raised before any training."""
    with pytest.raises(UserError):
        LogitNormal(linear_schedule(100), **parameters)
