"""The best S timesteps for a trained network: a shortest path over the jumps of a teacher's trajectory.

A teacher, DDIM with many steps and eta 0, samples some images. The error of a jump between two of its
timesteps is the difference, at the second, between the result of one DDIM step from the teacher's state at
the first and the teacher's state. The part of an error that reaches the image depends on its direction: along
a principal component of the teacher's images with variance lambda, the flow of Gaussian data shrinks a
deviation of x_t by sqrt(lambda / (abar lambda + 1 - abar)). The squares of these transported errors add up
along a path, and dynamic programming finds the best path with exactly S network calls, for all S at once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Teacher:
    """Predictions of a teacher, DDIM with many steps and eta 0, which turns noise into N images of D values.

    Attributes:
        timesteps: int64 `(G,)`, strictly increasing.
        noise: float32 `(N, D)`, x at the last timestep, which may be below T - 1.
        x_start: float32 `(G, N, D)`, the predicted x_start at each timestep; at the first timestep, these are
            the images.
    """

    timesteps: NDArray[np.int64]
    noise: NDArray[np.float32]
    x_start: NDArray[np.float32]

    def states(self, schedule: NoiseSchedule) -> NDArray[np.float64]:
        """Return the teacher's x at each timestep, `(G, N, D)`; at the last one, this is the noise.

        Args:
            schedule: The noise schedule of the network.
        """
        abar = schedule.alphas_cumprod[self.timesteps]
        noise, x_start = self.noise.astype(np.float64), self.x_start.astype(np.float64)
        return _states(x_start, noise, np.sqrt(abar), np.sqrt(1.0 - abar))


@dataclass(frozen=True, eq=False)
class JumpErrors:
    """Contributions of jumps between G timesteps to the mean squared error of a pixel, in float64.

    Attributes:
        start: `(G,)`, of starting from pure noise at each timestep.
        between: `(G, G)`, of jumping from the row's timestep down to the column's; infinite for all other
            pairs.
        end: `(G,)`, of jumping from each timestep to the clean image.
    """

    start: NDArray[np.float64]
    between: NDArray[np.float64]
    end: NDArray[np.float64]

    def of(self, positions: Sequence[int]) -> float:
        """Return the sum along a path, given as increasing positions among the G timesteps."""
        down = [int(position) for position in positions][::-1]
        jumps = sum(self.between[jump] for jump in itertools.pairwise(down))
        return float(self.start[down[0]] + jumps + self.end[down[-1]])


def jump_errors(schedule: NoiseSchedule, teacher: Teacher) -> JumpErrors:
    """Compute the transported errors of all jumps between a teacher's timesteps.

    Args:
        schedule: The noise schedule of the network.
        teacher: The teacher's predictions.
    """
    _, num_images, size = teacher.x_start.shape
    images = teacher.x_start[0].astype(np.float64)
    _, deviations, components = np.linalg.svd(images - images.mean(0), full_matrices=False)
    variances = deviations**2 / num_images
    x_start = np.stack([predicted.astype(np.float64) @ components.T for predicted in teacher.x_start])
    noise = teacher.noise.astype(np.float64) @ components.T
    abar = schedule.alphas_cumprod[teacher.timesteps]
    share, noise_share = np.sqrt(abar), np.sqrt(1.0 - abar)
    states = _states(x_start, noise, share, noise_share)
    # Squared factors by which deviations of x_t shrink on their way to the image.
    arrives = variances / (abar[:, None] * variances + (1.0 - abar)[:, None])

    def mean_square(errors: NDArray[np.float64], position: int) -> NDArray[np.float64]:
        squares: NDArray[np.float64] = np.square(errors).mean(-2) @ arrives[position] / size
        return squares

    count = len(abar)
    between = np.full((count, count), math.inf)
    for to in range(count - 1):
        above = slice(to + 1, count)
        ratio = noise_share[to] / noise_share[above]
        from_states = states[above] * ratio[:, None, None]
        from_images = x_start[above] * (share[to] - ratio * share[above])[:, None, None]
        between[above, to] = mean_square(from_states + from_images - states[to], to)
    # Errors at the clean image are not shrunk, and include those outside the span of the components.
    end = [np.square(predicted.astype(np.float64) - images).mean() for predicted in teacher.x_start]
    start = [float(mean_square(noise - states[position], position)) for position in range(count)]
    return JumpErrors(np.array(start), between, np.array(end))


def _states(
    x_start: NDArray[np.float64],
    noise: NDArray[np.float64],
    share: NDArray[np.float64],
    noise_share: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the teacher's DDIM states at each timestep, of the shape of `x_start`."""
    states = np.empty_like(x_start)
    states[-1] = noise
    for position in range(len(x_start) - 1, 0, -1):
        predicted = (states[position] - share[position] * x_start[position]) / noise_share[position]
        states[position - 1] = share[position - 1] * x_start[position] + noise_share[position - 1] * predicted
    return states


def shortest_paths(errors: JumpErrors, sizes: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Find the path with the least error for each number of network calls.

    Args:
        errors: Errors of all jumps.
        sizes: Numbers S of network calls, each from 1 to G.

    Returns:
        The positions of the timesteps for each S, increasing.

    Raises:
        ValueError: An S is out of range.
    """
    wanted, count = sorted(set(sizes)), len(errors.start)
    if not wanted or not 1 <= wanted[0] <= wanted[-1] <= count:
        raise ValueError(f"sizes must be from 1 to {count}, not {wanted}")
    reached = errors.start
    before: list[NDArray[np.intp]] = []
    found = {}
    for size in range(1, wanted[-1] + 1):
        if size > 1:
            through = reached[:, None] + errors.between
            before.append(through.argmin(0))
            reached = through.min(0)
        if size in wanted:
            path = [int(np.argmin(reached + errors.end))]
            for step in reversed(before):
                path.append(int(step[path[-1]]))
            found[size] = tuple(path)
    return found


def descend(
    start: Sequence[int], count: int, loss: Callable[[tuple[int, ...]], float], strides: Iterable[int]
) -> tuple[int, ...]:
    """Minimise a loss by coordinate descent, moving one position at a time.

    For each stride, every position in turn, from the last to the first, is moved down and up by the stride. A
    move that lowers the loss is kept. Positions remain increasing, and no combination is tried twice.

    Args:
        start: Increasing positions in [0, `count`).
        count: The number of available positions.
        loss: The loss to minimise.
        strides: Sizes of the moves.

    Returns:
        The positions with the lowest loss found, at most that of `start`.
    """
    best = tuple(start)
    losses = {best: loss(best)}
    for stride in strides:
        for index in reversed(range(len(best))):
            for move in (-stride, stride):
                tried = (*best[:index], best[index] + move, *best[index + 1 :])
                inside = tried[0] >= 0 and tried[-1] < count
                increasing = all(one < other for one, other in itertools.pairwise(tried))
                if not inside or not increasing or tried in losses:
                    continue
                losses[tried] = loss(tried)
                if losses[tried] < losses[best]:
                    best = tried
    return best
