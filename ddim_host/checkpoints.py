"""Checkpoints: canonical weights, optimizer and progress of a run, written whole or not at all.

A checkpoint is a folder `step-00001234` with four files; its name appears only when all of them are on disk.

    raw.safetensors, ema.safetensors    weights by the parameter names of diffusers' `UNet2DModel`
    training.safetensors                Adam's moments (`exp_avg.NAME`, ...) and the sampler's state
    progress.json                       where the run stands
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from ddim_host.errors import UserError
from ddim_host.files import write_bytes, write_text
from ddim_host.records import read_record
from ddim_host.waist import TrainingState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.contracts import SamplerState
    from ddim_host.unet import Parameter
    from ddim_host.waist import Model, Weights

__all__ = [
    "Checkpoint",
    "Progress",
    "checkpoint_folders",
    "load_checkpoint",
    "read_weights",
    "save_checkpoint",
]

_NAME = re.compile(r"step-(\d{8,})")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SAMPLER = "timestep_sampler"


@dataclass
class Progress:
    """Where a run stands, besides weights and optimizer.

    Attributes:
        step: Optimizer steps taken.
        loss_sum: Sum of the losses since the last row of metrics.
        loss_count: Number of images in that sum.
        seconds: Steady-state training time since the last row of metrics.
        steady_images: Images trained on in those seconds.
        warmup_seconds: Time of first steps since the last row of metrics.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    steady_images: int = 0
    warmup_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to go on; `training` is None before the first step."""

    raw: Weights
    ema: Weights
    training: TrainingState | None
    sampler: SamplerState
    progress: Progress


def checkpoint_folders(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def save_checkpoint(folder: Path, model: Model, sampler: SamplerState, progress: Progress) -> Path:
    """Write a checkpoint into `folder`, then remove older ones.

    Returns:
        The checkpoint's folder.
    """
    target = folder / f"step-{progress.step:08d}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    training = model.training_state()
    arrays = {f"{_SAMPLER}.{name}": value for name, value in sampler.items()}
    for moment in _MOMENTS:
        arrays |= {f"{moment}.{name}": value for name, value in getattr(training, moment).items()}
    write_bytes(partial / "raw.safetensors", safetensors.numpy.save(model.weights("raw")))
    write_bytes(partial / "ema.safetensors", safetensors.numpy.save(model.weights("ema")))
    write_bytes(partial / "training.safetensors", safetensors.numpy.save(arrays))
    write_text(partial / "progress.json", json.dumps(asdict(progress), indent=2) + "\n")
    partial.rename(target)
    _sync_folder(folder)
    for older in checkpoint_folders(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def load_checkpoint(folder: Path, parameters: Iterable[Parameter]) -> Checkpoint:
    """Read a checkpoint and check that it belongs to a network with these parameters.

    Raises:
        UserError: A file is missing, damaged, or does not fit the network.
    """
    parameters = tuple(parameters)
    path = folder / "training.safetensors"
    arrays = _read_safetensors(path)
    moments = {moment: _fitting(path, _with_prefix(arrays, f"{moment}."), parameters) for moment in _MOMENTS}
    progress = _read_progress(folder / "progress.json")
    return Checkpoint(
        raw=read_weights(folder / "raw.safetensors", parameters),
        ema=read_weights(folder / "ema.safetensors", parameters),
        training=TrainingState(progress.step, moments["exp_avg"], moments["exp_avg_sq"]),
        sampler=_with_prefix(arrays, f"{_SAMPLER}."),
        progress=progress,
    )


def read_weights(path: Path, parameters: Iterable[Parameter]) -> Weights:
    """Read a file of canonical weights.

    Raises:
        UserError: It is missing or damaged, or its names, shapes or types are not those of the network, or a
            number in it is not finite.
    """
    return _fitting(path, _read_safetensors(path), tuple(parameters))


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}", why=str(error.strerror or error)) from None
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is not a whole safetensors file", why=str(error)) from None


def _read_progress(path: Path) -> Progress:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        progress = read_record(Progress, document)
        if min(progress.step, progress.loss_count, progress.steady_images) < 0:
            raise ValueError("a count is negative")
        return progress
    except OSError as error:
        raise UserError(f"cannot read {path}", why=str(error.strerror or error)) from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged", why=f"{type(error).__name__}: {error}") from None


def _with_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _fitting(path: Path, arrays: Mapping[str, NDArray[Any]], parameters: tuple[Parameter, ...]) -> Weights:
    """The arrays, in the order of the parameters, when names, shapes and types are the network's."""
    problem = ""
    unexpected = arrays.keys() - {parameter.name for parameter in parameters}
    if unexpected:
        problem = f"it holds {min(unexpected)}, which the network does not have"
    for parameter in parameters:
        array = arrays.get(parameter.name)
        if array is None:
            problem = f"it lacks {parameter.name}"
        elif array.shape != parameter.shape or array.dtype != np.float32:
            problem = (
                f"{parameter.name} is {array.dtype} {array.shape}, the network's is float32 {parameter.shape}"
            )
        elif not np.isfinite(array).all():
            problem = f"{parameter.name} has values that are not finite"
        if problem:
            break
    if problem:
        raise UserError(f"{path} does not fit the network of this run", why=problem)
    return {parameter.name: arrays[parameter.name] for parameter in parameters}


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
