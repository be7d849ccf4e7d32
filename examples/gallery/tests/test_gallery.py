"""Check that the six parts honour their contracts and implement their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from ddim_gallery.log_snr import log_snr
from ddim_gallery.low_discrepancy import LowDiscrepancy
from ddim_gallery.multiscale import multiscale
from ddim_gallery.one_digit import one_digit
from ddim_gallery.shifted_cosine import shifted_cosine
from ddim_gallery.soft_min_snr import soft_min_snr

from ddim_host import NoiseSchedule, UserError
from ddim_host.testing import (
    DatasetContract,
    LossContract,
    LossWeightingContract,
    NoiseScheduleContract,
    TimestepSamplerContract,
    TimestepSubsetContract,
    linear_schedule,
)


class TestMultiscale(LossContract):
    """Run the inherited tests with all sizes down to single pixels."""

    part = multiscale
    parameters = {"smallest": 1}  # noqa: RUF012 - nothing changes it


class TestShiftedCosine(NoiseScheduleContract):
    """Run the inherited tests."""

    part = shifted_cosine


class TestLowDiscrepancy(TimestepSamplerContract):
    """Run the inherited tests."""

    part = LowDiscrepancy


class TestLogSNR(TimestepSubsetContract):
    """Run the inherited tests."""

    part = log_snr


class TestSoftMinSNR(LossWeightingContract):
    """Run the inherited tests."""

    part = soft_min_snr


class TestOneDigit(DatasetContract):
    """Run the inherited tests."""

    part = one_digit


def test_multiscale_is_the_weighted_mean_over_sizes() -> None:
    """Compute the loss of 4 x 4 images by hand, with weights 1/4, 1/2 and 1, divided by their sum."""
    difference = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    halved = (difference[..., ::2, :] + difference[..., 1::2, :]) / 2
    halved = (halved[..., ::2] + halved[..., 1::2]) / 2
    means = [(d**2).mean((1, 2, 3)) for d in (difference, halved, halved.mean((2, 3), keepdims=True))]
    expected = (means[0] / 4 + means[1] / 2 + means[2]) / 1.75
    np.testing.assert_allclose(multiscale(difference, 0.0 * difference, smallest=1), expected)
    np.testing.assert_allclose(multiscale(difference, 0.0 * difference, smallest=4), means[0])


def test_shifted_cosine_shifts_the_log_snr() -> None:
    """Check a shift by 2 log(1/2) from 32 to 64 pixels, and the cosine at 32."""
    here, there = (NoiseSchedule(shifted_cosine(1000, size=size)) for size in (32, 64))
    np.testing.assert_allclose(here.alphas_cumprod[:-1], np.cos(np.pi / 2 * np.arange(1, 1000) / 1000) ** 2)
    np.testing.assert_allclose(np.log(there.snr / here.snr)[:-1], 2 * np.log(0.5), rtol=1e-6)


def test_low_discrepancy_batches_cover_all_noise_levels() -> None:
    """Check that all gaps between neighbours, including the one that wraps around, are T / B."""
    t, _ = LowDiscrepancy(linear_schedule(1000)).sample(8, np.random.default_rng(0))
    ordered = np.sort(t)
    assert set(np.diff(np.append(ordered, ordered[0] + 1000))) == {125}


def test_log_snr_is_evenly_spaced() -> None:
    """Check the spacing from 0 to T - 1, and the last timestep if the schedule ends in pure noise."""
    schedule = linear_schedule(1000)
    t = log_snr(schedule, 10)
    noise = -np.log(schedule.snr)
    wanted = np.interp(np.linspace(noise[0], noise[-1], 10), noise, np.arange(1000))
    assert (t[0], t[-1]) == (0, 999)
    assert np.abs(t - wanted).max() < 2.0  # timesteps closer than 1 are moved apart
    assert log_snr(schedule.rescaled_to_zero_snr(), 10)[-1] == 999


def test_soft_min_snr_is_half_of_min_snr_at_its_corner() -> None:
    """Check the weights at the corner, and that all prediction types have the same objective."""
    schedule = linear_schedule(1000)
    weights = {
        kind: soft_min_snr(schedule, kind, gamma=5.0) for kind in ("epsilon", "sample", "v_prediction")
    }
    np.testing.assert_allclose(weights["sample"], 1.0 / (1.0 / schedule.snr + 1.0 / 5.0))
    np.testing.assert_allclose(weights["v_prediction"], weights["epsilon"] * schedule.alphas_cumprod)
    corner = np.interp(-5.0, -schedule.snr, weights["sample"])
    assert corner == pytest.approx(2.5, rel=1e-3)


def test_one_digit_contains_only_that_digit() -> None:
    """Check that all images of the digit 0 are loaded, range from 0 to 255 and are dark in the middle."""
    halves = one_digit(digit=0).load()
    assert (len(halves.train), len(halves.test)) == (143, 35)
    assert (int(halves.train.min()), int(halves.train.max())) == (0, 255)
    assert halves.train[:, 3:5, 3:5].mean() < 30.0  # the middle of a zero is empty


def test_parameters_out_of_range() -> None:
    """Check that the errors are raised before any training and name the parameter."""
    nothing = np.zeros((1, 1, 2, 2))
    with pytest.raises(UserError, match="'smallest' of loss 'multiscale'"):
        multiscale(nothing, nothing, smallest=0)
    with pytest.raises(UserError, match="'size' of noise schedule 'shifted_cosine'"):
        shifted_cosine(10, size=0)
    with pytest.raises(UserError, match="'reference' of noise schedule 'shifted_cosine'"):
        shifted_cosine(10, reference=0)
    with pytest.raises(UserError, match="'gamma' of loss weighting 'soft_min_snr'"):
        soft_min_snr(linear_schedule(100), "epsilon", gamma=0.0)
    with pytest.raises(UserError, match="'digit' of data set 'one_digit'"):
        one_digit(digit=10)
