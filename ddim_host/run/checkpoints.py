"""Checkpoints: a run's canonical weights, optimizer state and progress, written atomically.

A checkpoint is a folder such as `step-00001234`, which appears only once its weights are on disk.

    raw.safetensors, ema.safetensors    weights, named as in diffusers' `UNet2DModel`
    training.safetensors                Adam's moments (`exp_avg.NAME`, ...) and the sampler's state
    progress.json                       progress of the run, and its best epochs so far

The newest complete checkpoint has all four files, and training resumes from it. Imported weights, at step 0,
have no optimizer state. For the best epochs by each of three losses, both now and as of the newest complete
checkpoint, only the weights are kept. Everything else is removed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import safetensors
import safetensors.numpy

from ddim_host.errors import DivergedError, UserError
from ddim_host.framework.interface import TrainingState
from ddim_host.system.arrays import safetensors_bytes
from ddim_host.system.files import (
    file_errors,
    read_bytes,
    read_json,
    remove_leftovers,
    write_bytes,
    write_text,
)
from ddim_host.system.limits import MAX_SAMPLER_STATE_BYTES
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.framework.interface import Model, WhichWeights
    from ddim_host.framework.unet import Parameter, Weights
    from ddim_host.plugin.contracts import SamplerState

Measure: TypeAlias = Literal["train", "test", "avg"]
"""Criterion for the best epoch: its train loss, its test loss, or (5 train + test) / 6."""

_NAME = re.compile(r"step-\d{8,}")
_WHICH: tuple[WhichWeights, ...] = ("raw", "ema")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SAMPLER = "timestep_sampler"
_PROGRESS = "progress.json"
_TRAINING = "training.safetensors"
_GO_ON = "free some disk space, then continue with --resume; the last checkpoint is intact"
_MOST_BYTES_BESIDE = MAX_SAMPLER_STATE_BYTES + (32 << 20)
"""Allowance for the state of a timestep sampler and the names of the arrays."""


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch by one measure.

    Attributes:
        step: Optimizer steps at the end of the epoch.
        loss: The value of the measure.
    """

    step: int
    loss: float


@dataclass
class Progress:
    """Progress of a run, without its weights and optimizer state.

    Attributes:
        step: Optimizer steps taken.
        loss_sum: Sum of the losses, weighted by the sampler, since the last row of metrics.
        loss_count: Number of images in that sum.
        seconds: Steady-state training time since the last row of metrics.
        steady_images: Images trained on in those seconds.
        warmup_seconds: Time spent on warm-up steps since the last row of metrics.
        grid_seconds: Time spent on grids since the last row of metrics.
        best: The best epochs so far; empty before the first epoch ends.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    steady_images: int = 0
    warmup_seconds: float = 0.0
    grid_seconds: float = 0.0
    best: dict[Measure, BestEpoch] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Contents of a checkpoint; `training` is None before the first step and for imported weights."""

    raw: Weights
    ema: Weights
    training: TrainingState | None
    sampler: SamplerState
    progress: Progress


def weights_folder(folder: Path, step: int) -> Path:
    """Return the folder for the weights after `step` steps, which may not exist."""
    return folder / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step at which the checkpoint in a folder was saved."""
    return int(folder.name.removeprefix("step-"))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, from which training can resume, or None."""
    complete = [path for path in step_folders(folder) if (path / _PROGRESS).exists()]
    return complete[-1] if complete else None


def save_weights(folder: Path, model: Model, step: int) -> Path:
    """Write the weights after `step` steps, unless they already exist.

    Returns:
        The folder of the weights.

    Raises:
        DivergedError: A weight is not finite.
        UserError: The weights cannot be written.
    """
    target = weights_folder(folder, step)
    if not target.exists():
        _write_weights(target, model.weights)
    return target


