"""Grids during training: images sampled from the same noise at regular intervals, to show progress."""

from __future__ import annotations

import bisect
import sys
import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import default_part
from ddim_host.experiment.config import PartConfig
from ddim_host.framework.processes import any_of
from ddim_host.plugin.observation import DrawnGrid
from ddim_host.plugin.registry import Kind
from ddim_host.run.drawing import Drawing, drawing_record, sampler_of
from ddim_host.run.exports import export_images
from ddim_host.run.images import AUTOMATIC, Enlargement, grid_layout
from ddim_host.run.sampling import Denoiser, ImagesNotFiniteError
from ddim_host.run.trained import UsedWeights
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Model
    from ddim_host.run.directory import RunDirectory
    from ddim_host.run.exports import ImageExport
    from ddim_host.run.sampling import Sampler

NUM_IMAGES = 16
"""Number of images in a grid: the first samples of the run's seed."""

NUM_STEPS = 10
"""Number of sampling steps; small, because sampling adds to the training time."""

_TIMES = 10
"""Default number of grids in a run."""


def steps_with_grids(sample_every: int | str, total_steps: int) -> Sequence[int]:
    """Return the steps after which a grid is drawn, in increasing order, except the last step of the run.

    Args:
        sample_every: The value of `--sample-every`: a number of steps, or `auto`.
        total_steps: The number of training steps.
    """
    if isinstance(sample_every, str):
        times = min(_TIMES, total_steps)
        return [round(number * total_steps / times) for number in range(1, times)]
    return range(sample_every, total_steps, sample_every)


def training_grid(
    path: Path, image_shape: tuple[int, int, int], enlargement: Enlargement = AUTOMATIC
) -> ImageExport:
    """Return the export of a grid during training.

    Raises:
        UserError: The grid would have too many pixels.
    """
    scale = grid_layout(NUM_IMAGES, image_shape, scale=enlargement.scale, light=True).scale
    try:
        return export_images(
            path,
            num_images=NUM_IMAGES,
            image_shape=image_shape,
            enlargement=replace(enlargement, scale=scale),
        )
    except UserError as error:
        fix = "use a smaller --grid-scale, or --sample-every 0 for no grids during training"
        raise UserError(error.what, why=error.why, fix=fix) from None


def grids_in_words(sample_every: int | str, total_steps: int | None) -> str:
    """Describe the grids that a run draws during training.

    Args:
        sample_every: The value of `--sample-every`.
        total_steps: The number of training steps; None if it depends on the number of images.
    """
    if sample_every == 0:
        return "no grids during training"
    if isinstance(sample_every, str):
        often = f"{_TIMES if total_steps is None else min(_TIMES, total_steps)} times"
    else:
        often = f"every {sample_every:,} steps"
    return f"a grid of {NUM_IMAGES} images {often} during training"


class TrainingGrids:
    """Draws the grids of a run during training.

    All grids use `NUM_STEPS` steps of deterministic DDIM with the averaged weights, regardless of the
    run's own sampling settings, so they are cheap, depend only on the network, and are comparable between
    runs. Existing grids are not redrawn. Drawing does not affect training.

    Args:
        experiment: The run's experiment.
        model: The network in training.
        run: The run directory.
        total_steps: The number of training steps.
        enlargement: Enlargement of small images.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        run: RunDirectory,
        total_steps: int,
        enlargement: Enlargement = AUTOMATIC,
    ) -> None:
        self._of_the_run = experiment
        self._denoiser = Denoiser(((model, 1.0),), "ema", experiment.config.prediction_type)
        self._run = run
        self._total_steps = total_steps
        every = experiment.config.sample_every
        self._wanted = every != 0
        self._steps = steps_with_grids(every, total_steps) if self._wanted else ()
        self._enlargement = enlargement
        self._drawing = Drawing(NUM_IMAGES)
        self.seconds = 0.0
        """Seconds spent on grids so far, including warm-up and writing files."""

    def next_step(self, step: int) -> int:
        """Return the first step after `step` at which a grid is due, or the last training step."""
        later = bisect.bisect_right(self._steps, step)
        return self._steps[later] if later < len(self._steps) else self._total_steps

    def draw_if_due(self, step: int) -> float:
        """Draw a step's grid if it is due and missing.

        All processes must call this; only the first one writes the file.

        Returns:
            The time taken in seconds; 0 if there was nothing to draw.

        Raises:
            UserError: The grid cannot be written.
        """
        if not self._wanted or (step not in self._steps and step != self._total_steps):
            return 0.0
        path = self._run.training_grid_path(step)
        missing = launched().is_first and not path.exists()
        if not any_of(self._of_the_run.processes, [missing])[0]:
            return 0.0
        started = time.perf_counter()
        self._draw(step, path)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return seconds

    def _draw(self, step: int, path: Path) -> None:
        experiment, sampler = self._experiment, self._sampler
        before = sampler.seconds, sampler.warmup_seconds
        batch_size = min(NUM_IMAGES, experiment.config.batch_size)
        with training_grid(path, experiment.image_shape, self._enlargement) as export:
            try:
                for images in sampler.images(NUM_IMAGES, batch_size=batch_size):
                    if launched().is_first:
                        export.add(images)
            except ImagesNotFiniteError as error:
                # Only losses and weights determine whether training has diverged.
                if launched().is_first:
                    text = f"ddim-host: warning: cannot draw the grid for step {step}: {error.summary}"
                    tqdm.write(text, file=sys.stderr)
                return
            if not launched().is_first:
                return
            used = UsedWeights("ema", "latest", (step,))
            record = drawing_record(experiment, self._denoiser, used, self._drawing)
            record["seconds"] = sampler.seconds - before[0]
            record["warmup_seconds"] = sampler.warmup_seconds - before[1]
            export.finish(record)
            experiment.observers.grid(DrawnGrid(path, step, record))

    @cached_property
    def _experiment(self) -> Experiment:
        """The experiment with the sampling settings of the grids."""
        experiment = self._of_the_run
        parts = dict(experiment.parts)
        chosen: dict[str, Any] = {}
        for kind in (Kind.TIMESTEP_SUBSET, Kind.SOLVER):
            choice = default_part(kind, experiment.registry)
            part = experiment.registry.find(kind, choice)
            parts[kind] = part
            parameters = part.values(choice.arguments)
            chosen[kind.option] = PartConfig(part.name, part.distribution, part.version, parameters)
        steps = min(NUM_STEPS, experiment.config.num_train_timesteps)
        config = replace(experiment.config, steps=steps, eta=0.0, **chosen)
        return replace(experiment, config=config, parts=parts, _subsets={}, _plans={})

    @cached_property
    def _sampler(self) -> Sampler:
        """The sampler, cached so that it warms up only once."""
        return sampler_of(self._experiment, self._denoiser, self._drawing)
