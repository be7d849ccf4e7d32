"""The steps of the sampler, and one reverse step, against the equations of DDPM and DDIM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import (
    NoiseSchedule,
    ddim_step,
    ddim_steps,
    predict_x_start,
    strictly_increasing,
    trajectory,
)
from ddim_host.parts.noise_schedules import cosine, linear

if TYPE_CHECKING:
    from ddim_host.plugin.contracts import NoiseScheduleFactory

BETAS = st.lists(st.floats(1e-4, 0.9), min_size=1, max_size=30)
ETA = st.floats(0, 1)
# Two arbitrary vectors of fifty numbers.
X_START, NOISE = np.random.default_rng(0).standard_normal((2, 50))


@st.composite
def subsets(draw: st.DrawFn) -> tuple[NoiseSchedule, list[int]]:
    betas = draw(BETAS)
    chosen = draw(st.sets(st.integers(0, len(betas) - 1), min_size=1))
    return NoiseSchedule(betas), sorted(chosen)


def test_steps_pair_the_timesteps_and_end_at_the_clean_image() -> None:
    assert trajectory([0, 7, 8, 90]) == ((90, 8), (8, 7), (7, 0), (0, -1))
    assert trajectory([5]) == ((5, -1),)
    assert trajectory(np.array([3, 4])) == ((4, 3), (3, -1))


def test_steps_read_alphas_cumprod_at_both_ends() -> None:
    schedule = NoiseSchedule([0.5, 0.5, 0.5])
    steps = ddim_steps(schedule, [0, 2], eta=0.0)
    assert [(s.t, s.t_prev) for s in steps] == [(2, 0), (0, -1)]
    assert [(s.alpha_cumprod, s.alpha_cumprod_prev) for s in steps] == [(0.125, 0.5), (0.5, 1.0)]


def test_sigma_by_hand() -> None:
    """Equation 16 of arXiv 2010.02502 at abar_t = 1/8, abar_prev = 1/2."""
    first, last = ddim_steps(NoiseSchedule([0.5, 0.5, 0.5]), [0, 2], eta=0.5)
    assert first.sigma == pytest.approx(0.5 * math.sqrt((1 / 2) / (7 / 8) * (1 - 1 / 4)))
    assert last.sigma == 0.0


@given(subsets(), ETA)
def test_sigma_is_eta_times_that_of_the_respaced_ddpm(
    chosen: tuple[NoiseSchedule, list[int]], eta: float
) -> None:
    """The timesteps of a subset form a DDPM of their own, with betas 1 - abar_t / abar_prev."""
    schedule, subset = chosen
    abar = schedule.alphas_cumprod[subset]
    abar_prev = np.array([1.0, *abar[:-1]])
    variance = (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
    sigmas = [step.sigma for step in ddim_steps(schedule, subset, eta)][::-1]
    np.testing.assert_allclose(sigmas, eta * np.sqrt(variance), rtol=1e-9, atol=1e-12)


@given(subsets(), ETA)
def test_direction_and_sigma_add_up_to_the_noise_after_the_step(
    chosen: tuple[NoiseSchedule, list[int]], eta: float
) -> None:
    for step in ddim_steps(*chosen, eta):
        assert step.direction**2 + step.sigma**2 == pytest.approx(1 - step.alpha_cumprod_prev, abs=1e-12)


@given(subsets())
def test_eta_0_adds_no_noise(chosen: tuple[NoiseSchedule, list[int]]) -> None:
    assert all(step.sigma == 0.0 for step in ddim_steps(*chosen, 0.0))


@pytest.mark.parametrize("eta", [-0.01, 1.05, math.nan, math.inf])
def test_eta_outside_0_to_1_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\]"):
        ddim_steps(NoiseSchedule([0.1, 0.2]), [0, 1], eta)


@pytest.mark.parametrize("subset", [[0, 2], [-2, 0]])
def test_timesteps_outside_the_schedule_are_refused(subset: list[int]) -> None:
    with pytest.raises(IndexError, match="outside"):
        ddim_steps(NoiseSchedule([0.1, 0.2]), subset, 0.0)


@given(BETAS, st.floats(-3, 3), st.floats(-1, 1))
def test_eta_1_with_every_timestep_is_the_ddpm_posterior(
    betas: list[float], x_t: float, x_start: float
) -> None:
    """The posterior is q(x_(t-1) | x_t, x_start), equations 6 and 7 of arXiv 2006.11239."""
    schedule = NoiseSchedule(betas)
    abar = np.cumprod(1 - np.array(betas))
    for step in ddim_steps(schedule, range(len(betas)), eta=1.0):
        t, beta = step.t, betas[step.t]
        abar_prev = abar[t - 1] if t > 0 else 1.0
        mean = (
            math.sqrt(abar_prev) * beta / (1 - abar[t]) * x_start
            + math.sqrt(1 - beta) * (1 - abar_prev) / (1 - abar[t]) * x_t
        )
        variance = (1 - abar_prev) / (1 - abar[t]) * beta
        noise = (x_t - math.sqrt(abar[t]) * x_start) / math.sqrt(1 - abar[t])
        ours, _ = ddim_step(x_t, noise, step, fresh_noise=0.0)
        above, _ = ddim_step(x_t, noise, step, fresh_noise=1.0)
        assert ours == pytest.approx(mean, rel=1e-8, abs=1e-8)
        assert above - ours == pytest.approx(math.sqrt(variance), rel=1e-8, abs=1e-8)


@given(subsets(), ETA)
def test_last_step_ends_exactly_at_x_start(chosen: tuple[NoiseSchedule, list[int]], eta: float) -> None:
    last = ddim_steps(*chosen, eta)[-1]
    arrived, x_start = ddim_step(X_START, NOISE, last)
    np.testing.assert_array_equal(arrived, x_start)
    np.testing.assert_array_equal(x_start, predict_x_start(X_START, NOISE, last.alpha_cumprod))


@pytest.mark.parametrize("part", [linear, cosine])
@given(timesteps=st.integers(21, 1000), data=st.data())
def test_perfect_noise_recovers_x_start(
    part: NoiseScheduleFactory, timesteps: int, data: st.DataObject
) -> None:
    """Each step uses the noise levels at both of its ends, so a single epsilon fits all steps."""
    schedule = NoiseSchedule(part(timesteps))
    real = data.draw(st.lists(st.floats(0, timesteps - 1), min_size=1, max_size=20))
    steps = ddim_steps(schedule, strictly_increasing(sorted(real), timesteps), eta=0.0)
    x = math.sqrt(steps[0].alpha_cumprod) * X_START + math.sqrt(1 - steps[0].alpha_cumprod) * NOISE
    for step in steps:
        x, _ = ddim_step(x, NOISE, step)
    np.testing.assert_allclose(x, X_START, atol=1e-6)


@given(subsets())
def test_clipped_x_start_and_epsilon_add_up_to_x_t(chosen: tuple[NoiseSchedule, list[int]]) -> None:
    x_t, noise = 3 * X_START, 3 * NOISE
    for step in ddim_steps(*chosen, eta=0.0)[:-1]:
        x_prev, x_start = ddim_step(x_t, noise, step, limit=1.0, clip=np.clip)
        unclipped = predict_x_start(x_t, noise, step.alpha_cumprod)
        np.testing.assert_array_equal(x_start, np.clip(unclipped, -1, 1))
        epsilon = (x_prev - math.sqrt(step.alpha_cumprod_prev) * x_start) / step.direction
        together = math.sqrt(step.alpha_cumprod) * x_start + math.sqrt(1 - step.alpha_cumprod) * epsilon
        np.testing.assert_allclose(together, x_t, atol=1e-6)


def test_clipping_changes_nothing_inside_the_range() -> None:
    step = ddim_steps(NoiseSchedule([0.1, 0.1]), [0, 1], eta=0.0)[0]
    x_t, noise = np.array([0.1, -0.2]), np.array([0.3, -0.1])
    clipped, _ = ddim_step(x_t, noise, step, limit=1.0, clip=np.clip)
    unclipped, _ = ddim_step(x_t, noise, step)
    np.testing.assert_allclose(clipped, unclipped, rtol=1e-12)


def test_step_with_sigma_requires_fresh_noise() -> None:
    step = ddim_steps(NoiseSchedule([0.1, 0.1]), [0, 1], eta=1.0)[0]
    with pytest.raises(ValueError, match="it needs fresh_noise"):
        ddim_step(np.zeros(3), np.zeros(3), step)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [1.0, 0.1], [0.1, 1.1], [0.1, math.nan], [[0.1]]])
def test_betas_outside_0_to_1_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match="beta"):
        NoiseSchedule(betas)


def test_tables_are_read_only() -> None:
    schedule = NoiseSchedule([0.1, 0.2])
    with pytest.raises(ValueError, match="read-only"):
        schedule.alphas_cumprod[0] = 0.0


def test_forward_process_uses_the_timestep_of_each_image() -> None:
    """Equation 4 of arXiv 2006.11239."""
    schedule = NoiseSchedule(linear(50))
    x_start, noise = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 4), dtype=np.float32)
    t = np.array([0, 20, 49])
    x_t = schedule.add_noise(x_start, noise, t)
    assert x_t.dtype == np.float32
    for image, step in enumerate(t):
        abar = np.prod(1 - linear(50)[: step + 1])
        expected = math.sqrt(abar) * x_start[image] + math.sqrt(1 - abar) * noise[image]
        np.testing.assert_allclose(x_t[image], expected, atol=1e-6)