def save_imported(folder: Path, weights: Weights, *, fix: str) -> None:
    """Write imported weights as a checkpoint at step 0, as both the raw and the averaged weights.

    Args:
        folder: The folder of the checkpoints.
        weights: The weights.
        fix: The remedy to suggest if they cannot be written.

    Raises:
        UserError: The weights cannot be written.
    """
    target = weights_folder(folder, 0)
    _write_weights(target, lambda _: weights, fix=fix)
    with _writing(folder, fix):
        write_text(target / _PROGRESS, json.dumps(asdict(Progress()), indent=2) + "\n")
        _sync_folder(target)


def _write_weights(target: Path, weights_of: Callable[[WhichWeights], Weights], *, fix: str = _GO_ON) -> None:
    folder = target.parent
    partial = folder / f".{target.name}.partial"
    with _writing(folder, fix):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for which in _WHICH:
                weights = weights_of(which)
                if not all(np.isfinite(array).all() for array in weights.values()):
                    raise DivergedError
                write_bytes(partial / f"{which}.safetensors", safetensors_bytes(weights))
            _sync_folder(partial)
            partial.rename(target)
            _sync_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # free the space on a full disk


def save_checkpoint(folder: Path, model: Model, sampler: SamplerState, progress: Progress) -> Path:
    """Write a complete checkpoint, then remove checkpoints and files that are no longer needed.

    Returns:
        The checkpoint's folder.

    Raises:
        DivergedError: A value in the weights, the optimizer state or the sampler state is not finite.
        UserError: The checkpoint cannot be written. The previous one is still intact.
    """
    target = save_weights(folder, model, progress.step)
    if (target / _PROGRESS).exists():
        return target
    training = model.training_state()
    arrays = {f"{_SAMPLER}.{name}": value for name, value in sampler.items()}
    for moment in _MOMENTS:
        arrays |= {f"{moment}.{name}": value for name, value in getattr(training, moment).items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DivergedError
    with _writing(folder):
        write_bytes(target / _TRAINING, safetensors_bytes(arrays))
        # Written last, because it marks the checkpoint as complete.
        write_text(target / _PROGRESS, json.dumps(asdict(progress), indent=2) + "\n")
        _sync_folder(target)
    remove_others(folder, progress)
    return target


def _writing(folder: Path, fix: str = _GO_ON) -> AbstractContextManager[None]:
    return file_errors(f"cannot write a checkpoint into {folder}", fix=fix)


def remove_others(folder: Path, progress: Progress) -> None:
    """Remove all checkpoints except the newest complete one, its best epochs and the best of `progress`.

    An interrupted run resumes from the newest complete checkpoint, with the best epochs recorded there.

    Raises:
        UserError: The newest checkpoint is damaged, or the folder cannot be written.
    """
    latest = latest_checkpoint(folder)
    kept = {best.step for best in progress.best.values()}
    if latest is not None:
        kept |= {step_of(latest), *(best.step for best in load_progress(latest).best.values())}
    with _writing(folder):
        for path in step_folders(folder):
            if step_of(path) not in kept:
                # While its files are being removed, the folder must not look like a checkpoint.
                path.rename(path.with_name(f".{path.name}.removed"))
            elif path != latest:
                for name in (_PROGRESS, _TRAINING):
                    (path / name).unlink(missing_ok=True)
        # Left behind by processes that were killed while writing.
        for leftover in folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        remove_leftovers(*step_folders(folder))


def load_checkpoint(folder: Path, parameters: Iterable[Parameter]) -> Checkpoint:
    """Read a checkpoint and check that it belongs to a network with these parameters.

    Raises:
        UserError: A file is missing or damaged, or does not fit the network.
    """
    parameters = tuple(parameters)
    path = folder / _TRAINING
    progress = load_progress(folder)
    weights = {which: load_weights(folder, which, parameters) for which in _WHICH}
    if progress.step == 0 and not path.exists():
        return Checkpoint(weights["raw"], weights["ema"], training=None, sampler={}, progress=progress)
    arrays = _read_safetensors(path, _most_bytes(parameters, len(_MOMENTS)))
    moments = {
        moment: require_fitting(path, _with_prefix(arrays, f"{moment}."), parameters) for moment in _MOMENTS
    }
    return Checkpoint(
        raw=weights["raw"],
        ema=weights["ema"],
        training=TrainingState(progress.step, moments["exp_avg"], moments["exp_avg_sq"]),
        sampler=_with_prefix(arrays, f"{_SAMPLER}."),
        progress=progress,
    )


def load_weights(folder: Path, which: WhichWeights, parameters: Iterable[Parameter]) -> Weights:
    """Read the weights of a checkpoint.

    Raises:
        UserError: The file is missing or damaged, its names, shapes or dtypes do not match the network, or a
            value is not finite.
    """
    path, parameters = folder / f"{which}.safetensors", tuple(parameters)
    return require_fitting(path, _read_safetensors(path, _most_bytes(parameters, 1)), parameters)


def num_parameters(folder: Path) -> int:
    """Count a network's parameters, using only the header of a checkpoint's weights file.

    Raises:
        UserError: The file cannot be read, or is damaged.
    """
    path = folder / "ema.safetensors"
    with file_errors(f"cannot read {path}"):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise UserError(f"{path} is not a complete safetensors file", why=str(error)) from None


def load_progress(folder: Path) -> Progress:
    """Read the progress of a run from a checkpoint.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = folder / _PROGRESS
    with record_errors(path):
        document = read_json(path)
        best = {
            measure: read_record(BestEpoch, document["best"][measure])
            for measure in get_args(Measure)
            if measure in document["best"]
        }
        progress = read_record(Progress, document, best=best)
        steps = [progress.step, *(epoch.step for epoch in best.values())]
        if min(*steps, progress.loss_count, progress.steady_images) < 0:
            raise ValueError("a count is negative")
        if progress.step != step_of(folder):
            raise ValueError(f"its step is {progress.step}, not {step_of(folder)}")
        losses = [progress.loss_sum, *(epoch.loss for epoch in best.values())]
        times = [progress.seconds, progress.warmup_seconds, progress.grid_seconds]
        if not all(map(math.isfinite, [*losses, *times])):
            raise ValueError("a loss or a time is not finite")
        if max(steps) > progress.step:
            raise ValueError("a best epoch ends after the checkpoint")
        return progress


def _most_bytes(parameters: Iterable[Parameter], copies: int) -> int:
    """Return the maximum size in bytes of a file with `copies` arrays per parameter and some metadata."""
    return copies * 4 * sum(math.prod(parameter.shape) for parameter in parameters) + _MOST_BYTES_BESIDE


def _read_safetensors(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    with file_errors(f"cannot read {path}", fix="try again: a run in training replaces its checkpoints"):
        data = read_bytes(path, max_bytes)
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is not a complete safetensors file", why=str(error)) from None


def _with_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def require_fitting(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    parameters: tuple[Parameter, ...],
    *,
    fix: str = "use the same --model, image size and channels as when it was saved",
) -> Weights:
    """Check that arrays fit a network, and return them in the order of its parameters.

    Args:
        path: The file that contains the arrays.
        arrays: The arrays by name.
        parameters: The parameters of the network.
        fix: The remedy to suggest if they do not fit.

    Raises:
        UserError: Names, shapes or dtypes do not match the network, or a value is not finite.
    """
    problem = ""
    unexpected = arrays.keys() - {parameter.name for parameter in parameters}
    if unexpected:
        problem = f"it contains {min(unexpected)}, which the network does not have"
    for parameter in parameters:
        array = arrays.get(parameter.name)
        if array is None:
            problem = f"it does not contain {parameter.name}"
        elif array.shape != parameter.shape or array.dtype != np.float32:
            problem = (
                f"{parameter.name} is {array.dtype} {array.shape}, but must be float32 {parameter.shape}"
            )
        elif not np.isfinite(array).all():
            problem = f"{parameter.name} has values that are not finite"
        if problem:
            break
    if problem:
        raise UserError(
            f"{path} does not fit the network",
            why=problem,
            fix=fix,
        )
    return {parameter.name: arrays[parameter.name] for parameter in parameters}


def step_folders(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def _sync_folder(folder: Path) -> None:
    """Flush `folder` to disk, so that a rename in it survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
