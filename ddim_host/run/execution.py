"""One experiment from beginning to end: train, sample, and leave a run directory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.experiment.config import training_length
from ddim_host.experiment.config_file import config_document, write_run_config
from ddim_host.framework.processes import require_same_checkpoint, require_same_images
from ddim_host.framework.unet import initial_weights, parameters
from ddim_host.plugin.observation import EpochMetrics, ObservedRun
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import (
    Checkpoint,
    Progress,
    load_checkpoint,
    load_progress,
    remove_others,
    save_checkpoint,
)
from ddim_host.run.drawing import Drawing, Times, draw
from ddim_host.run.exports import export_images
from ddim_host.run.provenance import provenance
from ddim_host.run.sampling import Denoiser
from ddim_host.run.trained import UsedWeights, other_images
from ddim_host.run.training import Trainer
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Model
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.directory import RunDirectory


@dataclass(frozen=True)
class Finished:
    """How an experiment went.

    Attributes:
        picture: The path of the grid.
        times: How long the sampling took.
        growth: That the loss has grown, in words; empty if it has not.
    """

    picture: Path
    times: Times
    growth: str


def is_complete(run: RunDirectory) -> bool:
    """Return whether a run was trained to its end, sampled from and reported, as its files tell.

    Raises:
        UserError: Its configuration or its newest checkpoint is damaged.
    """
    request, images = run.config.request, run.config.fingerprint
    if images is None or not (run.has_checkpoint() and run.report_path.exists()):
        return False
    try:
        picture = _picture_path(run, request.parts[Kind.TIMESTEP_SUBSET].name, request.settings)
        length = training_length(request.settings, images.num_train)
    except KeyError:  # somebody has taken a line out of config.toml
        return False
    return picture.exists() and load_progress(run.latest_checkpoint()).step >= length


def _picture_path(run: RunDirectory, timestep_subset: str, settings: Mapping[str, Any]) -> Path:
    """Return the path of the grid that a run ends with."""
    return run.samples_path / f"{timestep_subset}-{settings['steps']}-eta-{settings['eta']:g}.png"


def run_experiment(
    experiment: Experiment,
    run: RunDirectory,
    *,
    start: RunDirectory | None = None,
    command: str,
) -> Finished:
    """Train, sample and write everything into the run directory; of several processes the first one writes.

    The observers of the experiment are told.

    Args:
        experiment: What to run.
        run: Where to write.
        start: The run whose newest checkpoint to begin from, if it has one: `run` itself to resume it, or
            another run with the same network, trained in any framework.
        command: What was called, for the record.

    Returns:
        How it went.

    Raises:
        UserError: The data, the device or the directory is not available, or a checkpoint is damaged; or a
            resumed run would go on with other images.
        DivergedError: A loss or a weight is not finite.
        InterruptedTrainingError: There was a signal; a checkpoint was written.
    """
    config = experiment.config
    path = _picture_path(run, config.timestep_subset.name, vars(config))
    export = export_images(path, num_images=config.num_images)  # too many are an error before the training
    images = experiment.images
    if start is run:
        _require_same_images(run, images)
    model = experiment.build_model()
    require_same_images(experiment.processes, images.fingerprint.number)
    first = launched().is_first
    made_with = provenance(config.plugin.name, model, command)
    with contextlib.ExitStack() as stack:
        if first and start is run:
            stack.enter_context(run.training())  # what is read must not change any more
        progress, metrics = _restore(experiment, model, start, resumed=start is run)
        require_same_checkpoint(experiment.processes, progress.step)
        if first and start is not run:
            stack.enter_context(run.training())
            _begin(experiment, model, images, run, progress, start=start, made_with=made_with)
        if first:
            # What was kept after the checkpoint will be made again.
            remove_others(run.checkpoints_path, progress)
        observed = ObservedRun(run.path, "run", config_document(config), made_with, progress.step)
        with experiment.observers.watching(observed):
            trainer = Trainer(experiment, model, images, run=run, progress=progress, metrics=metrics)
            trainer.train()
            stack.close()  # the run can be resumed from here on
            used = UsedWeights("ema", "latest", (progress.step,))
            denoiser = Denoiser(((model, 1.0),), "ema", config.prediction_type)
            times = draw(experiment, denoiser, used, Drawing(config.num_images), export)
    return Finished(path, times, trainer.growth())


def _require_same_images(run: RunDirectory, images: TrainTest) -> None:
    """Make sure that a resumed run goes on with the images that it began with.

    Raises:
        UserError: It would not.
    """
    why = other_images(run.config, images)
    if why:
        raise UserError(
            f"the images are not those that the run in {run.path} began with",
            why=why,
            fix=f"bring those back, or begin another run with --start-from {run.path}",
        )


def _begin(
    experiment: Experiment,
    model: Model,
    images: TrainTest,
    run: RunDirectory,
    progress: Progress,
    *,
    start: RunDirectory | None,
    made_with: Mapping[str, str],
) -> None:
    """Make a new run of an empty folder.

    Args:
        experiment: What to run.
        model: The network, with the weights that the run begins with.
        images: The data set.
        run: Where to.
        progress: Where it begins.
        start: The run whose weights it begins with; None if they are random.
        made_with: What the run is made with, as text by name.
    """
    run.require_free()  # again: another process may have come first
    if start is not None:
        # Weights of another run are nowhere else in this one. They come before what makes it a run, so that
        # one that is cut off here is never begun again with random weights.
        save_checkpoint(run.checkpoints_path, model, experiment.sampler.state_dict(), progress)
    if images.left_out:
        run.write_left_out(images.left_out)
    run.write_config(
        write_run_config(
            experiment.config,
            experiment.image_shape,
            images.fingerprint,
            made_with,
            num_left_out=len(images.left_out),
            ancestor=start.config.ancestor if start else None,
        )
    )


def _restore(
    experiment: Experiment, model: Model, start: RunDirectory | None, *, resumed: bool
) -> tuple[Progress, list[EpochMetrics]]:
    """Bring model and sampler to where the run begins; a function, so that the arrays are freed after it."""
    checkpoint, metrics = _beginning(experiment) if start is None else _continued(experiment, start)
    model.load_weights(checkpoint.raw, "raw")
    model.load_weights(checkpoint.ema, "ema")
    if checkpoint.training is not None:
        model.load_training_state(checkpoint.training)
    if resumed:
        if checkpoint.training is not None:  # otherwise nothing was ever kept
            experiment.sampler.load_state_dict(checkpoint.sampler)
        return checkpoint.progress, metrics
    # Losses and times of another run, perhaps with another loss or on another framework, stay there; so does
    # what its timestep sampler learned from them.
    return Progress(step=checkpoint.progress.step), []


def _beginning(experiment: Experiment) -> tuple[Checkpoint, list[EpochMetrics]]:
    """The state of a run that has not taken a step."""
    weights = initial_weights(experiment.unet, experiment.config.seed)
    return Checkpoint(raw=weights, ema=weights, training=None, sampler={}, progress=Progress()), []


def _continued(experiment: Experiment, start: RunDirectory) -> tuple[Checkpoint, list[EpochMetrics]]:
    """The newest checkpoint of a run, and its metrics up to there; what came after is measured again."""
    if not start.has_checkpoint():
        return _beginning(experiment)
    checkpoint = load_checkpoint(start.latest_checkpoint(), parameters(experiment.unet))
    return checkpoint, [row for row in start.read_metrics() if row.step <= checkpoint.progress.step]
