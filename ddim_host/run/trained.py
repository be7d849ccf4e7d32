"""A trained run, ready for use: its settings, and the weights of its checkpoints in a framework."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.framework.processes import require_same_checkpoint
from ddim_host.framework.unet import parameters
from ddim_host.plugin.parameters import format_choice
from ddim_host.run.checkpoints import load_weights, step_of
from ddim_host.run.sampling import Denoiser

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.experiment.config import Request
    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.experiment.settings import CheckpointChoice
    from ddim_host.framework.interface import WhichWeights
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.directory import RunDirectory


@dataclass(frozen=True)
class UsedWeights:
    """Which weights of a run made something.

    Attributes:
        weights: Raw or averaged.
        checkpoint: The choice that was made.
        steps: The training steps after which they were saved; several for an ensemble.
    """

    weights: WhichWeights
    checkpoint: CheckpointChoice
    steps: tuple[int, ...]


def assemble_trained(run: RunDirectory, request: Request) -> Experiment:
    """Return the experiment of a run, with some settings changed; its data set need not be there.

    Args:
        run: The run.
        request: What differs from the run's own settings.

    Raises:
        UserError: See `assembly.assemble`; or the run's configuration is damaged.
    """
    stored = run.config
    return assemble(request.over(stored.request), image_shape=stored.image_shape)


def other_images(config: ConfigFile, images: TrainTest) -> str:
    """Say how images differ from those that a run was trained on; empty if they are the same.

    Args:
        config: The run's configuration; one written by hand names no images, and differs from none.
        images: The images.

    Raises:
        UserError: The configuration is a run's and does not say.
    """
    trained_on = config.fingerprint
    if trained_on in (None, images.fingerprint):
        return ""
    return f"it was trained on {trained_on}; these are {images.fingerprint}"


def load_denoiser(
    experiment: Experiment, run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights
) -> tuple[Denoiser, UsedWeights]:
    """Load the weights of a checkpoint, without optimizer.

    `ensemble` is the mean of the predictions of the best epochs by train loss, test loss and their average.
    An epoch that is the best by two of them counts twice, and is loaded once.

    Raises:
        UserError: There is no such checkpoint, or it is damaged or of another network.
    """
    counts = Counter(_folders(run, checkpoint))
    total = counts.total()
    members = []
    for folder, count in counts.items():
        weights = load_weights(folder, which, parameters(experiment.unet))
        model = experiment.build_model()
        # Into the place of the raw weights, whichever they are: the averaged ones need not take memory then.
        model.load_weights(weights, "raw")
        members.append((model, count / total))
    steps = tuple(step_of(folder) for folder in counts)
    # One number for all of them: of an ensemble, processes may even have found different numbers of epochs.
    require_same_checkpoint(experiment.processes, hash(steps) % 2**48)
    return Denoiser(tuple(members), "raw"), UsedWeights(which, checkpoint, steps)


def record_of(experiment: Experiment, denoiser: Denoiser, used: UsedWeights) -> dict[str, Any]:
    """What made something, for the JSON file beside it."""
    config, model = experiment.config, denoiser.model
    return {
        "checkpoint": used.checkpoint,
        "checkpoint_steps": used.steps,
        "weights": used.weights,
        "timestep_subset": format_choice(config.timestep_subset.name, config.timestep_subset.parameters),
        "plugin": config.plugin.name,
        "device": model.device,
        "precision": model.precision,
    }


def solver_of(experiment: Experiment) -> str:
    """Return the solver of an experiment, as users write it."""
    solver = experiment.config.solver
    return format_choice(solver.name, solver.parameters)


def _folders(run: RunDirectory, checkpoint: CheckpointChoice) -> list[Path]:
    if checkpoint == "latest":
        return [run.latest_checkpoint()]
    best = run.best_checkpoints().items()
    folders = [folder for measure, folder in best if checkpoint in ("ensemble", f"best-{measure}")]
    if not folders:
        raise UserError(
            f"the newest checkpoint in {run.path} knows no best epoch",
            why="no epoch of this run had ended by then",
            fix="use --checkpoint latest, or train on",
        )
    return folders
