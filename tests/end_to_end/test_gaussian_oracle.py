"""An exact oracle for sampler, subset and eta: data N(0, v), for which the optimal network is known.

The optimal epsilon is linear in x_t, so each step of the sampler is `a x_t + sigma z`, and the variance of
the samples follows `variance = a^2 variance + sigma^2`. Nothing is trained or estimated.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule, ddim_step, ddim_steps
from ddim_host.parts.noise_schedules import linear
from ddim_host.parts.timestep_subsets import cosine, leading, quad, trailing
from ddim_host.parts.timestep_subsets import linear as evenly
from ddim_host.run.sampling import Denoiser, Sampler
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep
    from ddim_host.plugin.contracts import TimestepSubset

SCHEDULE = NoiseSchedule(linear(1000))
SUBSETS = [evenly, quad, cosine, leading, trailing]


def optimal_factor(t: int, v: float) -> float:
    """Return the optimal epsilon divided by x_t: covariance of epsilon and x_t over variance of x_t."""
    abar = SCHEDULE.alphas_cumprod[t]
    return float(np.sqrt(1 - abar) / (abar * v + 1 - abar))


def expected_variance(subset: Sequence[int], eta: float, v: float) -> float:
    """Return the variance that follows from the recursion, computed from alphas_cumprod alone."""
    variance = 1.0
    abars = [1.0, *SCHEDULE.alphas_cumprod[list(subset)].tolist()]
    for abar_prev, abar in list(itertools.pairwise(abars))[::-1]:
        sigma_squared = eta**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
        x_start = math.sqrt(abar) * v / (abar * v + 1 - abar)
        epsilon = math.sqrt(1 - abar) / (abar * v + 1 - abar)
        a = math.sqrt(abar_prev) * x_start + math.sqrt(max(0, 1 - abar_prev - sigma_squared)) * epsilon
        variance = a**2 * variance + sigma_squared
    return variance


def sampled_variance(steps: Sequence[DDIMStep], v: float) -> float:
    """Return the exact variance of the actual steps, from one unit impulse per source of noise."""
    impulses = np.eye(len(steps) + 1)
    x = impulses[0]
    for number, step in enumerate(steps, start=1):
        x, _ = ddim_step(x, optimal_factor(step.t, v) * x, step, fresh_noise=impulses[number])
    return float(x @ x)


@settings(deadline=None)
@given(
    part=st.sampled_from(SUBSETS),
    steps=st.integers(1, 60),
    eta=st.floats(0, 1),
    v=st.floats(0.01, 10),
)
def test_variance_of_every_subset_and_eta_follows_the_recursion(
    part: TimestepSubset, steps: int, eta: float, v: float
) -> None:
    subset = part(SCHEDULE, steps).tolist()
    sampled = sampled_variance(ddim_steps(SCHEDULE, subset, eta), v)
    assert sampled == pytest.approx(expected_variance(subset, eta, v), rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("v", [0.1, 1.0, 4.0])
def test_variance_converges_to_that_of_the_data(eta: float, v: float) -> None:
    variances = [
        sampled_variance(ddim_steps(SCHEDULE, evenly(SCHEDULE, steps).tolist(), eta), v)
        for steps in (10, 100, 1000)
    ]
    assert np.all(np.diff(np.abs(np.array(variances) - v)) < 0)
    assert variances[-1] == pytest.approx(v, rel=0.03)


def test_eta_matters_with_few_steps() -> None:
    subset = evenly(SCHEDULE, 10).tolist()
    without, full = (sampled_variance(ddim_steps(SCHEDULE, subset, eta), 0.25) for eta in (0.0, 1.0))
    assert abs(without - full) > 0.1 * without


def test_sigma_of_the_original_code_fails_the_oracle() -> None:
    """The original code (docs/seed.md) used per-step alphas without roots: sigma was too small."""
    alphas = 1 - SCHEDULE.betas

    def original_sigma(step: DDIMStep) -> float:
        alpha = alphas[step.t]
        alpha_prev = alphas[step.t_prev] if step.t_prev >= 0 else 1.0
        return float((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))

    subset = evenly(SCHEDULE, 20).tolist()
    steps = ddim_steps(SCHEDULE, subset, eta=1.0)
    wrong = [dataclasses.replace(step, sigma=original_sigma(step)) for step in steps]
    expected = expected_variance(subset, 1.0, 0.25)
    assert sampled_variance(steps, 0.25) == pytest.approx(expected, rel=1e-9)
    assert abs(sampled_variance(wrong, 0.25) / expected - 1) > 0.1
    assert sampled_variance(wrong, 0.25) == pytest.approx(expected_variance(subset, 0.0, 0.25), rel=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("part", [evenly, quad])
def test_sampler_has_the_expected_variance(part: TimestepSubset, eta: float) -> None:
    """The real loop and the host's noise are used; 65,536 numbers estimate their variance to 0.5%."""
    v = 0.25

    def network(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        return x_t * np.float32(optimal_factor(t, v))

    subset = part(SCHEDULE, 10).tolist()
    denoiser = Denoiser(((NumpyModel(network), 1.0),), "ema")
    steps = ddim_steps(SCHEDULE, subset, eta)
    images = Sampler(denoiser, steps, image_shape=(64, 64, 1), seed=0, limit=None).batch(np.arange(16))
    assert float(images.var()) == pytest.approx(expected_variance(subset, eta, v), rel=0.02)
    assert float(images.mean()) == pytest.approx(0.0, abs=0.01)
