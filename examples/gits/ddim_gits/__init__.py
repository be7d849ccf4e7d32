"""A search for ddim-host: which S of a teacher's timesteps are best for few steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, SubsetSearch, Teacher

__all__ = ["gits"]


@hookimpl
def ddim_subset_searches() -> dict[str, SubsetSearch]:
    """Name -> subset search."""
    return {"gits": gits}


def gits(
    schedule: NoiseSchedule, teacher: Teacher, sizes: Sequence[int], *, coeff: float = 1.15
) -> dict[int, NDArray[np.int64]]:
    """The search of GITS (arXiv 2405.11326): the shortest path over how far Euler jumps leave the teacher.

    States are `x / sqrt(abar)`, the image plus noise, where a DDIM step with eta 0 is one of Euler's. What
    a jump costs is the distance from where it arrives to where the teacher is, the mean over the images. A
    path begins at the teacher's last timestep and ends in its images.

    Args:
        schedule: The noise schedule of the run.
        teacher: What its network predicted with many steps.
        sizes: Numbers S of timesteps, increasing.
        coeff: Above 0: how much dearer each jump is than the one before it, because errors add up.

    Returns:
        For each S strictly increasing timesteps of the teacher, int64 `(S,)`.

    Raises:
        UserError: coeff is not above 0, or not finite.
    """
    if not 0.0 < coeff < np.inf:
        raise UserError("the coeff of gits must be a finite number above 0", why=f"given is {coeff}")
    costs = _costs(schedule, teacher)
    # The cheapest way from each timestep to the image with as many jumps as there are in the list.
    ways, after = [costs[:, 0]], [np.zeros(len(costs), dtype=np.int64)]
    for _ in range(1, max(sizes)):
        through = costs[:, 1:] + coeff * ways[-1]
        after.append(through.argmin(1))
        ways.append(through.min(1))
    found = {}
    for size in sizes:
        path = [len(costs) - 1]
        for jumps in range(size - 1, 0, -1):
            path.append(int(after[jumps][path[-1]]))
        found[size] = teacher.timesteps[path[::-1]]
    return found


def _costs(schedule: NoiseSchedule, teacher: Teacher) -> NDArray[np.float64]:
    """Return what a jump costs, `(G, 1 + G)`: from the timestep of a row to the image, or to a timestep."""
    abar = schedule.alphas_cumprod[teacher.timesteps]
    sigmas = np.sqrt(1.0 / abar - 1.0)
    states = teacher.states(schedule) / np.sqrt(abar)[:, None, None]
    count = len(abar)
    costs = np.full((count, 1 + count), np.inf)
    images = teacher.x_start[0]
    for start in range(count):
        image = teacher.x_start[start]
        slope = (states[start] - image) / sigmas[start]
        costs[start, 0] = np.linalg.norm(image - images, axis=1).mean()
        for end in range(start):
            arrival = image + sigmas[end] * slope
            costs[start, 1 + end] = np.linalg.norm(arrival - states[end], axis=1).mean()
    return costs
