"""Search for timestep subsets for a trained run: the teacher, the search part, and the expected errors."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion.search import jump_errors
from ddim_host.errors import UserError
from ddim_host.parts.found_subsets import FoundSubset, Search, schedule_hash
from ddim_host.parts.timestep_subsets import linear
from ddim_host.plugin.parameters import format_choice
from ddim_host.plugin.validation import checked_search
from ddim_host.run.provenance import provenance, this_command
from ddim_host.run.refinement import refine, teacher_images
from ddim_host.run.teacher import follow_teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.parts.found_subsets import Refinement
    from ddim_host.plugin.parameters import Value
    from ddim_host.plugin.registry import Part
    from ddim_host.run.refinement import Distance, Refined
    from ddim_host.run.sampling import Denoiser
    from ddim_host.run.trained import UsedWeights


@dataclass(frozen=True)
class Method:
    """The chosen subset search.

    Attributes:
        part: The part.
        parameters: All its parameters, including defaults.
    """

    part: Part
    parameters: Mapping[str, Value]


def teacher_timesteps(experiment: Experiment, steps: int, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return the timesteps of a teacher: evenly spaced ones, and those of the `linear` subset of each size.

    The latter make `linear` one of the subsets that the search compares.

    Args:
        experiment: The experiment.
        steps: The number of evenly spaced timesteps; all timesteps if there are fewer.
        sizes: The numbers of steps to find subsets for.

    Returns:
        int64, strictly increasing.

    Raises:
        UserError: A subset would need more timesteps than the teacher has.
    """
    schedule = experiment.schedule
    most = min(steps, schedule.num_train_timesteps)
    if max(sizes) > most:
        raise UserError(
            f"cannot choose {max(sizes)} timesteps from a teacher with {most} steps",
            why=f"the noise schedule has {schedule.num_train_timesteps} timesteps",
            fix="use smaller --steps or larger --teacher-steps",
        )
    return np.unique(np.concatenate([linear(schedule, size) for size in (most, *sizes)]))


def search_of(
    experiment: Experiment,
    denoiser: Denoiser,
    used: UsedWeights,
    method: Method,
    *,
    weights_sha256: str,
    timesteps: NDArray[np.int64],
    num_images: int,
    refinement: Refinement | None,
) -> Search:
    """Return the description of a search: everything that its result depends on.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        used: The weights in use.
        method: The subset search.
        weights_sha256: The SHA-256 hash of the weights files.
        timesteps: The timesteps of the teacher.
        num_images: The number of images that the teacher samples.
        refinement: The refinement of the result; None for no refinement.
    """
    config, model = experiment.config, denoiser.model
    noise_schedule = format_choice(config.noise_schedule.name, config.noise_schedule.parameters)
    return Search(
        method=format_choice(method.part.name, method.parameters),
        distribution=method.part.distribution,
        version=method.part.version,
        teacher_timesteps=tuple(timesteps.tolist()),
        num_images=num_images,
        seed=config.seed,
        clip=config.x_start_limit,
        checkpoint=used.checkpoint,
        checkpoint_steps=used.steps,
        weights=used.weights,
        weights_sha256=weights_sha256,
        noise_schedule=f"{noise_schedule} with {config.num_train_timesteps:,} timesteps",
        schedule_sha256=schedule_hash(experiment.schedule),
        plugin=config.plugin.name,
        device=model.device,
        precision=model.precision,
        batch_size=min(config.batch_size, num_images),
        refinement=refinement,
    )


def search_subsets(
    experiment: Experiment,
    denoiser: Denoiser,
    method: Method,
    search: Search,
    sizes: Sequence[int],
    *,
    started: float,
    distance_from: Callable[[NDArray[np.float32]], Distance] | None = None,
) -> list[FoundSubset]:
    """Search for subsets, with a progress bar.

    The expected error of a subset does not depend on the part that found it.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        method: The subset search.
        search: The description of the search.
        sizes: Numbers of steps.
        started: The time at which the work started, from `time.perf_counter`.
        distance_from: Returns a function that measures the distance from the teacher's images, for
            refinement; None for no refinement.

    Raises:
        UserError: A pixel of a sampled image is not finite, or the part breaks its contract.
    """
    timesteps = np.array(search.teacher_timesteps, dtype=np.int64)
    teacher = follow_teacher(experiment, denoiser, timesteps, search.num_images)
    subsets = checked_search(method.part, method.parameters, experiment.schedule, teacher, sizes)
    errors = jump_errors(experiment.schedule, teacher)
    calls = math.ceil(search.num_images / search.batch_size) * len(timesteps)
    refined: dict[int, Refined] = {}
    if distance_from is not None:
        distance = distance_from(teacher_images(experiment, teacher))
        refined, more = refine(experiment, denoiser, teacher, subsets, distance)
        calls += more

    def expected(subset: NDArray[np.int64]) -> float:
        return errors.of(np.searchsorted(timesteps, subset).tolist())

    seconds = time.perf_counter() - started
    made_with = provenance(search.plugin, denoiser.model, this_command())
    found = []
    for size, subset in subsets.items():
        moved = refined.get(size)
        final = subset if moved is None else moved.timesteps
        found.append(
            FoundSubset(
                timesteps=tuple(final.tolist()),
                expected_error=expected(final),
                linear_expected_error=expected(linear(experiment.schedule, size)),
                refined_from=() if moved is None else tuple(subset.tolist()),
                distances=() if moved is None else (moved.before, moved.after),
                search=search,
                calls=calls,
                seconds=seconds,
                made_with=made_with,
            )
        )
    return found
