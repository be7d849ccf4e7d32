"""Refinement of found timesteps: move them as long as the images get closer to the teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ddim_host.diffusion import ddim_steps
from ddim_host.diffusion.search import descend
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import checked_solver
from ddim_host.run.sampling import denoise, require_finite
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion import Teacher
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.validation import SamplingPlan
    from ddim_host.run.sampling import Denoiser

    Distance: TypeAlias = Callable[[NDArray[np.float32]], float]

_STRIDES = (4, 2, 1)
"""Distances by which timesteps are moved, in teacher steps; each is used in one pass over the subset."""


@dataclass(frozen=True)
class Refined:
    """A refined subset.

    Attributes:
        timesteps: int64 `(S,)`.
        before: The distance from the teacher's images before refinement.
        after: The distance from the teacher's images after refinement.
    """

    timesteps: NDArray[np.int64]
    before: float
    after: float


def pixel_distance(target: NDArray[np.float32]) -> Distance:
    """Return a function that computes the mean squared pixel difference from a target.

    Args:
        target: float32 `(N, C, H, W)`, like the images.
    """

    def distance(images: NDArray[np.float32]) -> float:
        return float(np.square(images.astype(np.float64) - target).mean())

    return distance


def refined_images(num_images: int) -> int:
    """Return the number of the teacher's images that refinement uses: half of them, but at least one."""
    return max(1, num_images // 2)


def teacher_images(experiment: Experiment, teacher: Teacher) -> NDArray[np.float32]:
    """Return the target images of a refinement, float32 `(N, C, H, W)`."""
    height, width, channels = experiment.image_shape
    count = refined_images(len(teacher.noise))
    return teacher.x_start[0, :count].reshape(count, channels, height, width)


def refine(
    experiment: Experiment,
    denoiser: Denoiser,
    teacher: Teacher,
    subsets: Mapping[int, NDArray[np.int64]],
    distance: Distance,
) -> tuple[dict[int, Refined], int]:
    """Refine each subset by coordinate descent over the teacher's timesteps, with a progress bar.

    Images are sampled from the teacher's noise, with the solver of the experiment and eta 0.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        teacher: The predictions of the teacher.
        subsets: Subsets of the teacher's timesteps, by size.
        distance: Measures the distance from images, float32 `(N, C, H, W)`, to `teacher_images`.

    Returns:
        The refined subsets by size, and the number of network calls, one per batch.

    Raises:
        UserError: The solver does not support some timesteps, or a pixel is not finite.
    """
    images = teacher_images(experiment, teacher)
    noise = teacher.noise[: len(images)].reshape(images.shape).copy()  # PyTorch warns about read-only arrays
    batches = math.ceil(len(noise) / min(experiment.config.batch_size, len(noise)))
    calls = {size: batches * _plan(experiment, subset).calls for size, subset in subsets.items()}
    tries = {size: 1 + 2 * len(_STRIDES) * size for size in subsets}
    made, refined = 0, {}
    # Many moves are impossible or were already tried, so the bar jumps ahead at the end of each subset.
    with progress_bar("refining", sum(tries[size] * calls[size] for size in subsets), unit="call") as bar:
        for size, subset in subsets.items():
            distances: list[float] = []

            def loss(positions: Sequence[int], seen: list[float] = distances) -> float:
                plan = _plan(experiment, teacher.timesteps[list(positions)])
                seen.append(distance(_sampled(experiment, denoiser, plan, noise, bar.update)))
                return seen[-1]

            start = np.searchsorted(teacher.timesteps, subset).tolist()
            positions = descend(start, len(teacher.timesteps), loss, _STRIDES)
            refined[size] = Refined(teacher.timesteps[list(positions)], distances[0], min(distances))
            made += len(distances) * calls[size]
            bar.update((tries[size] - len(distances)) * calls[size])
    return refined, made


def _plan(experiment: Experiment, timesteps: NDArray[np.int64]) -> SamplingPlan:
    steps = ddim_steps(experiment.schedule, timesteps.tolist(), eta=0.0)
    return checked_solver(experiment.parts[Kind.SOLVER], experiment.config.solver.parameters, steps)


def _sampled(
    experiment: Experiment,
    denoiser: Denoiser,
    plan: SamplingPlan,
    noise: NDArray[np.float32],
    on_call: Callable[[], object],
) -> NDArray[np.float32]:
    config, model = experiment.config, denoiser.model
    images = np.empty_like(noise)
    size = min(config.batch_size, len(noise))
    for first in range(0, len(noise), size):
        batch = slice(first, first + size)
        x_t = model.to_device(noise[batch])
        followed = denoise(
            denoiser, x_t, plan.steps, limit=config.x_start_limit, solver=plan.solver, on_call=on_call
        )
        *_, (arrived, _) = followed
        images[batch] = model.to_host(arrived)
    require_finite(images)
    return images
