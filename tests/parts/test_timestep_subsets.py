"""Timestep subsets: exactly S distinct timesteps, at the documented positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule, strictly_increasing
from ddim_host.errors import UserError
from ddim_host.parts.timestep_subsets import cosine, explicit, leading, linear, quad, trailing
from ddim_host.plugin.parameters import parse_choice, resolve, user_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.contracts import TimestepSubset

PARTS = pytest.mark.parametrize("part", [linear, quad, cosine, leading, trailing])
# A number of timesteps T, and a number of inference steps S <= T.
SIZES = st.integers(1, 2000).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t)))


def schedule(timesteps: int) -> NoiseSchedule:
    return NoiseSchedule(np.full(timesteps, 0.01))


@PARTS
@given(sizes=SIZES)
def test_exactly_s_strictly_increasing_timesteps(part: TimestepSubset, sizes: tuple[int, int]) -> None:
    timesteps, steps = sizes
    subset = part(schedule(timesteps), steps)
    assert subset.dtype == np.int64
    assert subset.shape == (steps,)
    assert np.all(np.diff(subset) > 0)
    assert subset[0] >= 0
    assert subset[-1] < timesteps


@PARTS
@given(timesteps=st.integers(1, 2000))
def test_as_many_steps_as_timesteps_visits_all(part: TimestepSubset, timesteps: int) -> None:
    np.testing.assert_array_equal(part(schedule(timesteps), timesteps), np.arange(timesteps))


@pytest.mark.parametrize("part", [linear, cosine])
@given(sizes=SIZES)
def test_linear_and_cosine_go_from_end_to_end(part: TimestepSubset, sizes: tuple[int, int]) -> None:
    timesteps, steps = sizes
    subset = part(schedule(timesteps), steps)
    assert subset[-1] == timesteps - 1
    assert steps == 1 or subset[0] == 0


@given(sizes=SIZES)
def test_quad_ends_at_its_span(sizes: tuple[int, int]) -> None:
    timesteps, steps = sizes
    subset = quad(schedule(timesteps), steps)
    # With more steps than timesteps below the span, the subset must extend beyond it.
    assert subset[-1] == max(np.rint(min(0.8 * timesteps, timesteps - 1)), steps - 1)
    assert steps == 1 or subset[0] == 0
    assert quad(schedule(timesteps), steps, span=1.0)[-1] == timesteps - 1


@given(sizes=SIZES)
def test_leading_counts_up_from_zero(sizes: tuple[int, int]) -> None:
    timesteps, steps = sizes
    subset = leading(schedule(timesteps), steps)
    assert subset[0] == 0
    assert set(np.diff(subset)) <= {timesteps // steps}


@given(sizes=SIZES)
def test_trailing_counts_back_from_the_end(sizes: tuple[int, int]) -> None:
    timesteps, steps = sizes
    subset = trailing(schedule(timesteps), steps)
    assert subset[-1] == timesteps - 1
    even = timesteps * (np.arange(steps) + 1) / steps - 1
    assert np.all(np.abs(subset - even) <= 0.5)


def test_trailing_matches_the_paper() -> None:
    """The values are those of table 2 of arXiv 2305.08891, at T = 1000 and S = 10, and for S = 3."""
    np.testing.assert_array_equal(trailing(schedule(1000), 10), np.arange(99, 1000, 100))
    np.testing.assert_array_equal(trailing(schedule(1000), 3), [332, 666, 999])


def test_trailing_has_no_extra_timestep_from_float_error() -> None:
    assert len(np.arange(1000, 0, -1000 / 61)) == 62
    assert len(trailing(schedule(1000), 61)) == 61


def test_explicit_returns_the_given_list() -> None:
    subset = explicit(schedule(21), 3, t=(0, 10, 20))
    assert subset.dtype == np.int64
    np.testing.assert_array_equal(subset, [0, 10, 20])


def test_explicit_is_read_from_text() -> None:
    choice = parse_choice("explicit:t=0,10,20")
    assert resolve("", user_parameters(explicit), choice.arguments) == {"t": (0, 10, 20)}
    with pytest.raises(UserError, match="needs a value for its parameter 't'"):
        resolve("timestep subset 'explicit'", user_parameters(explicit), {})


@pytest.mark.parametrize(
    ("t", "why"),
    [
        ((0, 10, 10), "10 follows 10"),
        ((0, 30, 20), "20 follows 30"),
        ((-1, 10, 20), "-1 is outside"),
        ((0, 10, 100), "100 is outside"),
        ((0, 10, 10**30), "is outside"),
    ],
)
def test_explicit_refuses_invalid_subsets(t: tuple[int, ...], why: str) -> None:
    with pytest.raises(UserError, match=r"must be strictly increasing integers in \[0, 100\)") as caught:
        explicit(schedule(100), 3, t=t)
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("t", "fix"),
    [((0, 10, 20), "add --steps 3"), ((5,), "add --steps 1"), ((), "explicit:t=0,10,20 --steps 3")],
)
def test_explicit_names_the_required_number_of_steps(t: tuple[int, ...], fix: str) -> None:
    with pytest.raises(UserError, match=f"needs 20 timesteps, not {len(t)}") as caught:
        explicit(schedule(100), 20, t=t)
    assert fix in caught.value.fix


def test_linear_is_even() -> None:
    np.testing.assert_array_equal(linear(schedule(1000), 4), [0, 333, 666, 999])


def test_cosine_is_dense_at_both_ends() -> None:
    subset = cosine(schedule(1001), 5)
    np.testing.assert_array_equal(subset, [0, 146, 500, 854, 1000])


@pytest.mark.parametrize("span", [0.0, -0.1, 1.01])
def test_quad_refuses_a_span_outside_the_time_axis(span: float) -> None:
    with pytest.raises(UserError, match="span"):
        quad(schedule(100), 10, span=span)


@st.composite
def positions(draw: st.DrawFn) -> tuple[NDArray[np.float64], int]:
    timesteps = draw(st.integers(1, 60))
    values = draw(st.lists(st.floats(0, timesteps - 1), min_size=1, max_size=timesteps))
    return np.sort(np.array(values)), timesteps


@given(positions())
def test_timesteps_move_only_if_necessary(given_positions: tuple[NDArray[np.float64], int]) -> None:
    real, timesteps = given_positions
    rounded = np.rint(real).astype(np.int64)
    chosen = strictly_increasing(real, timesteps)
    if len(set(rounded)) == len(rounded):
        np.testing.assert_array_equal(chosen, rounded)
    # In order: each moves up to the next free timestep, then back from the end.
    expected: list[int] = []
    for r in rounded.tolist():
        expected.append(max(r, expected[-1] + 1) if expected else r)
    size = len(expected)
    assert chosen.tolist() == [min(t, timesteps - size + i) for i, t in enumerate(expected)]


@pytest.mark.parametrize(
    ("real", "message"),
    [
        ([], "0 distinct"),
        ([0, 1, 2], "3 distinct"),
        ([1, 0], "not decrease"),
        ([0, np.nan], "must be finite"),
        ([0, np.inf], "must be finite"),
    ],
)
def test_impossible_positions_are_refused(real: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strictly_increasing(real, 2)


def ermongroup_quad(timesteps: int, steps: int) -> NDArray[np.int64]:
    """Return the timesteps of github.com/ermongroup/ddim, `runners/diffusion.py`."""
    return np.array([int(s) for s in np.linspace(0, np.sqrt(timesteps * 0.8), steps) ** 2])


@pytest.mark.parametrize(("steps", "distinct"), [(50, 49), (100, 96)])
def test_quad_repeats_no_timestep_where_the_papers_code_does(steps: int, distinct: int) -> None:
    """A repeated timestep is a network call without effect."""
    assert len(set(ermongroup_quad(1000, steps))) == distinct
    assert len(set(quad(schedule(1000), steps))) == steps


@given(steps=st.integers(2, 100))
@example(10)
@example(20)
@example(50)
@example(100)
def test_quad_is_close_to_the_papers_timesteps(steps: int) -> None:
    """Rounding instead of truncating moves a timestep by at most 1, and removing duplicates by at most 4."""
    theirs, ours = ermongroup_quad(1000, steps), quad(schedule(1000), steps)
    distance = np.abs(ours - theirs)
    assert np.all(distance <= (1 if len(set(theirs)) == steps else 4))
    assert np.all(distance[theirs > 100] <= 1)
