"""The part keeps its contract, and finds the best of all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ddim_gits import gits

from ddim_host import Teacher, UserError
from ddim_host.testing import SubsetSearchContract, linear_schedule

SCHEDULE = linear_schedule(1000)


class TestGits(SubsetSearchContract):
    """Each test is inherited; add your own."""

    part = gits


class TestGitsWithoutCoefficient(SubsetSearchContract):
    """The same with another parameter."""

    part = gits
    parameters = {"coeff": 1.0}  # noqa: RUF012 - nothing changes it


def cost(teacher: Teacher, path: list[int], coeff: float) -> float:
    """Follow the jumps one by one, with the formula of a DDIM step."""
    abar = SCHEDULE.alphas_cumprod[teacher.timesteps]
    states = teacher.states(SCHEDULE)
    total, weight = 0.0, 1.0
    for start, end in itertools.pairwise([*path, None]):
        image = teacher.x_start[start].astype(float)
        if end is None:
            distances = np.linalg.norm(image - teacher.x_start[0], axis=1)
        else:
            noise = (states[start] - np.sqrt(abar[start]) * image) / np.sqrt(1.0 - abar[start])
            arrival = np.sqrt(abar[end]) * image + np.sqrt(1.0 - abar[end]) * noise
            distances = np.linalg.norm(arrival - states[end], axis=1) / np.sqrt(abar[end])
        total += weight * float(distances.mean())
        weight *= coeff
    return total


@pytest.mark.parametrize("coeff", [1.0, 1.15])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_it_finds_the_best_of_all_paths(size: int, coeff: float) -> None:
    """Against trying all of them, on a teacher that predicts anything."""
    rng = np.random.default_rng(0)
    timesteps = np.array([0, 50, 120, 300, 450, 700, 990])
    x_start = np.cumsum(rng.standard_normal((7, 5, 3)), axis=0).astype(np.float32)
    teacher = Teacher(timesteps, rng.standard_normal((5, 3)).astype(np.float32), x_start)
    last = len(timesteps) - 1
    paths = [[last, *between[::-1]] for between in itertools.combinations(range(last), size - 1)]
    best = min(paths, key=lambda path: cost(teacher, path, coeff))
    found = gits(SCHEDULE, teacher, [size], coeff=coeff)[size]
    assert found.tolist() == timesteps[best[::-1]].tolist()


@pytest.mark.parametrize("coeff", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_out_of_range(coeff: float) -> None:
    """An error for the user."""
    with pytest.raises(UserError, match="coeff of gits"):
        gits(SCHEDULE, SubsetSearchContract.teacher(), [3], coeff=coeff)
