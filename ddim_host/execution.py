"""One experiment from beginning to end: train, sample, and leave a run directory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddim_host.checkpoints import Checkpoint, Progress, load_checkpoint
from ddim_host.config import write_config
from ddim_host.images import grid_png
from ddim_host.parameters import format_choice
from ddim_host.progress import progress_bar
from ddim_host.provenance import provenance
from ddim_host.sampling import Samples, sample
from ddim_host.training import Trainer
from ddim_host.unet import initial_weights, parameters

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.assembly import Experiment
    from ddim_host.runs import EpochMetrics, RunDirectory
    from ddim_host.waist import Model

__all__ = ["run_experiment"]


def run_experiment(
    experiment: Experiment, run: RunDirectory, *, start: RunDirectory | None = None
) -> tuple[Path, Samples]:
    """Train, sample and write everything into the run directory.

    Args:
        experiment: What to run.
        run: Where to write.
        start: The run whose newest checkpoint to begin from, if it has one: `run` itself to resume it, or
            another run with the same network, trained in any framework.

    Returns:
        Path of the grid, and the samples.

    Raises:
        UserError: The data, the device or the directory is not to be had, or a checkpoint is damaged.
        DivergedError: The loss is no longer finite.
    """
    config = experiment.config
    images = experiment.load_images()
    model = experiment.build_model()
    checkpoint, metrics = _beginning(experiment) if start is None else _continued(experiment, start)
    if start is not run:
        # Losses and times of another run, perhaps with another loss or on another framework, stay there.
        checkpoint = replace(checkpoint, progress=Progress(step=checkpoint.progress.step))
        metrics = []
    model.load_weights(checkpoint.raw, "raw")
    model.load_weights(checkpoint.ema, "ema")
    if checkpoint.training is not None:
        model.load_training_state(checkpoint.training)
        # A new run may have another timestep sampler, which learns anew.
        if start is run:
            experiment.sampler.load_state_dict(checkpoint.sampler)
    if start is not run:
        run.create(write_config(config, provenance(config.plugin.name, model)))
    Trainer(experiment, model, images, run=run, progress=checkpoint.progress, metrics=metrics).train()
    return _sample(experiment, model, run)


def _beginning(experiment: Experiment) -> tuple[Checkpoint, list[EpochMetrics]]:
    """The state of a run that has not taken a step."""
    weights = initial_weights(experiment.unet, experiment.config.seed)
    return Checkpoint(raw=weights, ema=weights, training=None, sampler={}, progress=Progress()), []


def _continued(experiment: Experiment, start: RunDirectory) -> tuple[Checkpoint, list[EpochMetrics]]:
    """The newest checkpoint of a run, and its metrics up to there; what came after is measured again."""
    latest = start.latest_checkpoint()
    if latest is None:
        return _beginning(experiment)
    checkpoint = load_checkpoint(latest, parameters(experiment.unet))
    return checkpoint, [row for row in start.read_metrics() if row.step <= checkpoint.progress.step]


def _sample(experiment: Experiment, model: Model, run: RunDirectory) -> tuple[Path, Samples]:
    config = experiment.config
    steps = experiment.sampling_steps()

    def advance(images: int) -> None:
        bar.update(images)

    with progress_bar("sampling", config.num_images * len(steps), unit="call") as bar:
        samples = sample(
            model,
            steps,
            num_images=config.num_images,
            image_shape=experiment.source.image_shape,
            batch_size=min(config.num_images, config.batch_size),
            seed=config.seed,
            clip=config.clip,
            which="ema",
            on_step=advance,
        )
    subset = config.timestep_subset
    protocol = {
        "num_images": config.num_images,
        "seed": config.seed,
        "weights": "ema",
        "timestep_subset": format_choice(subset.name, subset.parameters),
        "timesteps": experiment.subset.tolist(),
        "eta": config.eta,
        "clip": config.clip,
        "plugin": config.plugin.name,
        "device": model.device,
        "precision": model.precision,
        "seconds": samples.seconds,
        "warmup_seconds": samples.warmup_seconds,
    }
    name = f"{subset.name}-{config.steps}-eta-{config.eta:g}"
    return run.write_samples(name, grid_png(samples.images), protocol), samples
