"""Pipelines of diffusers, written without diffusers, with random weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from ddim_host.framework.unet import UNet, parameters, spec_from_diffusers

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.framework.unet import Weights

NETWORK: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.42.1",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.42.1",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
}
INDEX: dict[str, Any] = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def weights_of(network: dict[str, Any] = NETWORK, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    unet = UNet.from_spec(spec_from_diffusers(network, 1000))
    return {
        parameter.name: (0.3 * rng.standard_normal(parameter.shape)).astype(np.float32)
        for parameter in parameters(unet)
    }


def save_pipeline(
    folder: Path,
    *,
    network: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    weights: dict[str, Any] | None = None,
    flat: bool = False,
) -> Path:
    """Write a pipeline with the given changes; `flat` puts all files at the root, as in early releases."""
    unet, schedule = (folder, folder) if flat else (folder / "unet", folder / "scheduler")
    for path in (unet, schedule):
        path.mkdir(parents=True, exist_ok=True)
    whole = NETWORK | (network or {})
    for path, document in (
        (folder / "model_index.json", INDEX),
        (unet / "config.json", whole),
        (schedule / "scheduler_config.json", SCHEDULER | (scheduler or {})),
    ):
        path.write_text(json.dumps(document), encoding="utf-8")
    arrays = weights_of(whole) if weights is None else weights
    (unet / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(arrays))
    return folder
