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
    schedule: NoiseSchedule,
    teacher: Teacher,
    sizes: Sequence[int],
    *,
    metric: str = "dev",
    coeff: float = 1.15,
) -> dict[int, NDArray[np.int64]]:
    """The search of GITS (arXiv 2405.11326): the shortest path over what Euler jumps do to a trajectory.

    States are `x / sqrt(abar)`, the image plus noise, where a DDIM step with eta 0 is one of Euler's. A path
    begins at the teacher's last timestep and ends in its images. Two costs of a jump, means over the images:
    `dev` is how much farther than the teacher it arrives from the straight line between noise and image, `l2`
    is the distance between the two.

    Args:
        schedule: The noise schedule of the run.
        teacher: What its network predicted with many steps.
        sizes: Numbers S of timesteps, increasing.
        metric: What a jump costs, `dev` or `l2`.
        coeff: Above 0: how much dearer each jump is than the one before it.

    Returns:
        For each S strictly increasing timesteps of the teacher, int64 `(S,)`.

    Raises:
        UserError: There is no such metric; or coeff is not above 0, or not finite.
    """
    if metric not in ("dev", "l2"):
        raise UserError("the metric of gits must be dev or l2", why=f"given is {metric}")
    if not 0.0 < coeff < np.inf:
        raise UserError("the coeff of gits must be a finite number above 0", why=f"given is {coeff}")
    costs = _costs(schedule, teacher, metric)
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


def _costs(schedule: NoiseSchedule, teacher: Teacher, metric: str) -> NDArray[np.float64]:
    """Return what a jump costs, `(G, 1 + G)`: from the timestep of a row to the image, or to a timestep."""
    abar = schedule.alphas_cumprod[teacher.timesteps]
    # The clean image is a place without noise, below the first timestep.
    sigmas = np.append(0.0, np.sqrt(1.0 / abar - 1.0))
    images = teacher.x_start[:1].astype(np.float64)
    states = np.concatenate([images, teacher.states(schedule) / np.sqrt(abar)[:, None, None]])
    line = states[0] - states[-1]
    line /= np.linalg.norm(line, axis=1, keepdims=True)

    def deviation(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each image from its line, which ends in the images."""
        rest = states[0] - x
        along = (rest * line).sum(1, keepdims=True)
        distances: NDArray[np.float64] = np.linalg.norm(rest - along * line, axis=1)
        return distances

    count = len(abar)
    costs = np.full((count, 1 + count), np.inf)
    for start in range(count):
        image = teacher.x_start[start]
        slope = (states[1 + start] - image) / sigmas[1 + start]
        for end in range(start + 1):
            arrival = image + sigmas[end] * slope
            if metric == "dev":
                costs[start, end] = (deviation(arrival) - deviation(states[end])).mean()
            else:
                costs[start, end] = np.linalg.norm(arrival - states[end], axis=1).mean()
    return costs
