"""The search for timesteps: shortest paths against all paths, and jump errors against known values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule, ddim_step, ddim_steps
from ddim_host.diffusion.search import JumpErrors, Teacher, descend, jump_errors, shortest_paths
from ddim_host.parts.noise_schedules import linear

SCHEDULE = NoiseSchedule(linear(1000))


def share_of_noise(t: int, v: float) -> float:
    """Return the optimal epsilon for data N(0, v), divided by x_t."""
    abar = SCHEDULE.alphas_cumprod[t]
    return float(np.sqrt(1 - abar) / (abar * v + 1 - abar))


def gaussian_teacher(timesteps: list[int], variances: list[float], num_images: int = 400) -> Teacher:
    """Return a teacher with the optimal network for pixels N(0, v), each with its own v."""
    noise = np.random.default_rng(0).standard_normal((num_images, len(variances)))
    x, predicted = noise, []
    for step in ddim_steps(SCHEDULE, timesteps, eta=0.0):
        epsilon = x * np.array([share_of_noise(step.t, v) for v in variances])
        x, x_start = ddim_step(x, epsilon, step)
        predicted.append(x_start)
    return Teacher(
        np.array(timesteps), noise.astype(np.float32), np.array(predicted[::-1]).astype(np.float32)
    )


def scale(timesteps: list[int], v: float) -> float:
    """Return the factor by which DDIM scales a pixel N(0, v) from noise to image."""
    x = 1.0
    for step in ddim_steps(SCHEDULE, timesteps, eta=0.0):
        x, _ = ddim_step(x, x * share_of_noise(step.t, v), step)
    return x


@st.composite
def jumps(draw: st.DrawFn) -> JumpErrors:
    size = draw(st.integers(1, 7))
    numbers = st.floats(0, 10)
    start, end = (np.array(draw(st.lists(numbers, min_size=size, max_size=size))) for _ in range(2))
    between = np.full((size, size), math.inf)
    for above, below in itertools.combinations(range(size - 1, -1, -1), 2):
        between[above, below] = draw(numbers)
    return JumpErrors(start, between, end)


@settings(max_examples=200)
@given(errors=jumps())
def test_dynamic_programming_finds_the_best_of_all_paths(errors: JumpErrors) -> None:
    count = len(errors.start)
    found = shortest_paths(errors, range(1, count + 1))
    assert sorted(found) == [*range(1, count + 1)]
    for size, path in found.items():
        assert len(path) == size
        assert list(path) == sorted(set(path))
        best = min(errors.of(others) for others in itertools.combinations(range(count), size))
        assert errors.of(path) == pytest.approx(best, rel=1e-12)


@given(errors=jumps(), data=st.data())
def test_each_size_is_solved_independently(errors: JumpErrors, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(errors.start)))
    assert (
        shortest_paths(errors, [size])[size] == shortest_paths(errors, range(1, len(errors.start) + 1))[size]
    )


@pytest.mark.parametrize("sizes", [[], [0], [1, 5]])
def test_impossible_sizes_are_refused(sizes: list[int]) -> None:
    four = JumpErrors(np.zeros(4), np.zeros((4, 4)), np.zeros(4))
    with pytest.raises(ValueError, match="from 1 to 4"):
        shortest_paths(four, sizes)


@settings(max_examples=200)
@given(
    start=st.sets(st.integers(0, 11), min_size=1, max_size=6),
    seed=st.integers(0, 10),
    strides=st.lists(st.integers(1, 5), max_size=4),
)
def test_descent_returns_its_best_try_and_repeats_none(
    start: set[int], seed: int, strides: list[int]
) -> None:
    seen: dict[tuple[int, ...], float] = {}

    def loss(positions: tuple[int, ...]) -> float:
        assert list(positions) == sorted({*positions})
        assert 0 <= positions[0] <= positions[-1] < 12
        assert positions not in seen
        seen[positions] = float(np.random.default_rng([seed, *positions]).random())
        return seen[positions]

    found = descend(sorted(start), 12, loss, strides)
    assert len(found) == len(start)
    assert seen[found] == min(seen.values())
    assert next(iter(seen)) == tuple(sorted(start))
    assert len(seen) <= 1 + 2 * len(strides) * len(start)


def test_descent_finds_the_minimum_of_a_quadratic_loss() -> None:
    bottom = (3, 11, 12, 30)

    def loss(positions: tuple[int, ...]) -> float:
        return sum((one - other) ** 2 for one, other in zip(positions, bottom, strict=True))

    assert descend((1, 10, 15, 33), 40, loss, (4, 2, 1, 1)) == bottom


GRID = [0, 40, 100, 180, 280, 400, 540, 700, 850, 999]


def test_own_steps_of_the_teacher_have_no_error() -> None:
    errors = jump_errors(SCHEDULE, gaussian_teacher(GRID, [0.1, 0.5, 2.0]))
    whole = range(len(GRID))
    assert errors.of([*whole]) == pytest.approx(0.0, abs=1e-9)
    assert errors.start[-1] == errors.end[0] == 0.0
    assert np.all(np.isinf(errors.between) == (np.arange(len(GRID)) >= np.arange(len(GRID))[:, None]))


@pytest.mark.parametrize("to", [0, 90, 180])
def test_jump_error_is_transported_to_the_image(to: int) -> None:
    """For data N(0, v) the flow is known; the jump skips some of a teacher's many steps."""
    v, timesteps = 0.3, [*range(0, 1000, 3)]
    teacher = gaussian_teacher(timesteps, [v])
    start = 300
    without = [t for position, t in enumerate(timesteps) if not to < position < start]
    relative = scale(without, v) / scale(timesteps, v) - 1.0
    expected = relative**2 * float(np.mean(np.square(teacher.x_start[0].astype(np.float64))))
    assert jump_errors(SCHEDULE, teacher).between[start, to] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("v", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_timesteps_found_for_gaussian_data_are_near_the_best(size: int, v: float) -> None:
    """The found subset is in the best tenth of all subsets, ranked by the true error of their images."""
    teacher = gaussian_teacher(GRID, [v])
    path = shortest_paths(jump_errors(SCHEDULE, teacher), [size])[size]
    whole = scale(GRID, v)
    true = {
        subset: abs(scale([GRID[p] for p in subset], v) - whole)
        for subset in itertools.combinations(range(len(GRID)), size)
    }
    ranked = sorted(true, key=lambda subset: true[subset])
    assert ranked.index(path) <= len(ranked) // 10
