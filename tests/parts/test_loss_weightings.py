"""Loss weightings: the published factors, and their effect on the error of x_start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import PREDICTION_TYPES, NoiseSchedule
from ddim_host.errors import UserError
from ddim_host.parts import ddim_loss_weightings
from ddim_host.parts.loss_weightings import min_snr, none, p2
from ddim_host.parts.noise_schedules import linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.plugin.contracts import LossWeighting

SCHEDULE = NoiseSchedule(linear(1000))
BETAS = st.lists(st.floats(1e-4, 0.9), min_size=1, max_size=30)


def test_all_parts_are_registered_by_name() -> None:
    assert set(ddim_loss_weightings()) == {"none", "min_snr", "p2"}


@given(BETAS)
def test_snr_is_the_power_ratio_of_image_and_noise(betas: list[float]) -> None:
    schedule = NoiseSchedule(betas)
    assert schedule.snr.dtype == np.float64
    power = (schedule.sqrt_alphas_cumprod / schedule.sqrt_one_minus_alphas_cumprod) ** 2
    np.testing.assert_allclose(schedule.snr, power, rtol=1e-9)
    assert np.all(np.diff(schedule.snr) < 0)


@pytest.mark.parametrize("part", [none, min_snr, p2])
@given(betas=BETAS)
def test_weights_honour_the_contract(part: LossWeighting, betas: list[float]) -> None:
    weights = part(NoiseSchedule(betas), "epsilon")
    assert weights.dtype == np.float64
    assert weights.shape == (len(betas),)
    assert np.all(np.isfinite(weights))
    assert np.all((weights > 0) & (weights <= 1))
    assert np.all(np.diff(weights) >= 0), "low noise must not have more weight than high noise"


@given(betas=BETAS, gamma=st.floats(0.01, 1000))
def test_min_snr_limits_the_weight_of_the_error_of_x_start(betas: list[float], gamma: float) -> None:
    """A squared error in epsilon is SNR times that in x_start (arXiv 2303.09556, section 3.4)."""
    schedule = NoiseSchedule(betas)
    in_x_start = min_snr(schedule, "epsilon", gamma=gamma) * schedule.snr
    np.testing.assert_allclose(in_x_start, [min(snr, gamma) for snr in schedule.snr], rtol=1e-12)


def test_min_snr_does_not_change_the_weight_of_high_noise() -> None:
    weights = min_snr(SCHEDULE, "epsilon")
    np.testing.assert_array_equal(weights[SCHEDULE.snr < 5], 1.0)
    assert np.all(weights[SCHEDULE.snr > 5] < 1)
    np.testing.assert_array_equal(min_snr(SCHEDULE, "epsilon", gamma=np.inf), none(SCHEDULE, "epsilon"))


@given(betas=BETAS, gamma=st.floats(0, 3), k=st.floats(0.01, 10))
def test_p2_is_the_papers_formula(betas: list[float], gamma: float, k: float) -> None:
    """Equation 8 of arXiv 2204.00227, with lambda_t = 1."""
    schedule = NoiseSchedule(betas)
    expected = [1 / (k + snr) ** gamma for snr in schedule.snr]
    np.testing.assert_allclose(p2(schedule, "epsilon", gamma=gamma, k=k), expected, rtol=1e-12)


def test_p2_with_defaults_is_the_noise_variance() -> None:
    """1 / (1 + SNR) equals 1 - alphas_cumprod."""
    np.testing.assert_allclose(p2(SCHEDULE, "epsilon"), 1 - SCHEDULE.alphas_cumprod, rtol=1e-9)
    np.testing.assert_array_equal(p2(SCHEDULE, "epsilon", gamma=0), none(SCHEDULE, "epsilon"))


@given(betas=BETAS, gamma=st.floats(0.01, 1000))
def test_min_snr_is_the_published_weight_for_each_prediction(betas: list[float], gamma: float) -> None:
    """The weights for x_start, epsilon and v are those of section 3.4 of arXiv 2303.09556."""
    schedule = NoiseSchedule(betas)
    least = np.minimum(schedule.snr, gamma)
    published = {"sample": least, "epsilon": least / schedule.snr, "v_prediction": least / (schedule.snr + 1)}
    for prediction_type in PREDICTION_TYPES:
        weights = min_snr(schedule, prediction_type, gamma=gamma)
        np.testing.assert_allclose(weights, published[prediction_type], rtol=1e-9)


@pytest.mark.parametrize("part", [min_snr, p2])
@given(betas=BETAS, seed=st.integers(0, 9))
def test_a_weighting_is_the_same_objective_for_each_prediction(
    part: LossWeighting, betas: list[float], seed: int
) -> None:
    """The weighted squared error is the same, whether measured in noise, x_start or v."""
    schedule = NoiseSchedule(betas)
    x_t, noise, guess = np.random.default_rng(seed).standard_normal((3, len(betas), 4))
    image_share, noise_share = schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod
    objectives = []
    for prediction_type in PREDICTION_TYPES:
        target, predicted = (
            {
                "epsilon": eps,
                "sample": (x_t - noise_share[:, None] * eps) / image_share[:, None],
                "v_prediction": (eps - noise_share[:, None] * x_t) / image_share[:, None],
            }[prediction_type]
            for eps in (noise, guess)
        )
        squares = ((predicted - target) ** 2).sum(1)
        objectives.append(part(schedule, prediction_type) * squares)
    np.testing.assert_allclose(objectives[1], objectives[0], rtol=1e-6)
    np.testing.assert_allclose(objectives[2], objectives[0], rtol=1e-6)


def test_the_plain_loss_has_weight_1_for_each_prediction() -> None:
    for prediction_type in PREDICTION_TYPES:
        np.testing.assert_array_equal(none(SCHEDULE, prediction_type), np.ones(1000))


def test_weightings_are_finite_at_zero_snr() -> None:
    schedule = SCHEDULE.rescaled_to_zero_snr()
    for part in (none, min_snr, p2):
        for prediction_type in ("sample", "v_prediction"):
            assert np.all(np.isfinite(part(schedule, prediction_type)))


def test_p2_is_finite_in_float32_for_extreme_parameters() -> None:
    for betas in (linear(1000), np.full(1000, 0.05)):
        for gamma in (0.0, 10.0):
            for k in (1e-3, 1e3):
                weights = p2(NoiseSchedule(betas), "epsilon", gamma=gamma, k=k).astype(np.float32)
                assert np.all(np.isfinite(weights))


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        (min_snr, {"gamma": 0.0}),
        (min_snr, {"gamma": -5.0}),
        (min_snr, {"gamma": np.nan}),
        (p2, {"gamma": -1.0}),
        (p2, {"gamma": 11.0}),
        (p2, {"k": 0.0}),
        (p2, {"k": np.inf}),
    ],
)
def test_parameters_out_of_range_are_refused(part: Callable[..., Any], parameters: dict[str, float]) -> None:
    [name] = parameters
    with pytest.raises(UserError, match=f"parameter {name!r} of loss weighting {part.__name__!r}"):
        part(SCHEDULE, "epsilon", **parameters)
