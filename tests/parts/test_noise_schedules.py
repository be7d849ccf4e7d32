"""Noise schedules: the published betas, for any number of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule
from ddim_host.errors import UserError
from ddim_host.parts.noise_schedules import cosine, linear, quad, sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.plugin.contracts import NoiseScheduleFactory

    Scaled = Callable[..., NDArray[np.float64]]


SCALED = pytest.mark.parametrize("part", [linear, quad, sigmoid])


@pytest.mark.parametrize("part", [linear, cosine, quad, sigmoid])
@given(timesteps=st.integers(21, 4000))
def test_noise_increases(part: NoiseScheduleFactory, timesteps: int) -> None:
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


def test_quad_has_the_published_ends_and_even_square_roots() -> None:
    betas = quad(1000)
    np.testing.assert_allclose(betas[[0, -1]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.sqrt(betas)), (0.02**0.5 - 0.01) / 999, rtol=1e-9)


def test_sigmoid_is_flat_at_both_ends_and_symmetric() -> None:
    betas = sigmoid(1000)
    np.testing.assert_allclose(betas + betas[::-1], 0.02 + 1e-4, rtol=1e-12)
    steps = np.diff(betas)
    assert steps[499] == steps.max()
    assert steps[0] == pytest.approx(steps[-1])
    assert steps[0] < 0.02 * steps.max()


@SCALED
@given(timesteps=st.integers(200, 4000))
def test_the_same_noise_is_reached_with_any_number_of_timesteps(part: Scaled, timesteps: int) -> None:
    published = np.log(NoiseSchedule(part(1000)).alphas_cumprod[-1])
    assert np.log(NoiseSchedule(part(timesteps)).alphas_cumprod[-1]) == pytest.approx(published, rel=0.05)


@SCALED
@pytest.mark.parametrize("timesteps", [1, 10, 20])
def test_too_few_timesteps_are_refused_with_the_required_number(part: Scaled, timesteps: int) -> None:
    with pytest.raises(
        UserError, match=f"{part.__name__!r} is too steep for {timesteps} timesteps"
    ) as caught:
        part(timesteps)
    assert "more than 20 timesteps" in caught.value.fix
    assert part(21)[-1] < 1


@SCALED
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.02), (0.02, 1e-4), (1e-4, 1.0), (-0.1, 0.02)])
def test_ends_out_of_order_are_refused(part: Scaled, start: float, end: float) -> None:
    with pytest.raises(
        UserError, match=f"noise schedule {part.__name__!r} needs 0 < beta_start <= beta_end < 1"
    ):
        part(1000, beta_start=start, beta_end=end)


@SCALED
def test_equal_ends_give_constant_betas(part: Scaled) -> None:
    np.testing.assert_allclose(part(500, beta_start=0.01, beta_end=0.01), 0.02, rtol=1e-12)


@given(timesteps=st.integers(1, 4000), s=st.floats(0.001, 0.1))
def test_cosine_is_the_papers_formula(timesteps: int, s: float) -> None:
    def f(t: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.cos((t / timesteps + s) / (1 + s) * np.pi / 2) ** 2

    betas = cosine(timesteps, s=s)
    assert betas[-1] == 0.999, "the last beta is limited, because it would be 1"
    t = np.arange(1.0, timesteps)
    np.testing.assert_allclose(
        NoiseSchedule(betas).alphas_cumprod[:-1], f(t) / f(np.zeros(1)), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("s", [-0.008, 1.5, 1e12, float("inf")])
def test_cosine_refuses_an_offset_out_of_range(s: float) -> None:
    with pytest.raises(UserError, match=r"must be a number in \[0, 1\]"):
        cosine(1000, s=s)
