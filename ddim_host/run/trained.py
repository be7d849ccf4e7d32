"""A trained run, ready for use: its settings, and the weights of its checkpoints in a framework."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.framework.processes import require_same_checkpoint
from ddim_host.framework.unet import parameters
from ddim_host.parts.found_subsets import WantedWeights, found_subset, weights_in_words
from ddim_host.parts.timestep_subsets import optimized
from ddim_host.plugin.parameters import format_choice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import load_weights, step_of
from ddim_host.run.sampling import Denoiser
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule
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


def assemble_trained(
    run: RunDirectory,
    request: Request,
    checkpoint: CheckpointChoice = "latest",
    which: WhichWeights = "ema",
) -> Experiment:
    """Return the experiment of a run, with some settings changed; its data set need not be there.

    The timestep subset `optimized` becomes what was found for the weights that are chosen.

    Args:
        run: The run.
        request: What differs from the run's own settings.
        checkpoint: The checkpoint to be used.
        which: Its weights to be used.

    Raises:
        UserError: See `assembly.assemble`; or the run's configuration is damaged.
    """
    stored = run.config
    whole = request.over(stored.request)
    experiment = assemble(whole, image_shape=stored.image_shape)
    if stored.is_imported and Kind.DATA not in whole.parts:
        experiment = replace(experiment, images_are_known=False)
    part = experiment.parts[Kind.TIMESTEP_SUBSET]
    if part.make is not optimized or experiment.config.timestep_subset.parameters["from_"] is not None:
        return experiment

    def found(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
        steps = used_weights(run, checkpoint, which).steps
        options = (f" --checkpoint {checkpoint}" if checkpoint != "latest" else "") + (
            f" --weights {which}" if which != "ema" else ""
        )
        words = weights_in_words(which, checkpoint, steps)
        chosen = WantedWeights(weights_hash(run, checkpoint, which), words, options)
        return found_subset(run.path, schedule, num_inference_steps, chosen)

    config = experiment.config
    return replace(
        experiment,
        # In records it is `optimized` and nothing else: a run can be moved.
        config=replace(config, timestep_subset=replace(config.timestep_subset, parameters={})),
        parts={**experiment.parts, Kind.TIMESTEP_SUBSET: replace(part, make=found)},
    )


def used_weights(run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights) -> UsedWeights:
    """Return what is known of some weights of a run before they are loaded.

    Raises:
        UserError: There is no such checkpoint.
    """
    return UsedWeights(
        which, checkpoint, tuple(step_of(folder) for folder in Counter(_folders(run, checkpoint)))
    )


def weights_hash(run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights) -> str:
    """Return the SHA-256 of the files of some weights of a run.

    Raises:
        UserError: There is no such checkpoint, or a file cannot be read.
    """
    whole = hashlib.sha256()
    for folder in _folders(run, checkpoint):
        path = folder / f"{which}.safetensors"
        with file_errors(f"cannot read {path}"), path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def checkpoint_folder(run: RunDirectory, checkpoint: CheckpointChoice) -> Path:
    """Return the folder of the one checkpoint that a choice means; an ensemble is several.

    Raises:
        UserError: There is no such checkpoint.
    """
    [folder] = _folders(run, checkpoint)
    return folder


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
    used = used_weights(run, checkpoint, which)
    # One number for all of them: of an ensemble, processes may even have found different numbers of epochs.
    require_same_checkpoint(experiment.processes, hash(used.steps) % 2**48)
    return Denoiser(tuple(members), "raw", experiment.config.prediction_type), used


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
