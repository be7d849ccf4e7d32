"""Predictions: targets, recovery of image and noise, and schedules that end in pure noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import (
    PREDICTION_TYPES,
    NoiseSchedule,
    PredictionType,
    ddim_step,
    ddim_steps,
    encoding_steps,
    epsilon_error_ratio,
    image_and_noise,
    prediction_target,
)
from ddim_host.parts import ddim_solvers
from ddim_host.parts.noise_schedules import cosine, linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep

BETAS = st.lists(st.floats(1e-4, 0.9), min_size=2, max_size=30)
SCHEDULE = NoiseSchedule(linear(1000))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@given(betas=BETAS, seed=st.integers(0, 9))
def test_target_recovers_image_and_noise(
    prediction_type: PredictionType, betas: list[float], seed: int
) -> None:
    schedule = NoiseSchedule(betas)
    x_start, noise = np.random.default_rng(seed).standard_normal((2, len(betas), 3)).astype(np.float32)
    t = np.arange(len(betas))
    x_t = schedule.add_noise(x_start, noise, t)
    target = prediction_target(prediction_type, schedule, x_start, noise, t)
    assert target.dtype == np.float32
    for step in ddim_steps(schedule, t, eta=0.0):
        image, epsilon = image_and_noise(x_t[step.t], target[step.t], step, prediction_type)
        share = math.sqrt(step.alpha_cumprod)
        np.testing.assert_allclose(image, x_start[step.t], atol=1e-5 / share)
        np.testing.assert_allclose(epsilon, noise[step.t], atol=1e-5 / math.sqrt(1 - step.alpha_cumprod))


@given(BETAS)
def test_v_is_the_derivative_of_x_t_with_respect_to_the_angle(betas: list[float]) -> None:
    """The cosine of the angle is sqrt(abar) (arXiv 2202.00512, appendix D)."""
    schedule = NoiseSchedule(betas)
    x_start, noise = (np.full((len(betas), 1), value, dtype=np.float32) for value in (0.3, -1.2))
    v = prediction_target("v_prediction", schedule, x_start, noise, np.arange(len(betas)))
    angle, small = np.arccos(schedule.sqrt_alphas_cumprod), 1e-6

    def x_at(angles: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.cos(angles) * 0.3 - np.sin(angles) * 1.2

    derivative = (x_at(angle + small) - x_at(angle - small)) / (2 * small)
    np.testing.assert_allclose(v[:, 0], derivative, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_squared_errors_of_prediction_types_differ_by_epsilon_error_ratio(
    prediction_type: PredictionType,
) -> None:
    rng = np.random.default_rng(0)
    x_t, prediction, other = rng.standard_normal((3, 5))
    for step in ddim_steps(SCHEDULE, [0, 30, 500, 999], eta=0.0):
        _, one = image_and_noise(x_t, prediction, step, prediction_type)
        _, two = image_and_noise(x_t, other, step, prediction_type)
        ratio = ((one - two) ** 2).sum() / ((prediction - other) ** 2).sum()
        assert ratio == pytest.approx(epsilon_error_ratio(prediction_type, SCHEDULE)[step.t], rel=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_encoding_step_predicts_the_clean_image_itself(prediction_type: PredictionType) -> None:
    """The network gets timestep 0, and nothing is divided by the clean image's noise level, zero."""
    [step, *_] = encoding_steps(SCHEDULE, [0, 500])
    image, prediction = np.random.default_rng(0).standard_normal((2, 5))
    x_start, noise = image_and_noise(image, prediction, step, prediction_type)
    np.testing.assert_allclose(x_start, image, rtol=1e-12)
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_exact_predictions_lead_to_the_true_image(prediction_type: PredictionType) -> None:
    x_start, noise = np.random.default_rng(1).standard_normal((2, 1, 6)).astype(np.float32)
    x = SCHEDULE.add_noise(x_start, noise, np.array([999]))[0].astype(np.float64)
    for step in ddim_steps(SCHEDULE, [0, 3, 40, 300, 999], eta=0.0):
        target = prediction_target(prediction_type, SCHEDULE, x_start, noise, np.array([step.t]))[0]
        x, _ = ddim_step(x, target, step, prediction_type)
    np.testing.assert_allclose(x, x_start[0], atol=2e-4)


@given(BETAS)
def test_rescaled_schedule_keeps_its_start_and_ends_in_pure_noise(betas: list[float]) -> None:
    schedule = NoiseSchedule(betas)
    stretched = schedule.rescaled_to_zero_snr()
    assert stretched.alphas_cumprod[-1] == 0.0
    assert stretched.alphas_cumprod[0] == pytest.approx(schedule.alphas_cumprod[0], rel=1e-9)
    assert np.all(np.diff(stretched.alphas_cumprod) < 0)
    shape, before = stretched.sqrt_alphas_cumprod, schedule.sqrt_alphas_cumprod
    stretch = (shape[-1] - shape[0]) / (before[-1] - before[0])
    np.testing.assert_allclose(np.diff(shape), np.diff(before) * stretch, rtol=1e-5, atol=1e-9)


def test_schedule_with_one_timestep_cannot_be_rescaled() -> None:
    with pytest.raises(ValueError, match="one timestep"):
        NoiseSchedule([0.1]).rescaled_to_zero_snr()


@pytest.mark.parametrize("solver", ddim_solvers())
@pytest.mark.parametrize("betas", [linear(1000), cosine(1000)])
def test_solvers_start_from_pure_noise(solver: str, betas: list[float]) -> None:
    """For Gaussian images the optimal prediction is known, and the exact flow keeps each image's sign."""
    schedule, variance = NoiseSchedule(betas).rescaled_to_zero_snr(), 0.25

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        abar = step.alpha_cumprod
        v = x_t * math.sqrt(abar * (1 - abar)) * (1 - variance) / (abar * variance + 1 - abar)
        return image_and_noise(x_t, v, step, "v_prediction")

    steps = ddim_steps(schedule, range(9, 1000, 10), eta=0.0)
    *_, (image, _) = ddim_solvers()[solver](1.0, steps, predict, lambda _: 0.0)
    assert image == pytest.approx(math.sqrt(variance), rel=0.05)
