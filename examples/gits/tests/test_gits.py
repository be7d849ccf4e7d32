"""Check that the part honours its contract, and finds the best of all paths."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
from ddim_gits import gits

from ddim_host import Teacher, UserError
from ddim_host.testing import SubsetSearchContract, linear_schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

SCHEDULE = linear_schedule(1000)


class TestGits(SubsetSearchContract):
    """The tests are inherited; add your own."""

    part = gits


class TestGitsByDistance(SubsetSearchContract):
    """Run the inherited tests with other parameters."""

    part = gits
    parameters = {"metric": "l2", "coeff": 1.0}  # noqa: RUF012 - nothing changes it


def from_line(one: Array, other: Array, x: Array) -> Array:
    """Return the distances of points from the lines through two others, by the Pythagorean theorem."""
    along = ((x - one) * (other - one)).sum(1) / np.linalg.norm(other - one, axis=1)
    distances: Array = np.sqrt(np.square(x - one).sum(1) - along**2)
    return distances


def cost(teacher: Teacher, path: list[int], metric: str, coeff: float) -> float:
    """Compute the cost of a path jump by jump, with the formula of a DDIM step."""
    abar = SCHEDULE.alphas_cumprod[teacher.timesteps]
    states = teacher.states(SCHEDULE)
    images, noise = teacher.x_start[0].astype(float), states[-1] / np.sqrt(abar[-1])
    total, weight = 0.0, 1.0
    for start, end in itertools.pairwise([*path, None]):
        image = teacher.x_start[start].astype(float)
        epsilon = (states[start] - np.sqrt(abar[start]) * image) / np.sqrt(1.0 - abar[start])
        left = 1.0 if end is None else abar[end]
        arrival = image + np.sqrt(1.0 / left - 1.0) * epsilon
        wanted = images if end is None else states[end] / np.sqrt(left)
        if metric == "l2":
            costs = np.linalg.norm(arrival - wanted, axis=1)
        else:
            costs = from_line(images, noise, arrival) - from_line(images, noise, wanted)
        total += weight * float(costs.mean())
        weight *= coeff
    return total


@pytest.mark.parametrize("metric", ["dev", "l2"])
@pytest.mark.parametrize("coeff", [1.0, 1.15])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_it_finds_the_best_of_all_paths(size: int, coeff: float, metric: str) -> None:
    """Compare with an exhaustive search, for a teacher with random predictions."""
    rng = np.random.default_rng(0)
    timesteps = np.array([0, 50, 120, 300, 450, 700, 990])
    x_start = np.cumsum(rng.standard_normal((7, 5, 3)), axis=0).astype(np.float32)
    teacher = Teacher(timesteps, rng.standard_normal((5, 3)).astype(np.float32), x_start)
    last = len(timesteps) - 1
    paths = [[last, *between[::-1]] for between in itertools.combinations(range(last), size - 1)]
    best = min(paths, key=lambda path: cost(teacher, path, metric, coeff))
    found = gits(SCHEDULE, teacher, [size], metric=metric, coeff=coeff)[size]
    assert found.tolist() == timesteps[best[::-1]].tolist()


def test_unknown_metric_is_an_error() -> None:
    """Check that the error lists the allowed metrics."""
    with pytest.raises(UserError, match="dev or l2"):
        gits(SCHEDULE, SubsetSearchContract.teacher(), [3], metric="l1")


@pytest.mark.parametrize("coeff", [0.0, -1.0, float("nan"), float("inf")])
def test_coeff_out_of_range_is_an_error(coeff: float) -> None:
    """Check that the error names the parameter."""
    with pytest.raises(UserError, match="'coeff' of subset search 'gits'"):
        gits(SCHEDULE, SubsetSearchContract.teacher(), [3], coeff=coeff)
