"""Solvers: order of convergence against exact solutions, and the cases in which they equal DDIM."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from ddim_host.diffusion import (
    NoiseSchedule,
    ddim_step,
    ddim_steps,
    image_and_noise,
    predict_x_start,
    solvers,
    strictly_increasing,
)
from ddim_host.errors import UserError
from ddim_host.parts.noise_schedules import cosine, linear
from ddim_host.parts.timestep_subsets import linear as linear_subset

if TYPE_CHECKING:
    from ddim_host.diffusion import DDIMStep
    from ddim_host.plugin.contracts import Solver

FINE = NoiseSchedule(linear(100_000))
"""A schedule so fine that rounding positions to timesteps does not matter."""

SCHEDULE = NoiseSchedule(linear(1000))


def no_noise(_: DDIMStep) -> Any:
    raise AssertionError("a deterministic solver requested noise")


class Gaussian:
    """Data N(0, v): along the flow, x_t divided by its standard deviation is constant."""

    def __init__(self, v: float) -> None:
        self.v = v

    def variance(self, abar: float) -> float:
        return abar * self.v + 1.0 - abar

    def noise(self, x: Any, abar: float) -> Any:
        return x * math.sqrt(1.0 - abar) / self.variance(abar)

    def arrival(self, x: Any, abar: float, abar_prev: float) -> Any:
        return x * math.sqrt(self.variance(abar_prev) / self.variance(abar))


class TwoGaussians:
    """A mixture of N(-1, v) and N(0.6, v): along the flow, the quantile of x_t is constant."""

    means = np.array([-1.0, 0.6])
    shares = np.array([0.3, 0.7])

    def __init__(self, v: float) -> None:
        self.v = v

    def parts(self, abar: float) -> Any:
        return norm(math.sqrt(abar) * self.means, math.sqrt(abar * self.v + 1.0 - abar))

    def noise(self, x: Any, abar: float) -> Any:
        """Return the optimal epsilon: minus the score, times the standard deviation of the noise."""
        parts = self.parts(abar)
        densities = self.shares * parts.pdf(x[:, None])
        score = (densities * (parts.mean() - x[:, None]) / parts.var()).sum(1) / densities.sum(1)
        return -math.sqrt(1.0 - abar) * score

    def arrival(self, x: Any, abar: float, abar_prev: float) -> Any:
        def quantile(x: float, abar: float) -> float:
            return float(self.shares @ self.parts(abar).cdf(x))

        wanted = [quantile(one, abar) for one in x]
        return np.array(
            [brentq(lambda y, q=q: quantile(y, abar_prev) - q, -9.0, 9.0, xtol=1e-14) for q in wanted]
        )


def error_of(solver: Solver, steps: int, data: Gaussian | TwoGaussians) -> float:
    """Return the root mean square error of x after the last step but one, against the exact solution.

    The steps are uniform in half the log SNR, up to rounding to timesteps.
    """
    abar = FINE.alphas_cumprod
    axis = 0.5 * np.log(abar / (1.0 - abar))
    wanted = np.linspace(axis[-1], 3.0, steps + 1)[::-1]
    positions = np.interp(-wanted, -axis, np.arange(len(axis)))
    trajectory = ddim_steps(FINE, strictly_increasing(np.sort(positions), len(axis)).tolist(), eta=0.0)

    def predict(x_t: Any, step: DDIMStep) -> tuple[Any, Any]:
        noise = data.noise(x_t, step.alpha_cumprod)
        return predict_x_start(x_t, noise, step.alpha_cumprod), noise

    start = np.array([-1.4, -0.7, -0.2, 0.3, 0.9, 1.6])
    states = [x for x, _ in solver(start, trajectory, predict, no_noise)]
    exact = data.arrival(start, trajectory[0].alpha_cumprod, trajectory[-1].alpha_cumprod)
    return float(np.sqrt(np.square(states[-2] - exact).mean()))


ORDERS = [
    (solvers.ddim, 1),
    (solvers.dpmpp_2m, 2),
    (solvers.ipndm, 2),
    (solvers.unipc, 3),
    (partial(solvers.unipc, b="bh1"), 3),
    (solvers.heun, 2),
]


def test_many_small_steps_reach_the_exact_solution() -> None:
    for data in (Gaussian(0.25), TwoGaussians(0.1)):
        assert error_of(solvers.heun, 500, data) < 1e-4


@pytest.mark.parametrize(
    "data",
    [Gaussian(0.25), Gaussian(2.0), TwoGaussians(0.25), TwoGaussians(0.1)],
    ids=["N(0, 0.25)", "N(0, 2)", "wide mixture", "narrow mixture"],
)
@pytest.mark.parametrize(("solver", "order"), ORDERS)
def test_errors_decrease_with_the_order_of_the_solver(
    solver: Solver, order: int, data: Gaussian | TwoGaussians
) -> None:
    errors = [error_of(solver, steps, data) for steps in (40, 80, 160)]
    orders = [math.log2(one / other) for one, other in itertools.pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.15)


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("betas", [linear(1000), cosine(1000)], ids=["linear", "cosine"])
@pytest.mark.parametrize("limit", [None, 1.0])
def test_heun_is_better_than_ddim_also_in_long_steps(betas: Any, limit: float | None, steps: int) -> None:
    """A cosine schedule starts where the image is 1 / 20,000 of the noise."""
    schedule, data = NoiseSchedule(betas), TwoGaussians(0.02)
    start = norm.ppf(np.linspace(0.005, 0.995, 100))

    def predict(x_t: Any, step: DDIMStep) -> tuple[Any, Any]:
        return image_and_noise(x_t, data.noise(x_t, step.alpha_cumprod), step, limit=limit, clip=np.clip)

    def sampled(solver: Solver, count: int) -> Any:
        trajectory = ddim_steps(schedule, linear_subset(schedule, count).tolist(), 0.0)
        *_, (x, _) = solver(start, trajectory, predict, no_noise)
        return x

    exact = sampled(solvers.ddim, 1000)
    heun, ddim = (np.square(sampled(solver, steps) - exact).mean() for solver in (solvers.heun, solvers.ddim))
    assert heun < ddim


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


@pytest.mark.parametrize("solver", [solver for solver, _ in ORDERS])
@given(
    subset=st.sets(st.integers(0, 999), min_size=1, max_size=12),
    image=st.floats(-1, 1),
    start=st.floats(-3, 3),
)
def test_constant_prediction_is_the_final_image(
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
    """The solver's first and last steps are first-order."""
    steps = ddim_steps(SCHEDULE, sorted(subset), eta=0.0)

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        x_start = math.tanh(x_t)
        return x_start, (x_t - math.sqrt(step.alpha_cumprod) * x_start) / math.sqrt(1 - step.alpha_cumprod)

    one, other = (
        [x for x, _ in solver(1.3, steps, predict, no_noise)] for solver in (solvers.ddim, solvers.dpmpp_2m)
    )
    assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize(("solver", "calls"), [(solvers.heun, 2 * 5 - 1), (solvers.unipc, 5)])
def test_number_of_network_calls(solver: Solver, calls: int) -> None:
    requested = []

    def predict(x_t: float, step: DDIMStep) -> tuple[float, float]:
        requested.append(step.t)
        return 0.0, x_t / math.sqrt(1 - step.alpha_cumprod)

    list(solver(1.0, ddim_steps(SCHEDULE, [0, 100, 300, 600, 999], eta=0.0), predict, no_noise))
    assert len(requested) == calls
    assert requested == sorted(requested, reverse=True)


def test_unipc_accepts_only_bh1_and_bh2() -> None:
    with pytest.raises(UserError, match="bh1 or bh2"):
        list(solvers.unipc(1.0, ddim_steps(SCHEDULE, [9], eta=0.0), lambda x, _: (x, x), no_noise, b="bh3"))
