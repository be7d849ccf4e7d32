"""Solvers: their order of convergence if the exact solution is known, and where they meet DDIM."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule, ddim_step, ddim_steps, solvers, strictly_increasing
from ddim_host.parts.noise_schedules import linear

if TYPE_CHECKING:
    from ddim_host.diffusion import DDIMStep
    from ddim_host.plugin.contracts import Solver

FINE = NoiseSchedule(linear(100_000))
"""So many timesteps that rounding positions to them does not matter."""

SCHEDULE = NoiseSchedule(linear(1000))


def variance(abar: float, v: float) -> float:
    """Of x_t, for data N(0, v)."""
    return abar * v + 1.0 - abar


def no_noise(_: DDIMStep) -> Any:
    raise AssertionError("a deterministic solver asked for noise")


def relative_error(solver: Solver, steps: int, v: float) -> float:
    """Of x where the step before the last one arrives, against the exact solution for data N(0, v).

    The exact flow keeps x_t over its standard deviation. Steps are even in half the log SNR.
    """
    abar = FINE.alphas_cumprod
    axis = 0.5 * np.log(abar / (1.0 - abar))
    wanted = np.linspace(axis[-1], 3.0, steps + 1)[::-1]
    positions = np.interp(-wanted, -axis, np.arange(len(axis)))
    trajectory = ddim_steps(FINE, strictly_increasing(np.sort(positions), len(axis)).tolist(), eta=0.0)

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        scale = variance(step.alpha_cumprod, v)
        return (
            x_t * math.sqrt(step.alpha_cumprod) * v / scale,
            x_t * math.sqrt(1.0 - step.alpha_cumprod) / scale,
        )

    states = [x for x, _ in solver(1.0, trajectory, predict, no_noise)]
    exact = math.sqrt(variance(trajectory[-1].alpha_cumprod, v) / variance(trajectory[0].alpha_cumprod, v))
    return abs(float(states[-2]) / exact - 1.0)


@pytest.mark.parametrize("v", [0.25, 2.0])
@pytest.mark.parametrize(("solver", "order"), [(solvers.ddim, 1), (solvers.dpmpp_2m, 2), (solvers.ipndm, 2)])
def test_errors_fall_with_the_order_of_the_solver(solver: Solver, order: int, v: float) -> None:
    errors = [relative_error(solver, steps, v) for steps in (40, 80, 160)]
    orders = [math.log2(one / other) for one, other in itertools.pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.15)


def test_ddim_is_a_sequence_of_ddim_steps() -> None:
    rng = np.random.default_rng(0)
    x = start = rng.standard_normal((2, 3, 4, 4))
    steps = ddim_steps(SCHEDULE, [0, 100, 400, 999], eta=0.7)
    noises = {step.t: rng.standard_normal(start.shape) for step in steps}

    def predict(x_t: Any, step: DDIMStep) -> tuple[Any, Any]:
        noise = np.tanh(x_t)
        return (x_t - math.sqrt(1 - step.alpha_cumprod) * noise) / math.sqrt(step.alpha_cumprod), noise

    followed = solvers.ddim(start, steps, predict, lambda step: noises[step.t])
    for step, (arrived, x_start) in zip(steps, followed, strict=True):
        x, expected = ddim_step(x, np.tanh(x), step, fresh_noise=noises[step.t])
        np.testing.assert_array_equal(arrived, x)
        np.testing.assert_array_equal(x_start, expected)


@pytest.mark.parametrize("solver", [solvers.dpmpp_2m, solvers.ipndm])
@given(
    subset=st.sets(st.integers(0, 999), min_size=1, max_size=12),
    image=st.floats(-1, 1),
    start=st.floats(-3, 3),
)
def test_it_ends_in_the_image_that_is_always_predicted(
    solver: Solver, subset: set[int], image: float, start: float
) -> None:
    steps = ddim_steps(SCHEDULE, sorted(subset), eta=0.0)

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        return image, (x_t - math.sqrt(step.alpha_cumprod) * image) / math.sqrt(1 - step.alpha_cumprod)

    states = list(solver(start, steps, predict, no_noise))
    assert len(states) == len(subset)
    assert states[-1][0] == pytest.approx(image, abs=1e-8)


@given(subset=st.sets(st.integers(0, 999), min_size=1, max_size=2))
def test_dpmpp_2m_with_one_or_two_steps_is_ddim(subset: set[int]) -> None:
    """The first step and the last one are of first order."""
    steps = ddim_steps(SCHEDULE, sorted(subset), eta=0.0)

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        x_start = math.tanh(x_t)
        return x_start, (x_t - math.sqrt(step.alpha_cumprod) * x_start) / math.sqrt(1 - step.alpha_cumprod)

    one, other = (
        [x for x, _ in solver(1.3, steps, predict, no_noise)] for solver in (solvers.ddim, solvers.dpmpp_2m)
    )
    assert one == pytest.approx(other, rel=1e-9)
