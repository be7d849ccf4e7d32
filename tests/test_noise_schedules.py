"""Betas: the published ones, whatever the number of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule
from ddim_host.errors import UserError
from ddim_host.parts.noise_schedules import cosine, linear

if TYPE_CHECKING:
    from ddim_host.contracts import NoiseScheduleFactory


@pytest.mark.parametrize("part", [linear, cosine])
@given(timesteps=st.integers(21, 4000))
def test_noise_only_grows(part: NoiseScheduleFactory, timesteps: int) -> None:
    betas = part(timesteps)
    assert betas.dtype == np.float64
    assert betas.shape == (timesteps,)
    assert np.all((betas > 0) & (betas < 1))
    assert np.all(np.diff(NoiseSchedule(betas).alphas_cumprod) < 0)


def test_linear_has_the_published_ends_at_1000_timesteps() -> None:
    betas = linear(1000)
    assert betas[0] == 1e-4
    assert betas[-1] == 0.02
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 999, rtol=1e-9)


@given(timesteps=st.integers(200, 4000))
def test_linear_reaches_the_same_noise_with_any_number_of_timesteps(timesteps: int) -> None:
    published = np.log(NoiseSchedule(linear(1000)).alphas_cumprod[-1])
    assert np.log(NoiseSchedule(linear(timesteps)).alphas_cumprod[-1]) == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("timesteps", [1, 10, 20])
def test_linear_refuses_too_few_timesteps_and_says_how_many_it_needs(timesteps: int) -> None:
    with pytest.raises(UserError, match=f"too steep for {timesteps} timesteps") as caught:
        linear(timesteps)
    assert "more than 20 timesteps" in caught.value.fix
    assert linear(21)[-1] < 1


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.02), (0.02, 1e-4), (1e-4, 1.0), (-0.1, 0.02)])
def test_linear_refuses_ends_out_of_order(start: float, end: float) -> None:
    with pytest.raises(UserError, match="out of order"):
        linear(1000, beta_start=start, beta_end=end)


@given(timesteps=st.integers(1, 4000), s=st.floats(0.001, 0.1))
def test_cosine_is_the_papers_formula(timesteps: int, s: float) -> None:
    def f(t: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.cos((t / timesteps + s) / (1 + s) * np.pi / 2) ** 2

    betas = cosine(timesteps, s=s)
    assert betas[-1] == 0.999, "the last beta would be 1, and is limited"
    t = np.arange(1.0, timesteps)
    np.testing.assert_allclose(
        NoiseSchedule(betas).alphas_cumprod[:-1], f(t) / f(np.zeros(1)), rtol=1e-9, atol=0
    )


def test_cosine_refuses_a_negative_offset() -> None:
    with pytest.raises(UserError, match="must not be negative"):
        cosine(1000, s=-0.008)


def test_linear_equals_diffusers() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    np.testing.assert_allclose(linear(1000), theirs.betas.numpy(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("timesteps", [50, 1000, 4000])
def test_cosine_equals_diffusers(timesteps: int) -> None:
    theirs = DDPMScheduler(num_train_timesteps=timesteps, beta_schedule="squaredcos_cap_v2")
    np.testing.assert_allclose(cosine(timesteps), theirs.betas.numpy(), rtol=1e-7, atol=0)
