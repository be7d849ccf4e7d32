"""Export of a run as a diffusers pipeline."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.numpy

from ddim_host.exchange.card import card_of
from ddim_host.exchange.scheduler import scheduler_config
from ddim_host.exchange.source import (
    INDEX,
    SCHEDULER_CONFIG,
    SCHEDULER_FOLDER,
    UNET_CONFIG,
    UNET_FOLDER,
    WEIGHTS,
)
from ddim_host.framework.unet import diffusers_config, parameters
from ddim_host.run.checkpoints import load_weights
from ddim_host.run.exports import require_new
from ddim_host.run.trained import checkpoint_folder, used_weights
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.exchange.card import Card
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.experiment.settings import CheckpointChoice
    from ddim_host.framework.interface import WhichWeights
    from ddim_host.framework.unet import Weights
    from ddim_host.run.directory import RunDirectory

_INDEX: dict[str, object] = {
    "_class_name": "DDIMPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


@dataclass(frozen=True)
class Exported:
    """The contents of an exported pipeline.

    Attributes:
        unet_config: Configuration of the network.
        scheduler_config: Configuration of the scheduler.
        weights: float32 arrays by name.
        card: The model card.
    """

    unet_config: dict[str, object]
    scheduler_config: dict[str, object]
    weights: Weights
    card: Card


def export_run(
    experiment: Experiment, run: RunDirectory, checkpoint: CheckpointChoice, which: WhichWeights
) -> Exported:
    """Convert a run to the contents of a pipeline.

    Args:
        experiment: The run's experiment.
        run: The run.
        checkpoint: The checkpoint; not `ensemble`, which consists of several networks.
        which: Raw or averaged weights.

    Raises:
        UserError: The checkpoint does not exist or is damaged, or diffusers has no equivalent network.
    """
    folder = checkpoint_folder(run, checkpoint)
    return Exported(
        unet_config=diffusers_config(experiment.unet.spec),
        scheduler_config=scheduler_config(experiment.config, experiment.schedule),
        weights=load_weights(folder, which, parameters(experiment.unet)),
        card=card_of(experiment, run, used_weights(run, checkpoint, which)),
    )


def write_pipeline(exported: Exported, folder: Path) -> None:
    """Write a pipeline atomically.

    Args:
        exported: The pipeline.
        folder: The folder to create.

    Raises:
        UserError: The folder already exists or cannot be written.
    """
    require_new(folder)
    partial = folder.with_name(f".{uuid.uuid4().hex}.partial")
    with file_errors(f"cannot write {folder}", fix="choose another --out"):
        try:
            for name in (UNET_FOLDER, SCHEDULER_FOLDER):
                (partial / name).mkdir(parents=True)
            _write_json(partial / INDEX, _INDEX)
            _write_json(partial / UNET_FOLDER / UNET_CONFIG, exported.unet_config)
            _write_json(partial / SCHEDULER_FOLDER / SCHEDULER_CONFIG, exported.scheduler_config)
            # Diffusers writes the same metadata; some versions do not open a file without it.
            data = safetensors.numpy.save(exported.weights, metadata={"format": "pt"})
            (partial / UNET_FOLDER / WEIGHTS).write_bytes(data)
            (partial / "README.md").write_text(exported.card.text(folder.name), encoding="utf-8")
            if exported.card.picture is not None:
                (partial / exported.card.picture_name).write_bytes(exported.card.picture)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
