"""Timestep samplers: range, distribution, mirror pairs, and importance sampling without bias."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule
from ddim_host.errors import UserError
from ddim_timestep_samplers import Antithetic, Importance, Uniform, ddim_timestep_samplers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.contracts import SamplerState, TimestepSampler, TimestepSamplerFactory

STATELESS = pytest.mark.parametrize("factory", [Uniform, Antithetic])


def schedule(timesteps: int) -> NoiseSchedule:
    return NoiseSchedule(np.full(timesteps, 0.01))


def sample(sampler: TimestepSampler, size: int, seed: int = 0) -> NDArray[np.int64]:
    return sampler.sample(size, np.random.default_rng(seed))[0]


def test_all_parts_are_registered_by_name() -> None:
    samplers = ddim_timestep_samplers()
    assert list(samplers) == ["uniform", "antithetic", "importance"]
    assert isinstance(samplers["uniform"](schedule(5)), Uniform)
    assert isinstance(samplers["antithetic"](schedule(5)), Antithetic)
    assert isinstance(samplers["importance"](schedule(5)), Importance)


@STATELESS
@given(timesteps=st.integers(1, 2000), size=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_timesteps_and_weights_honour_the_contract(
    factory: TimestepSamplerFactory, timesteps: int, size: int, seed: int
) -> None:
    t, weights = factory(schedule(timesteps)).sample(size, np.random.default_rng(seed))
    assert t.dtype == np.int64
    assert t.shape == (size,)
    assert np.all((t >= 0) & (t < timesteps))
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.ones(size))


def surprise(t: NDArray[np.int64], timesteps: int) -> float:
    """Return the chi-square against the uniform distribution, in standard deviations from its mean."""
    expected = len(t) / timesteps
    statistic = float(((np.bincount(t, minlength=timesteps) - expected) ** 2 / expected).sum())
    return (statistic - (timesteps - 1)) / math.sqrt(2 * (timesteps - 1))


@STATELESS
@pytest.mark.parametrize("timesteps", [10, 1000])
def test_every_timestep_is_equally_likely(factory: TimestepSamplerFactory, timesteps: int) -> None:
    t = sample(factory(schedule(timesteps)), 200_000)
    # Test the halves separately: in an antithetic sampler the second follows from the first.
    for half in (t[:100_000], t[100_000:]):
        assert abs(surprise(half, timesteps)) < 4
        assert (int(half.min()), int(half.max())) == (0, timesteps - 1)


@given(timesteps=st.integers(1, 2000), size=st.integers(1, 100))
def test_antithetic_timesteps_are_mirror_pairs(timesteps: int, size: int) -> None:
    t = sample(Antithetic(schedule(timesteps)), size)
    half = (size + 1) // 2
    np.testing.assert_array_equal(t[half:], timesteps - 1 - t[: size - half])
    if size % 2 == 0:
        assert t.mean() == pytest.approx((timesteps - 1) / 2), (
            "every batch must have as much high as low noise"
        )


def test_uniform_timesteps_are_not_mirror_pairs() -> None:
    t = sample(Uniform(schedule(1000)), 100)
    assert not np.array_equal(np.sort(t), np.sort(999 - t))


@STATELESS
def test_timesteps_depend_only_on_the_generator(factory: TimestepSamplerFactory) -> None:
    first, second = factory(schedule(1000)), factory(schedule(1000))
    sample(first, 7, seed=9)
    np.testing.assert_array_equal(sample(first, 50, seed=1), sample(second, 50, seed=1))
    assert np.any(sample(first, 50, seed=1) != sample(first, 50, seed=2))


@STATELESS
def test_stateless_samplers_learn_nothing(factory: TimestepSamplerFactory) -> None:
    sampler = factory(schedule(100))
    before = sample(sampler, 20)
    assert sampler.needs_losses is False
    sampler.update(np.zeros(20, np.int64), np.full(20, 1e6, np.float32))
    assert sampler.state_dict() == {}
    sampler.load_state_dict({})
    np.testing.assert_array_equal(sample(sampler, 20), before)


# --- Importance ---------------------------------------------------------------------------------------------

HISTORY = 3


def learned(losses: NDArray[np.float32], uniform_share: float = 0.001) -> Importance:
    """Return a sampler with a full history: `losses[t]` at timestep t."""
    timesteps, history = losses.shape
    sampler = Importance(schedule(timesteps), history=history, uniform_share=uniform_share)
    for column in losses.T:
        sampler.update(np.arange(timesteps), column)
    return sampler


def probabilities(losses: NDArray[np.float32], uniform_share: float) -> NDArray[np.float64]:
    """Return the probabilities according to the formula in the paper's code."""
    sizes = np.array([math.sqrt(sum(float(x) ** 2 for x in row) / len(row)) for row in losses])
    p: NDArray[np.float64] = (1 - uniform_share) * sizes / sizes.sum() + uniform_share / len(sizes)
    return p


