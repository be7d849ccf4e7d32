"""Encoding images to noise and decoding them: the steps upward, and the error of the round trip."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule, ddim_step, ddim_steps, encoding_steps
from ddim_host.parts.noise_schedules import linear
from ddim_host.parts.timestep_subsets import linear as evenly
from ddim_host.parts.timestep_subsets import quad
from ddim_host.run.images import to_network
from ddim_host.run.reconstruction import PAPER_ERRORS, reconstruct, squared_errors
from ddim_host.run.sampling import Denoiser
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ddim_host.plugin.contracts import TimestepSubset

    Network = Callable[[NDArray[np.float32], int], NDArray[np.float32]]

SCHEDULE = NoiseSchedule(linear(1000))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def silent(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
    return np.zeros_like(x_t)


def mixing(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
    """Return noise that depends on t and on the whole image, separately for each image."""
    around = x_t.mean(axis=(1, 2, 3), keepdims=True)
    noise: NDArray[np.float32] = np.tanh(x_t + around / 2) * np.float32(1 - t / 2000)
    return noise


def denoiser(network: Network | NumpyModel) -> Denoiser:
    model = network if isinstance(network, NumpyModel) else NumpyModel(network)
    return Denoiser(((model, 1.0),), "ema")


# --- The steps upward ---------------------------------------------------------------------------------------

subsets = st.sets(st.integers(0, 999), min_size=1, max_size=20).map(sorted)


def test_pairs_start_from_the_clean_image() -> None:
    steps = encoding_steps(SCHEDULE, [3, 7, 90])
    assert [(step.t, step.t_prev) for step in steps] == [(0, 3), (3, 7), (7, 90)]


def test_steps_read_alphas_cumprod_at_both_ends() -> None:
    steps = encoding_steps(NoiseSchedule([0.5, 0.5, 0.5]), [0, 2])
    assert [(s.alpha_cumprod, s.alpha_cumprod_prev) for s in steps] == [(1.0, 0.5), (0.5, 0.125)]
    assert [(s.sigma, s.direction) for s in steps] == [(0.0, math.sqrt(0.5)), (0.0, math.sqrt(0.875))]


@given(subsets)
def test_encoding_steps_are_the_sampling_steps_in_reverse(subset: list[int]) -> None:
    up, down = encoding_steps(SCHEDULE, subset), ddim_steps(SCHEDULE, subset, eta=0.0)
    assert [(s.alpha_cumprod, s.alpha_cumprod_prev) for s in up] == [
        (s.alpha_cumprod_prev, s.alpha_cumprod) for s in reversed(down)
    ]
    assert [s.t_prev for s in up] == [s.t for s in reversed(down)]


@given(subsets)
def test_with_the_same_noise_each_step_up_undoes_the_step_down(subset: list[int]) -> None:
    x, noise = np.random.default_rng(0).standard_normal((2, 50))
    up, down = encoding_steps(SCHEDULE, subset), ddim_steps(SCHEDULE, subset, eta=0.0)
    for forth, back in zip(up, reversed(down), strict=True):
        there, _ = ddim_step(x, noise, forth)
        again, _ = ddim_step(there, noise, back)
        np.testing.assert_allclose(again, x, atol=1e-9)


@pytest.mark.parametrize("subset", [[0, 1000], [-2, 0]])
def test_timesteps_outside_the_schedule_are_refused(subset: list[int]) -> None:
    with pytest.raises(IndexError, match="outside"):
        encoding_steps(SCHEDULE, subset)


# --- There and back -----------------------------------------------------------------------------------------


def test_network_is_called_once_per_timestep_in_each_direction() -> None:
    model = NumpyModel(mixing)
    calls: list[int] = []
    subset = np.array([5, 100, 400])
    reconstruct(denoiser(model), SCHEDULE, subset, IMAGES, on_call=lambda: calls.append(len(model.calls)))
    # Each call is made at the start of its step; the clean image uses timestep 0.
    assert [t for t, _, _ in model.calls] == [0, 5, 100, 400, 100, 5]
    assert calls == [1, 2, 3, 4, 5, 6]


def test_encoding_starts_with_the_image() -> None:
    model = NumpyModel(mixing)
    reconstruct(denoiser(model), SCHEDULE, np.array([10, 20]), IMAGES)
    np.testing.assert_array_equal(model.inputs[0], to_network(IMAGES))


@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
def test_network_predicting_no_noise_reconstructs_exactly(steps: int) -> None:
    """Without noise, encoding multiplies by a factor, and decoding divides by it."""
    decoded = reconstruct(denoiser(silent), SCHEDULE, evenly(SCHEDULE, steps), IMAGES)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, to_network(IMAGES), rtol=2e-5)


def test_noise_independent_of_x_is_reconstructed_exactly() -> None:
    noise = np.random.default_rng(1).standard_normal((1, 3, 4, 4), dtype=np.float32)
    decoded = reconstruct(denoiser(lambda x_t, t: noise + 0 * x_t), SCHEDULE, quad(SCHEDULE, 20), IMAGES)
    np.testing.assert_allclose(decoded, to_network(IMAGES), atol=1e-3)


def perfect_share(t: int, v: float) -> float:
    """Return the best factor from x_t to epsilon for data N(0, v): covariance over variance of x_t."""
    abar = SCHEDULE.alphas_cumprod[t]
    return float(np.sqrt(1 - abar) / (abar * v + 1 - abar))


def expected_factor(subset: Sequence[int], v: float) -> float:
    """Return the factor of an image after the round trip, computed from alphas_cumprod alone."""

    def step(begin: float, end: float, share: float) -> float:
        x_start = (1 - math.sqrt(1 - begin) * share) / math.sqrt(begin)
        return math.sqrt(end) * x_start + math.sqrt(1 - end) * share

    abars = [1.0, *SCHEDULE.alphas_cumprod[list(subset)].tolist()]
    shares = [perfect_share(t, v) for t in (0, *subset)]
    factor = 1.0
    for (low, high), (below, above) in zip(
        itertools.pairwise(abars), itertools.pairwise(shares), strict=True
    ):
        factor *= step(low, high, below) * step(high, low, above)
    return factor


@pytest.mark.parametrize("part", [evenly, quad])
@pytest.mark.parametrize("v", [0.1, 0.25, 4.0])
def test_error_of_a_perfect_network_decreases_towards_0(part: TimestepSubset, v: float) -> None:
    """An exact oracle, as in test_gaussian_oracle: the round trip multiplies an image by a known factor."""

    def network(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        return x_t * np.float32(perfect_share(t, v))

    errors = []
    for steps in (10, 20, 50, 100, 200, 500):
        subset = part(SCHEDULE, steps)
        decoded = reconstruct(denoiser(network), SCHEDULE, subset, IMAGES)
        factor = expected_factor(subset.tolist(), v)
        np.testing.assert_allclose(decoded, to_network(IMAGES) * factor, rtol=1e-4, atol=1e-5)
        errors.append(float(squared_errors(IMAGES, decoded).mean()))
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 1e-3 * errors[0]


def test_reconstruction_does_not_clip() -> None:
    """With a clipped x_start, decoding would not be the inverse of encoding."""

    model = NumpyModel(lambda x_t, t: np.full_like(x_t, 3 if t < 400 else -3))
    decoded = reconstruct(denoiser(model), SCHEDULE, np.array([100, 300, 500]), IMAGES)
    x_t, abar, abar_next = model.inputs[3], SCHEDULE.alphas_cumprod[500], SCHEDULE.alphas_cumprod[300]
    x_start = (x_t + 3 * math.sqrt(1 - abar)) / math.sqrt(abar)
    assert np.abs(x_start).min() > 1
    expected = math.sqrt(abar_next) * x_start - 3 * math.sqrt(1 - abar_next)
    np.testing.assert_allclose(model.inputs[4], expected, rtol=1e-5)
    assert np.abs(decoded).min() > 1


@given(st.integers(1, 5))
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    subset = quad(SCHEDULE, 8)
    whole = reconstruct(denoiser(mixing), SCHEDULE, subset, IMAGES)
    parts = [
        reconstruct(denoiser(mixing), SCHEDULE, subset, IMAGES[start : start + batch_size])
        for start in range(0, len(IMAGES), batch_size)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


# --- The error ----------------------------------------------------------------------------------------------


def test_squared_errors_by_hand() -> None:
    """Errors are one number per image, for pixels in [0, 1], half the range of the network."""
    images = np.array([0, 255, 255, 255], np.uint8).reshape(2, 1, 2, 1)
    reconstructed = np.array([-0.8, 1.0, 1.5, -1.0], np.float32).reshape(2, 1, 1, 2)
    # Errors of 0.1 and 0; of 0.25, which is not clipped to the range, and of 1.
    expected = [0.1**2 / 2, (0.25**2 + 1) / 2]
    errors = squared_errors(images, reconstructed)
    assert errors.dtype == np.float64
    np.testing.assert_allclose(errors, expected, rtol=1e-6)


def test_squared_errors_match_the_order_of_channels() -> None:
    np.testing.assert_array_equal(squared_errors(IMAGES, to_network(IMAGES)), np.zeros(5))


def test_errors_of_the_paper_decrease() -> None:
    assert list(PAPER_ERRORS) == sorted(PAPER_ERRORS)
    assert list(PAPER_ERRORS.values()) == sorted(PAPER_ERRORS.values(), reverse=True)
