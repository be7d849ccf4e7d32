"""The search for timestep subsets of a trained run; the mathematics is in `ddim_host.diffusion.search`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion.search import jump_errors, shortest_paths
from ddim_host.errors import UserError
from ddim_host.parts.found_subsets import FoundSubset, Search, schedule_hash
from ddim_host.parts.timestep_subsets import linear
from ddim_host.plugin.parameters import format_choice
from ddim_host.run.provenance import provenance, this_command
from ddim_host.run.teacher import follow_teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.sampling import Denoiser
    from ddim_host.run.trained import UsedWeights

METHOD = "dynamic programming over transported DDIM errors"


def teacher_timesteps(experiment: Experiment, steps: int, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return the timesteps of a teacher: evenly spaced, and those of the subset `linear` of each size.

    With the latter among them `linear` is one of the subsets that a search compares.

    Args:
        experiment: The experiment.
        steps: The number of evenly spaced ones; all timesteps if there are fewer.
        sizes: The numbers of steps that subsets are searched for.

    Returns:
        int64, strictly increasing.

    Raises:
        UserError: A subset would need more timesteps than the teacher has.
    """
    schedule = experiment.schedule
    most = min(steps, schedule.num_train_timesteps)
    if max(sizes) > most:
        raise UserError(
            f"a teacher of {most} steps cannot be followed in {max(sizes)}",
            why=f"the noise schedule has {schedule.num_train_timesteps} timesteps",
            fix="use fewer --steps, or more --teacher-steps",
        )
    return np.unique(np.concatenate([linear(schedule, size) for size in (most, *sizes)]))


def search_of(
    experiment: Experiment,
    denoiser: Denoiser,
    used: UsedWeights,
    *,
    weights_sha256: str,
    timesteps: NDArray[np.int64],
    num_images: int,
) -> Search:
    """Return all that the result of a search depends on.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        used: Which weights these are.
        weights_sha256: The hash of their files.
        timesteps: Those of the teacher.
        num_images: The images that it samples.
    """
    config, model = experiment.config, denoiser.model
    noise_schedule = format_choice(config.noise_schedule.name, config.noise_schedule.parameters)
    return Search(
        method=METHOD,
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
    )


def search_subsets(
    experiment: Experiment, denoiser: Denoiser, search: Search, sizes: Sequence[int], *, started: float
) -> list[FoundSubset]:
    """Search, with progress.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        search: How to search.
        sizes: Numbers of steps.
        started: When the work began, of `time.perf_counter`.

    Raises:
        UserError: A pixel of the teacher's images is not a finite number.
    """
    timesteps = np.array(search.teacher_timesteps, dtype=np.int64)
    teacher = follow_teacher(experiment, denoiser, timesteps, search.num_images)
    errors = jump_errors(experiment.schedule, teacher)
    paths = shortest_paths(errors, sizes)
    seconds = time.perf_counter() - started
    made_with = provenance(search.plugin, denoiser.model, this_command())
    found = []
    for size, path in sorted(paths.items()):
        even = np.searchsorted(timesteps, linear(experiment.schedule, size))
        found.append(
            FoundSubset(
                timesteps=tuple(timesteps[list(path)].tolist()),
                expected_error=errors.of(path),
                linear_expected_error=errors.of(even.tolist()),
                search=search,
                calls=math.ceil(search.num_images / search.batch_size) * len(timesteps),
                seconds=seconds,
                made_with=made_with,
            )
        )
    return found
