"""The sampling loop, with functions as networks."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import PREDICTION_TYPES, NoiseSchedule, ddim_steps
from ddim_host.diffusion.randomness import Stream, normal_images
from ddim_host.diffusion.solvers import ddim, dpmpp_2m, heun, ipndm, unipc
from ddim_host.errors import UserError
from ddim_host.parts.noise_schedules import linear
from ddim_host.parts.timestep_subsets import quad
from ddim_host.run.images import to_uint8
from ddim_host.run.sampling import Denoiser, Sampler, denoise
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.diffusion import PredictionType
    from ddim_host.plugin.contracts import Solver
    from ddim_host.plugin.data import Images

SCHEDULE = NoiseSchedule(linear(100))
SUBSET = quad(SCHEDULE, 7).tolist()
SHAPE = (3, 4, 4)


def network(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
    """Return noise that depends on t and on the whole image, separately for each image."""
    around = x_t.mean(axis=(1, 2, 3), keepdims=True)
    noise: NDArray[np.float32] = np.tanh(x_t + around / 2) * np.float32(1 - t / 1000)
    return noise


def sampler(*, eta: float = 1.0, model: NumpyModel | None = None, **changes: Any) -> Sampler:
    denoiser = Denoiser(((model or NumpyModel(network), 1.0),), changes.pop("which", "ema"))
    options: dict[str, Any] = {"seed": 0, "limit": 1.0}
    steps = ddim_steps(SCHEDULE, SUBSET, eta)
    return Sampler(denoiser, steps, image_shape=(4, 4, 3), **options | changes)


def samples(num_images: int, batch_size: int, **changes: Any) -> Images:
    return np.concatenate(list(sampler(**changes).images(num_images, batch_size=batch_size)))


def batch(indices: list[int], **changes: Any) -> NDArray[np.float32]:
    """Return the finished images, not clipped."""
    return sampler(**{"limit": None, **changes}).batch(np.array(indices))[:, -1]


def test_the_network_is_called_once_for_every_timestep_of_the_subset() -> None:
    """The original code (docs/seed.md) stopped one step early, at alphas_cumprod[0]."""
    model = NumpyModel(network)
    batch([0, 1, 2], model=model, which="raw")
    assert model.calls == [(t, 3, "raw") for t in SUBSET[::-1]]


def test_sampling_starts_from_the_noise_of_its_seed() -> None:
    model = NumpyModel(network)
    batch([5, 2], model=model, seed=3)
    expected = normal_images(3, Stream.SAMPLE_START, steps=[0, 0], indices=[5, 2], shape=SHAPE)
    np.testing.assert_array_equal(model.inputs[0], expected)


@pytest.mark.parametrize("solver", [ddim, dpmpp_2m, heun, ipndm, unipc])
@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_network_may_return_the_same_array_every_time(
    prediction_type: PredictionType, limit: float | None, solver: Solver
) -> None:
    """With CUDA graphs, each call overwrites the prediction of the previous one."""
    buffer = np.empty((2, 3, 4, 4), np.float32)

    def reusing(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        buffer[...] = network(x_t, t)
        return buffer

    x_t, steps = (
        np.random.default_rng(0).standard_normal(buffer.shape, np.float32),
        ddim_steps(SCHEDULE, SUBSET, 0.0),
    )
    expected, found = (
        [
            (x.copy(), x_start.copy())
            for x, x_start in denoise(
                Denoiser(((NumpyModel(function), 1.0),), "ema", prediction_type),
                x_t,
                steps,
                limit=limit,
                solver=solver,
            )
        ]
        for function in (network, reusing)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_step_goes_to_the_clean_image(eta: float) -> None:
    """At alphas_cumprod = 1 the result is the x_start of the last call, without noise."""
    model = NumpyModel(network)
    images = batch([0, 1], eta=eta, model=model)
    x_t, abar = model.inputs[-1], SCHEDULE.alphas_cumprod[SUBSET[0]]
    expected = (x_t - math.sqrt(1 - abar) * network(x_t, SUBSET[0])) / math.sqrt(abar)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_eta_reaches_the_sampler() -> None:
    """The original code (docs/seed.md) assigned `-eta` after building the sampler, so it was ignored."""
    etas = (0.0, 0.2, 0.5, 1.0)
    results = [batch([0, 1], eta=eta) for eta in etas]
    distances = [float(np.abs(result - results[0]).mean()) for result in results]
    assert distances == sorted(distances)
    assert distances[1] > 1e-3


def test_noise_added_by_eta_depends_on_the_timestep() -> None:
    """The noise is fixed in advance, so it does not depend on batch, subset or framework."""
    model = NumpyModel(lambda x_t, t: np.zeros_like(x_t))
    batch([4], eta=1.0, model=model)
    for step, (x_t, x_next) in zip(
        ddim_steps(SCHEDULE, SUBSET, 1.0), zip(model.inputs, model.inputs[1:], strict=False), strict=False
    ):
        added = x_next - x_t * math.sqrt(step.alpha_cumprod_prev / step.alpha_cumprod)
        noise = normal_images(0, Stream.SAMPLE_NOISE, steps=[step.t], indices=[4], shape=SHAPE)
        np.testing.assert_allclose(added / step.sigma, noise, atol=1e-3)


@given(num_images=st.integers(1, 9), batch_size=st.integers(1, 12))
def test_image_depends_only_on_the_seed_and_its_number(num_images: int, batch_size: int) -> None:
    expected = samples(9, 9)
    np.testing.assert_array_equal(samples(num_images, batch_size), expected[:num_images])


def test_batch_contains_the_requested_images() -> None:
    whole = batch(list(range(6)))
    np.testing.assert_array_equal(batch([4, 1, 5]), whole[[4, 1, 5]])
    assert not np.array_equal(whole[0], whole[1])


def test_different_seeds_give_different_images() -> None:
    assert np.any(batch([0], seed=1) != batch([0], seed=2))


def test_result_is_the_output_of_the_loop_in_pixels() -> None:
    result = samples(3, 2, limit=None)
    assert result.dtype == np.uint8
    assert result.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(result, to_uint8(batch([0, 1, 2])))


def test_clipping_limits_x_start_at_every_step() -> None:
    def silent(x_t: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        return np.zeros_like(x_t)

    free = batch([0], eta=0.0, model=NumpyModel(silent), limit=None)
    assert np.abs(free).max() > 1
    clipped = NumpyModel(silent)
    images = batch([0], eta=0.0, model=clipped, limit=1.0)
    assert np.abs(images).max() <= 1
    # The second call already sees the difference, not only the result.
    unclipped = NumpyModel(silent)
    batch([0], eta=0.0, model=unclipped, limit=None)
    assert np.any(clipped.inputs[1] != unclipped.inputs[1])


def test_pixels_that_are_not_finite_are_an_error() -> None:
    broken = NumpyModel(lambda x_t, t: np.full_like(x_t, np.nan))
    with pytest.raises(UserError, match="not finite"):
        samples(2, 2, model=broken, limit=None)


def test_calls_are_reported_as_they_happen() -> None:
    model = NumpyModel(network)
    reported: list[int] = []
    list(sampler(model=model).images(5, batch_size=2, on_call=lambda: reported.append(len(model.calls))))
    warm_up = 2 * 3
    assert reported == list(range(warm_up + 1, warm_up + 1 + 3 * 7))


def test_every_batch_size_is_warmed_up_before_the_clock_starts() -> None:
    model = NumpyModel(network)
    timed = sampler(model=model)
    next(timed.images(5, batch_size=2))
    # For every size: the first two steps, and the last step, which adds no noise.
    assert sorted(size for _, size, _ in model.calls[:6]) == [1, 1, 1, 2, 2, 2]
    assert len(model.calls) == 6 + 7
    assert timed.seconds > 0
    assert timed.warmup_seconds > 0


def test_timing_excludes_the_use_of_the_images() -> None:
    timed = sampler()
    for _ in timed.images(4, batch_size=2):
        before = timed.seconds
        time.sleep(0.05)
    assert timed.seconds - before < 0.05


def test_predicted_x_start_is_returned_for_the_chosen_steps() -> None:
    whole = sampler(shown=range(7)).batch(np.array([0, 3]))
    assert whole.shape == (2, 7, *SHAPE)
    np.testing.assert_array_equal(sampler(shown=[2, 6]).batch(np.array([0, 3])), whole[:, [2, 6]])
    np.testing.assert_array_equal(whole[:, -1], batch([0, 3], limit=1.0))


def test_shown_states_of_an_image_are_adjacent() -> None:
    images = samples(3, 2, shown=[0, 3, 6])
    assert images.shape == (9, 4, 4, 3)
    np.testing.assert_array_equal(images[2::3], samples(3, 2))


def test_an_ensemble_predicts_the_weighted_mean() -> None:
    one, other = NumpyModel(network), NumpyModel(lambda x_t, t: np.zeros_like(x_t))
    x_t = normal_images(0, Stream.SAMPLE_START, steps=[0], indices=[0], shape=SHAPE)
    mean = Denoiser(((one, 2 / 3), (other, 1 / 3)), "raw").predict(x_t, 5)
    np.testing.assert_allclose(mean, network(x_t, 5) * 2 / 3, rtol=1e-6)
    assert one.calls == other.calls == [(5, 1, "raw")]