def random_losses(timesteps: int, history: int = HISTORY, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    sizes = rng.exponential(size=(timesteps, 1)) * rng.uniform(0.5, 1.5, (timesteps, history))
    return sizes.astype(np.float32)


LOSSES = (
    st.lists(
        st.lists(st.floats(0, 2.0**100, width=32), min_size=HISTORY, max_size=HISTORY),
        min_size=1,
        max_size=20,
    )
    .map(lambda rows: np.array(rows, dtype=np.float32))
    .filter(np.any)
)


class EveryTimestep(np.random.Generator):
    """A generator that draws each timestep once, and stores the probabilities passed to it."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self.p: NDArray[np.float64] = np.empty(0)

    def choice(self, a: int, size: int, p: NDArray[np.float64]) -> NDArray[np.int64]:  # type: ignore[override]
        self.p = p
        return np.arange(a)


@given(losses=LOSSES, share=st.floats(0.001, 1), data=st.data())
def test_weights_undo_the_bias_exactly(
    losses: NDArray[np.float32], share: float, data: st.DataObject
) -> None:
    """The expectation of w_t f(t), the sum of p_t w_t f(t), is the mean of f for any f."""
    timesteps = len(losses)
    rng = EveryTimestep()
    t, weights = learned(losses, uniform_share=share).sample(timesteps, rng)
    np.testing.assert_array_equal(t, np.arange(timesteps))
    np.testing.assert_allclose(rng.p, probabilities(losses, share), rtol=1e-12)
    f = np.array(data.draw(st.lists(st.floats(-10, 10), min_size=timesteps, max_size=timesteps)))
    np.testing.assert_allclose((rng.p * weights * f).sum(), f.mean(), atol=1e-6)


def test_timesteps_are_drawn_with_their_probabilities() -> None:
    losses = random_losses(12)
    t, _ = learned(losses).sample(200_000, np.random.default_rng(0))
    expected = probabilities(losses, 0.001) * len(t)
    counts = np.bincount(t, minlength=12)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert (statistic - 11) / math.sqrt(2 * 11) < 4


def test_weighted_losses_estimate_the_uniform_loss_and_vary_less() -> None:
    timesteps, draws = 50, 100_000
    losses = random_losses(timesteps)
    noise = np.random.default_rng(1)
    means = losses.mean(axis=1)

    def estimates(sampler: TimestepSampler) -> NDArray[np.float64]:
        t, weights = sampler.sample(draws, np.random.default_rng(2))
        values: NDArray[np.float64] = weights * means[t] * noise.uniform(0.8, 1.2, draws)
        return values

    weighted, plain = estimates(learned(losses)), estimates(Uniform(schedule(timesteps)))
    assert weighted.mean() == pytest.approx(means.mean(), abs=4 * weighted.std() / math.sqrt(draws))
    assert weighted.std() < 0.5 * plain.std()


@given(timesteps=st.integers(1, 30), missing=st.integers(0, 1000), history=st.integers(1, 4))
def test_timesteps_are_uniform_until_each_has_its_history(timesteps: int, missing: int, history: int) -> None:
    losses = random_losses(timesteps, history)
    sampler = Importance(schedule(timesteps), history=history)
    late = missing % timesteps
    for column in losses.T[:-1]:
        sampler.update(np.arange(timesteps), column)
    others = np.delete(np.arange(timesteps), late)
    # No number of losses at other timesteps makes up for a missing one.
    for _ in range(2):
        sampler.update(others, losses[others, -1])
    uniform = Uniform(schedule(timesteps))
    t, weights = sampler.sample(20, np.random.default_rng(5))
    np.testing.assert_array_equal(t, uniform.sample(20, np.random.default_rng(5))[0])
    np.testing.assert_array_equal(weights, np.ones(20))
    assert weights.dtype == np.float32
    sampler.update(np.array([late]), losses[late, -1:])
    assert timesteps == 1 or np.any(sampler.sample(100, np.random.default_rng(5))[1] != 1)


@given(timesteps=st.integers(1, 2000), size=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_importance_honours_the_contract(timesteps: int, size: int, seed: int) -> None:
    t, weights = learned(random_losses(timesteps, 1)).sample(size, np.random.default_rng(seed))
    assert t.dtype == np.int64
    assert t.shape == weights.shape == (size,)
    assert np.all((t >= 0) & (t < timesteps))
    assert weights.dtype == np.float32
    assert np.all(np.isfinite(weights) & (weights > 0))
    assert Importance.needs_losses is True


def test_zero_losses_give_uniform_timesteps() -> None:
    sampler = learned(np.zeros((7, HISTORY), np.float32))
    np.testing.assert_array_equal(sample(sampler, 30), sample(Uniform(schedule(7)), 30))


def test_only_the_newest_losses_count() -> None:
    old, new = random_losses(9), random_losses(9, seed=1)
    sampler = learned(old)
    for column in new.T:
        sampler.update(np.arange(9), column)
    t, weights = sampler.sample(50, np.random.default_rng(0))
    expected_t, expected_weights = learned(new).sample(50, np.random.default_rng(0))
    np.testing.assert_array_equal(t, expected_t)
    np.testing.assert_array_equal(weights, expected_weights)


def test_repeated_timesteps_in_a_batch_are_learned_in_order() -> None:
    together, one_by_one = (Importance(schedule(2), history=2) for _ in range(2))
    t, losses = np.array([0, 1, 0, 0, 1]), np.array([9, 1, 2, 3, 4], np.float32)
    together.update(t, losses)
    for i in range(5):
        one_by_one.update(t[i : i + 1], losses[i : i + 1])
    np.testing.assert_array_equal(together.state_dict()["losses"], one_by_one.state_dict()["losses"])
    assert sorted(together.state_dict()["losses"][0]) == [2, 3], "9 must be dropped as the oldest of three"


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_not_learned(loss: float) -> None:
    """Such a loss ends the training, which must fail with its own error rather than the sampler's."""
    losses = random_losses(5)
    sampler, untouched = learned(losses), learned(losses)
    sampler.update(np.array([2]), np.array([loss], np.float32))
    np.testing.assert_array_equal(sample(sampler, 50), sample(untouched, 50))


@pytest.mark.parametrize(
    "parameters",
    [
        {"history": 0},
        {"history": -1},
        {"history": 1001},
        {"uniform_share": -0.1},
        {"uniform_share": 1.1},
        {"uniform_share": math.nan},
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    [name] = parameters
    with pytest.raises(UserError, match=f"parameter {name!r} of timestep sampler 'importance' must be"):
        Importance(schedule(5), **parameters)  # type: ignore[arg-type]


@given(steps=st.integers(0, 12), after=st.integers(1, 5))
def test_resuming_from_a_state_equals_an_uninterrupted_run(steps: int, after: int) -> None:
    whole, begun, resumed = (Importance(schedule(4), history=2) for _ in range(3))

    def train(sampler: Importance, first: int, last: int) -> list[float]:
        drawn: list[float] = []
        for step in range(first, last):
            t, weights = sampler.sample(5, np.random.default_rng(step))
            drawn += [*t.tolist(), *weights.tolist()]
            sampler.update(t, np.random.default_rng([1, step]).random(5, dtype=np.float32))
        return drawn

    train(begun, 0, steps)
    resumed.load_state_dict(begun.state_dict())
    assert train(whole, 0, steps + after)[10 * steps :] == train(resumed, steps, steps + after)


def test_state_is_copied_on_save_and_load() -> None:
    sampler = learned(random_losses(4))
    before = sample(sampler, 30)
    state = sampler.state_dict()
    other = Importance(schedule(4), history=HISTORY)
    other.load_state_dict(state)
    for array in state.values():
        assert array.dtype == np.float64
        array[:] = 0
    np.testing.assert_array_equal(sample(sampler, 30), before)
    np.testing.assert_array_equal(sample(other, 30), before)


GOOD_LOSSES, GOOD_COUNTS = np.ones((4, HISTORY)), np.full(4, 7.0)


def changed(array: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    copy = array.copy()
    copy.flat[1] = value
    return copy


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({}, "it contains nothing"),
        ({"losses": GOOD_LOSSES}, "it contains losses, not counts and losses"),
        ({"losses": GOOD_LOSSES, "counts": GOOD_COUNTS, "x": GOOD_COUNTS}, "it contains counts, losses, x"),
        ({"losses": GOOD_LOSSES[:3], "counts": GOOD_COUNTS}, "its losses are float64 (3, 3)"),
        ({"losses": GOOD_LOSSES.T, "counts": GOOD_COUNTS}, "its losses are float64 (3, 4)"),
        ({"losses": GOOD_LOSSES.astype(np.float32), "counts": GOOD_COUNTS}, "its losses are float32"),
        ({"losses": GOOD_LOSSES, "counts": GOOD_COUNTS[:, None]}, "its counts are float64 (4, 1)"),
        ({"losses": GOOD_LOSSES, "counts": GOOD_COUNTS.astype(np.int64)}, "its counts are int64"),
        ({"losses": changed(GOOD_LOSSES, np.nan), "counts": GOOD_COUNTS}, "a loss is not a finite"),
        ({"losses": changed(GOOD_LOSSES, -np.inf), "counts": GOOD_COUNTS}, "a loss is not a finite"),
        ({"losses": changed(GOOD_LOSSES, 1e200), "counts": GOOD_COUNTS}, "a loss is not a finite"),
        (
            {"losses": GOOD_LOSSES, "counts": changed(GOOD_COUNTS, np.nan)},
            "a count is not a non-negative integer",
        ),
        (
            {"losses": GOOD_LOSSES, "counts": changed(GOOD_COUNTS, np.inf)},
            "a count is not a non-negative integer",
        ),
        (
            {"losses": GOOD_LOSSES, "counts": changed(GOOD_COUNTS, -1)},
            "a count is not a non-negative integer",
        ),
        (
            {"losses": GOOD_LOSSES, "counts": changed(GOOD_COUNTS, 1.5)},
            "a count is not a non-negative integer",
        ),
        (
            {"losses": GOOD_LOSSES, "counts": changed(GOOD_COUNTS, 1e300)},
            "a count is not a non-negative integer",
        ),
    ],
)
def test_foreign_state_is_refused(state: SamplerState, why: str) -> None:
    sampler = learned(random_losses(4))
    before = sample(sampler, 30)
    with pytest.raises(UserError, match="does not fit timestep sampler 'importance'") as caught:
        sampler.load_state_dict(state)
    assert why in caught.value.why
    np.testing.assert_array_equal(sample(sampler, 30), before)
