"""A search for ddim-host: choose the best S of a teacher's timesteps for sampling in few steps."""

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
    """Register the subset search."""
    return {"gits": gits}


def gits(
    schedule: NoiseSchedule,
    teacher: Teacher,
    sizes: Sequence[int],
    *,
    metric: str = "dev",
    coeff: float = 1.15,
) -> dict[int, NDArray[np.int64]]:
    """Search as in GITS (arXiv 2405.11326): find the path whose Euler jumps have the smallest total error.

    States are `x / sqrt(abar)`, the image plus noise, for which a DDIM step with eta 0 is an Euler step. A
    path begins at the teacher's last timestep and ends at its images. The cost of a jump is a mean over the
    images: `dev` is the increase, relative to the teacher, of the distance from the straight line between
    noise and image; `l2` is the distance from the teacher's state.

    Args:
        schedule: The noise schedule of the run.
        teacher: The network's predictions with many steps.
        sizes: Numbers S of timesteps, increasing.
        metric: The cost of a jump, `dev` or `l2`.
        coeff: Weight of the cost of each jump relative to that of the previous jump, above 0.

    Returns:
        Strictly increasing timesteps of the teacher for each S, int64 `(S,)`.

    Raises:
        UserError: The metric is unknown, or `coeff` is not a finite number above 0.
    """
    if metric not in ("dev", "l2"):
        raise UserError(f"parameter 'metric' of subset search 'gits' must be dev or l2, not {metric!r:.40}")
    if not 0.0 < coeff < np.inf:
        raise UserError(
            f"parameter 'coeff' of subset search 'gits' must be a finite number above 0, not {coeff}"
        )
    costs = _costs(schedule, teacher, metric)
    # The least cost from each timestep to the image; entry k is for k + 1 jumps.
    totals, after = [costs[:, 0]], [np.zeros(len(costs), dtype=np.int64)]
    for _ in range(1, max(sizes)):
        through = costs[:, 1:] + coeff * totals[-1]
        after.append(through.argmin(1))
        totals.append(through.min(1))
    found = {}
    for size in sizes:
        path = [len(costs) - 1]
        for jumps in range(size - 1, 0, -1):
            path.append(int(after[jumps][path[-1]]))
        found[size] = teacher.timesteps[path[::-1]]
    return found


def _costs(schedule: NoiseSchedule, teacher: Teacher, metric: str) -> NDArray[np.float64]:
    """Return the costs of jumps, `(G, 1 + G)`, from each timestep to the image and to each timestep."""
    abar = schedule.alphas_cumprod[teacher.timesteps]
    # The clean image is a state without noise, below the first timestep.
    sigmas = np.append(0.0, np.sqrt(1.0 / abar - 1.0))
    images = teacher.x_start[:1].astype(np.float64)
    states = np.concatenate([images, teacher.states(schedule) / np.sqrt(abar)[:, None, None]])
    line = states[0] - states[-1]
    line /= np.linalg.norm(line, axis=1, keepdims=True)

    def deviation(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of each state from its line between noise and image."""
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
