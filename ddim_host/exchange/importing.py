"""Import of a diffusers pipeline as a run directory."""

from __future__ import annotations

import hashlib
import math
import shutil
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors

from ddim_host.errors import UserError
from ddim_host.exchange.scheduler import diffusion_from_diffusers
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.experiment.config_file import write_imported_config
from ddim_host.experiment.defaults import NO_PARAMETERS
from ddim_host.framework.unet import UNet, parameters, spec_from_diffusers, with_canonical_names
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import require_fitting, save_imported
from ddim_host.run.directory import RunDirectory
from ddim_host.system.files import file_errors, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.exchange.source import Pipeline
    from ddim_host.experiment.assembly import Experiment
from ddim_host.framework.unet import UNetSpec, Weights

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""NumPy dtypes for the types in a safetensors file; bfloat16 is read as the upper half of float32."""

_MOST_HEADER_BYTES = 16 << 20
"""Maximum size of the header, which contains the names of the arrays."""


@dataclass(frozen=True)
class Imported:
    """A pipeline converted to an experiment.

    Attributes:
        experiment: The experiment.
        weights: float32 arrays by canonical name.
        origin: Facts about the origin of the weights, by name.
        has_data: True if the user specified the network's training images.
    """

    experiment: Experiment
    weights: Weights
    origin: dict[str, str]
    has_data: bool


def read_pipeline(pipeline: Pipeline, request: Request) -> Imported:
    """Convert a pipeline to an experiment with the settings in its files.

    Args:
        pipeline: The files.
        request: The framework and the images, if the user specified them.

    Raises:
        UserError: A setting of the pipeline has no equivalent in a run, or the weights do not fit.
    """
    diffusion = diffusion_from_diffusers(pipeline.scheduler_config)
    spec = spec_from_diffusers(pipeline.unet_config, diffusion.num_train_timesteps)
    if spec.image_channels not in (1, 3):
        raise UserError(
            f"cannot import a network for images with {spec.image_channels} channels",
            why="images must be grey or RGB, with 1 or 3 channels",
        )
    weights, digest = _read_weights(pipeline.weights, spec)
    network = {
        name: "none" if value is None else value
        for name, value in asdict(spec).items()
        if name not in NO_PARAMETERS
    }
    stated = Request(
        parts={Kind.MODEL: PartChoice("unet", None, network), Kind.NOISE_SCHEDULE: diffusion.noise_schedule},
        settings=diffusion.settings,
    )
    experiment = assemble(stated.over(request), image_shape=(*spec.image_size, spec.image_channels))
    has_data = Kind.DATA in request.parts
    if has_data:
        _ = experiment.source  # raises now if the images have a different shape
    return Imported(experiment, weights, {**pipeline.origin, "weights_sha256": digest}, has_data)


def write_imported(run: RunDirectory, imported: Imported, facts: dict[str, str]) -> None:
    """Write a pipeline as a run with a checkpoint at step 0.

    Args:
        run: The run directory to create.
        imported: The pipeline.
        facts: Provenance of the import, by name.

    Raises:
        UserError: The run directory is not empty or cannot be written.
    """
    experiment = imported.experiment
    partial = RunDirectory(run.path.absolute().with_name(f".{uuid.uuid4().hex}.partial"))
    fix = "free some disk space, or choose another --out"
    with file_errors(f"cannot write {run.path}", fix=fix):
        try:
            save_imported(partial.checkpoints_path, imported.weights, fix=fix)
            partial.write_config(
                write_imported_config(
                    experiment.config,
                    experiment.image_shape,
                    imported.origin,
                    facts,
                    with_data=imported.has_data,
                )
            )
            # A rename can replace an empty folder, but nothing else.
            partial.path.rename(run.path)
        finally:
            shutil.rmtree(partial.path, ignore_errors=True)


def _read_weights(path: Path, spec: UNetSpec) -> tuple[Weights, str]:
    """Read weights of any floating-point type from a safetensors file; return them and the file's SHA-256."""
    wanted = parameters(UNet.from_spec(spec))
    most = 8 * sum(math.prod(parameter.shape) for parameter in wanted) + _MOST_HEADER_BYTES
    with file_errors(f"cannot read {path}"):
        try:
            data = read_bytes(path, most)
            arrays: dict[str, Any] = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        except (safetensors.SafetensorError, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{path} is not a complete safetensors file", why=str(error)) from None
    weights = {name: _float32(path, name, array) for name, array in with_canonical_names(arrays).items()}
    fix = "use the configuration and the weights of the same network"
    return require_fitting(path, weights, wanted, fix=fix), hashlib.sha256(data).hexdigest()


def _float32(path: Path, name: str, array: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    dtype = _DTYPES.get(array["dtype"])
    if dtype is None:
        raise UserError(
            f"cannot read {path}", why=f"{name} is of type {array['dtype']}, not a floating-point type"
        )
    values: np.ndarray[Any, Any] = np.frombuffer(array["data"], np.dtype(dtype))
    if array["dtype"] == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    # Numbers beyond float32 become infinite; `require_fitting` reports the name of the array.
    with np.errstate(over="ignore"):
        whole: np.ndarray[Any, np.dtype[np.float32]] = values.astype(np.float32).reshape(array["shape"])
    return whole
