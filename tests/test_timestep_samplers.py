"""Timestep samplers that learn nothing: range, distribution, mirror images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule
from ddim_timestep_samplers import Antithetic, Uniform, ddim_timestep_samplers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.contracts import TimestepSampler, TimestepSamplerFactory

SAMPLERS = pytest.mark.parametrize("factory", [Uniform, Antithetic])


def schedule(timesteps: int) -> NoiseSchedule:
    return NoiseSchedule(np.full(timesteps, 0.01))


def sample(sampler: TimestepSampler, size: int, seed: int = 0) -> NDArray[np.int64]:
    return sampler.sample(size, np.random.default_rng(seed))[0]


def test_both_are_on_offer_by_name() -> None:
    samplers = ddim_timestep_samplers()
    assert list(samplers) == ["uniform", "antithetic"]
    assert isinstance(samplers["uniform"](schedule(5)), Uniform)
    assert isinstance(samplers["antithetic"](schedule(5)), Antithetic)


@SAMPLERS
@given(timesteps=st.integers(1, 2000), size=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_timesteps_and_weights_are_what_the_contract_asks(
    factory: TimestepSamplerFactory, timesteps: int, size: int, seed: int
) -> None:
    t, weights = factory(schedule(timesteps)).sample(size, np.random.default_rng(seed))
    assert t.dtype == np.int64
    assert t.shape == (size,)
    assert np.all((t >= 0) & (t < timesteps))
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.ones(size))


def surprise(t: NDArray[np.int64], timesteps: int) -> float:
    """Chi-square against the uniform distribution, in standard deviations from what is expected."""
    expected = len(t) / timesteps
    statistic = float(((np.bincount(t, minlength=timesteps) - expected) ** 2 / expected).sum())
    return (statistic - (timesteps - 1)) / math.sqrt(2 * (timesteps - 1))


@SAMPLERS
@pytest.mark.parametrize("timesteps", [10, 1000])
def test_every_timestep_is_equally_likely(factory: TimestepSamplerFactory, timesteps: int) -> None:
    t = sample(factory(schedule(timesteps)), 200_000)
    # Halves apart: the second of an antithetic sampler follows from the first.
    for half in (t[:100_000], t[100_000:]):
        assert abs(surprise(half, timesteps)) < 4
        assert (half.min(), half.max()) == (0, timesteps - 1)


@given(timesteps=st.integers(1, 2000), size=st.integers(1, 100))
def test_antithetic_timesteps_are_mirror_pairs(timesteps: int, size: int) -> None:
    t = sample(Antithetic(schedule(timesteps)), size)
    half = (size + 1) // 2
    np.testing.assert_array_equal(t[half:], timesteps - 1 - t[: size - half])
    if size % 2 == 0:
        assert t.mean() == pytest.approx((timesteps - 1) / 2), "as much high as low noise, in every batch"


def test_uniform_timesteps_are_no_mirror_pairs() -> None:
    t = sample(Uniform(schedule(1000)), 100)
    assert not np.array_equal(np.sort(t), np.sort(999 - t))


@SAMPLERS
def test_the_generator_decides(factory: TimestepSamplerFactory) -> None:
    first, second = factory(schedule(1000)), factory(schedule(1000))
    sample(first, 7, seed=9)
    np.testing.assert_array_equal(sample(first, 50, seed=1), sample(second, 50, seed=1))
    assert np.any(sample(first, 50, seed=1) != sample(first, 50, seed=2))


@SAMPLERS
def test_nothing_is_learned(factory: TimestepSamplerFactory) -> None:
    sampler = factory(schedule(100))
    before = sample(sampler, 20)
    assert sampler.needs_losses is False
    sampler.update(np.zeros(20, np.int64), np.full(20, 1e6, np.float32))
    assert sampler.state_dict() == {}
    sampler.load_state_dict({})
    np.testing.assert_array_equal(sample(sampler, 20), before)
