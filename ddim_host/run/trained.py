"""Use of a trained run: its experiment, and its checkpoints' weights loaded into a framework."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ddim_host.errors import UserError, printable
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config_file import config_document
from ddim_host.framework.processes import require_same_checkpoint
from ddim_host.framework.unet import parameters
from ddim_host.parts.found_subsets import WantedWeights, found_subset, weights_in_words
from ddim_host.parts.timestep_subsets import optimized
from ddim_host.plugin.observation import ObservedRun
from ddim_host.plugin.parameters import format_choice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import load_weights, step_of
from ddim_host.run.provenance import provenance, this_command
from ddim_host.run.sampling import Denoiser
from ddim_host.system.files import file_errors
from ddim_host.system.launch import launched

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
    """Weights of a run, as recorded in a result.

    Attributes:
        weights: Raw or averaged.
        checkpoint: The chosen checkpoint.
        steps: Training steps after which the weights were saved; several for an ensemble.
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
    """Return the experiment of a run, with some settings changed; its data set may be missing.

    The timestep subset `optimized` is replaced by the one found for the chosen weights.

    Args:
        run: The run.
        request: Changes to the run's own settings.
        checkpoint: The checkpoint to use.
        which: The weights to use, raw or averaged.

    Raises:
        UserError: The run's configuration is damaged, or a requested clip range has no effect; also see
            `assembly.assemble`.
    """
    stored = run.config
    whole = request.over(stored.request)
    experiment = assemble(whole, image_shape=stored.image_shape)
    if "clip_range" in request.settings and not experiment.config.clip:
        raise UserError(
            "--clip-range has no effect with --clip false",
            why="" if "clip" in request.settings else "clip is false in the settings of the run",
            fix="add --clip true, or remove --clip-range",
        )
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
        # Records contain `optimized` without a path, because a run can be moved.
        config=replace(config, timestep_subset=replace(config.timestep_subset, parameters={})),
        parts={**experiment.parts, Kind.TIMESTEP_SUBSET: replace(part, make=found)},
    )


def used_weights(run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights) -> UsedWeights:
    """Return the record of a run's weights without loading them.

    Raises:
        UserError: The checkpoint does not exist.
    """
    return UsedWeights(
        which, checkpoint, tuple(step_of(folder) for folder in Counter(_folders(run, checkpoint)))
    )


def weights_hash(run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights) -> str:
    """Return the SHA-256 hash of a run's weights files.

    Raises:
        UserError: The checkpoint does not exist, or a file cannot be read.
    """
    whole = hashlib.sha256()
    for folder in _folders(run, checkpoint):
        path = folder / f"{which}.safetensors"
        with file_errors(f"cannot read {path}"), path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def checkpoint_folder(run: RunDirectory, checkpoint: CheckpointChoice) -> Path:
    """Return the folder of a single checkpoint, not of an ensemble.

    Raises:
        UserError: The checkpoint does not exist.
    """
    [folder] = _folders(run, checkpoint)
    return folder


def other_images(config: ConfigFile, images: TrainTest) -> str:
    """Describe how images differ from a run's training images; return an empty string if they do not.

    Args:
        config: The run's configuration; one written by hand records no images, so the result is empty.
        images: The images.

    Raises:
        UserError: The configuration of a run does not record its images.
    """
    trained_on = config.fingerprint
    if trained_on in (None, images.fingerprint):
        return ""
    return f"the run was trained on {trained_on}; these are {images.fingerprint}"


def note_other_images(config: ConfigFile, images: TrainTest) -> None:
    """Print a note to stderr, in the first process only, if images differ from a run's training images.

    Raises:
        UserError: The run's configuration does not record its images.
    """
    why = other_images(config, images)
    if why and launched().is_first:
        path = printable(config.path)
        print(f"note: these images differ from those of {path}: {why}", file=sys.stderr)


def load_denoiser(
    experiment: Experiment, run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights
) -> tuple[Denoiser, UsedWeights]:
    """Load the weights of a checkpoint, without the optimizer.

    `ensemble` averages the predictions of the best epochs by train loss, test loss and their average. An
    epoch that is best by two of them counts twice, but is loaded once.

    Raises:
        UserError: The checkpoint does not exist, is damaged, or belongs to another network.
    """
    counts = Counter(_folders(run, checkpoint))
    total = counts.total()
    members = []
    for folder, count in counts.items():
        weights = load_weights(folder, which, parameters(experiment.unet))
        model = experiment.build_model()
        # Load even averaged weights as raw ones, so that the model needs no memory for a second copy.
        model.load_weights(weights, "raw")
        members.append((model, count / total))
    used = used_weights(run, checkpoint, which)
    # Compare a hash, because processes may find different numbers of epochs for an ensemble.
    require_same_checkpoint(experiment.processes, hash(used.steps) % 2**48)
    return Denoiser(tuple(members), "raw", experiment.config.prediction_type), used


def observed_command(
    command: Literal["sample", "evaluate"],
    run: RunDirectory,
    experiment: Experiment,
    denoiser: Denoiser,
    used: UsedWeights,
) -> ObservedRun:
    """Return the description of this command and the trained run for observers."""
    config = experiment.config
    made_with = provenance(config.plugin.name, denoiser.model, this_command())
    return ObservedRun(run.path, command, config_document(config), made_with, max(used.steps))


def record_of(experiment: Experiment, denoiser: Denoiser, used: UsedWeights) -> dict[str, Any]:
    """Return the record of a result (weights, timesteps and device) for its JSON file."""
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
    """Return the solver of an experiment, as written on the command line."""
    solver = experiment.config.solver
    return format_choice(solver.name, solver.parameters)


def _folders(run: RunDirectory, checkpoint: CheckpointChoice) -> list[Path]:
    if checkpoint == "latest":
        return [run.latest_checkpoint()]
    best = run.best_checkpoints().items()
    folders = [folder for measure, folder in best if checkpoint in ("ensemble", f"best-{measure}")]
    if not folders:
        raise UserError(
            f"the newest checkpoint in {run.path} has no best epoch",
            why="no epoch had ended when that checkpoint was written",
            fix="use --checkpoint latest, or continue the training",
        )
    return folders
