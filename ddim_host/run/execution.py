"""Execution of one experiment: train, sample, and write the run directory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.experiment.config_file import config_document, write_run_config
from ddim_host.framework.processes import require_same_checkpoint, require_same_images
from ddim_host.framework.unet import initial_weights, parameters
from ddim_host.plugin.observation import EpochMetrics, ObservedRun
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import (
    Checkpoint,
    Progress,
    load_checkpoint,
    remove_others,
    save_checkpoint,
)
from ddim_host.run.drawing import Drawing, Times, draw
from ddim_host.run.during_training import training_grid
from ddim_host.run.exports import export_images
from ddim_host.run.images import AUTOMATIC, Enlargement
from ddim_host.run.preparation import check_images
from ddim_host.run.provenance import provenance
from ddim_host.run.real_images import ComparedSamples, neighbours_path, write_real_images
from ddim_host.run.sampling import Denoiser
from ddim_host.run.trained import UsedWeights
from ddim_host.run.training import Trainer
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Model
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.directory import RunDirectory


@dataclass(frozen=True)
class Finished:
    """Outcome of an experiment.

    Attributes:
        picture: The path of the grid.
        times: Sampling times.
        growth: Description of a growing loss; empty if the loss has not grown.
    """

    picture: Path
    times: Times
    growth: str


def is_complete(run: RunDirectory) -> bool:
    """Return whether a run has been fully trained, sampled from and reported, judging by its files.

    A page alone proves nothing, because `ddim-host report` also writes it during training; but it is removed
    before the last pictures are drawn.

    Raises:
        UserError: Its configuration or its newest checkpoint is damaged.
    """
    if not run.is_trained():
        return False
    request = run.config.request
    try:
        picture = _picture_path(run, request.parts[Kind.TIMESTEP_SUBSET].name, request.settings)
        wants_real_images = request.settings["real_images"]
    except KeyError:  # a line was removed from config.toml
        return False
    shown = [picture, neighbours_path(picture)] if wants_real_images else [picture]
    return all(path.exists() for path in (*shown, run.report_path))


def _picture_path(run: RunDirectory, timestep_subset: str, settings: Mapping[str, Any]) -> Path:
    """Return the path of the grid that is sampled at the end of a run."""
    return run.samples_path / f"{timestep_subset}-{settings['steps']}-eta-{settings['eta']:g}.png"


@contextlib.contextmanager
def run_experiment(
    experiment: Experiment,
    run: RunDirectory,
    *,
    start: RunDirectory | None = None,
    command: str,
    enlargement: Enlargement = AUTOMATIC,
    on_start: Callable[[Mapping[str, str]], object] = lambda _: None,
) -> Iterator[Finished]:
    """Train, sample, write the run directory (in the first process), and notify the observers.

    The run stays locked in the `with` block, so that the caller can write its page.

    Args:
        experiment: The experiment.
        run: The run directory.
        start: The run whose newest checkpoint, if any, training starts from: `run` itself to resume it, or
            another run with the same network, trained in any framework.
        command: The command that started the run, to be recorded.
        enlargement: Enlargement of small images in grids.
        on_start: Called before training with the provenance, which names the resolved device and precision.

    Yields:
        The outcome.

    Raises:
        UserError: The data, the device or the directory is not available, a checkpoint is damaged, or the
            images do not fit `start`; see `preparation.check_images`.
        DivergedError: A loss or a weight is not finite.
        InterruptedTrainingError: A signal arrived; a checkpoint was written.
    """
    config = experiment.config
    path = _picture_path(run, config.timestep_subset.name, vars(config))
    # These raise before training if a grid would be too large.
    export = export_images(
        path,
        num_images=config.num_images,
        image_shape=experiment.image_shape,
        enlargement=enlargement,
    )
    if config.sample_every:
        training_grid(run.training_grid_path(0), experiment.image_shape, enlargement)
    images = experiment.images
    check_images(experiment, run, start)
    model = experiment.build_model()
    require_same_images(experiment.processes, images.fingerprint.number)
    first = launched().is_first
    made_with = provenance(config.plugin.name, model, command)
    with contextlib.ExitStack() as stack:
        if first and start is run:
            stack.enter_context(run.training())  # no other process may change the files meanwhile
        progress, metrics = _restore(experiment, model, start, resumed=start is run)
        require_same_checkpoint(experiment.processes, progress.step)
        if first and start is not run:
            stack.enter_context(run.training())
            _begin(experiment, model, images, run, progress, start=start, made_with=made_with)
        elif first:
            run.record_resumption(progress.step, made_with)
        if first:
            if images.left_out:
                run.write_left_out(images.left_out)
            # Weights saved after the checkpoint will be recreated.
            remove_others(run.checkpoints_path, progress)
        on_start(made_with)
        observed = ObservedRun(run.path, "run", config_document(config), made_with, progress.step)
        with experiment.observers.watching(observed):
            trainer = Trainer(
                experiment,
                model,
                images,
                run=run,
                progress=progress,
                metrics=metrics,
                enlargement=enlargement,
            )
            trainer.train()
            if first:
                run.remove_page()  # it does not show the new pictures
            used = UsedWeights("ema", "latest", (progress.step,))
            denoiser = Denoiser(((model, 1.0),), "ema", config.prediction_type)
            compared = ComparedSamples()
            times = draw(
                experiment, denoiser, used, Drawing(config.num_images), export, on_images=compared.add
            )
            if first and config.real_images:
                write_real_images(path, compared.images, images)
        yield Finished(path, times, trainer.growth())


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
    """Create a new run in an empty folder.

    Args:
        experiment: The experiment.
        model: The network, with the initial weights of the run.
        images: The data set.
        run: The run directory.
        progress: The initial progress.
        start: The run that provides the initial weights; None if they are random.
        made_with: Versions, hardware and command, by name.
    """
    run.require_free()  # again, because another process may have used the folder
    with run.beginning():
        if start is not None:
            # Save the other run's weights before config.toml, which makes the folder a run. Otherwise, a run
            # that is interrupted in between would restart with random weights.
            save_checkpoint(run.checkpoints_path, model, experiment.sampler.state_dict(), progress)
        run.write_config(
            write_run_config(
                experiment.config,
                experiment.image_shape,
                images.fingerprint,
                made_with,
                num_left_out=len(images.left_out),
                first_step=progress.step,
                ancestor=start.config.ancestor if start else None,
            )
        )


def _restore(
    experiment: Experiment, model: Model, start: RunDirectory | None, *, resumed: bool
) -> tuple[Progress, list[EpochMetrics]]:
    """Load the initial state into the model and the sampler; its arrays are freed on return."""
    checkpoint, metrics = _beginning(experiment) if start is None else _continued(experiment, start)
    model.load_weights(checkpoint.raw, "raw")
    model.load_weights(checkpoint.ema, "ema")
    if checkpoint.training is not None:
        model.load_training_state(checkpoint.training)
    if resumed:
        if checkpoint.training is not None:  # otherwise the sampler has no stored state
            experiment.sampler.load_state_dict(checkpoint.sampler)
        return checkpoint.progress, metrics
    # Do not carry over the losses and times of another run, which may have used another loss or framework, or
    # the state of its timestep sampler.
    return Progress(step=checkpoint.progress.step), []


def _beginning(experiment: Experiment) -> tuple[Checkpoint, list[EpochMetrics]]:
    """Return the state of a run before its first step."""
    weights = initial_weights(experiment.unet, experiment.config.seed)
    return Checkpoint(raw=weights, ema=weights, training=None, sampler={}, progress=Progress()), []


def _continued(experiment: Experiment, start: RunDirectory) -> tuple[Checkpoint, list[EpochMetrics]]:
    """Return a run's newest checkpoint and the metrics up to it; later ones will be measured again."""
    if not start.has_checkpoint():
        return _beginning(experiment)
    checkpoint = load_checkpoint(start.latest_checkpoint(), parameters(experiment.unet))
    return checkpoint, [row for row in start.read_metrics() if row.step <= checkpoint.progress.step]
