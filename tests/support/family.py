"""Configurations of diffusers' `UNet2DModel`, across the whole family that a `UNetSpec` can express."""

from __future__ import annotations

import random
from typing import Any

# The network of diffusers' example of unconditional training, with an eighth of its channels.
TRAINING_EXAMPLE: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": [16, 16, 32, 32, 64, 64],
    "norm_num_groups": 8,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}

# google/ddpm-cifar10-32 with an eighth of its channels; the keys are those of its file.
CIFAR10: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [16, 32, 32, 32],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}

# Every value differs from the default of this project or of diffusers.
UNUSUAL: dict[str, Any] = {
    "sample_size": [8, 12],
    "in_channels": 2,
    "out_channels": 2,
    "center_input_sample": True,
    "time_embedding_dim": 20,
    "freq_shift": 2,
    "flip_sin_to_cos": True,
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [16, 24],
    "layers_per_block": 1,
    "mid_block_scale_factor": 1.5,
    "downsample_padding": 1,
    "dropout": 0.25,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "attn_norm_num_groups": 3,
    "norm_eps": 1e-3,
    "resnet_time_scale_shift": "scale_shift",
    "add_attention": True,
}


def drawn(seed: int) -> dict[str, Any]:
    """Return a random configuration, small enough to be computed quickly."""
    rng = random.Random(seed)
    levels = rng.randint(1, 4)
    groups = rng.choice([1, 2, 3, 4])
    # Channels of every level are a multiple of both; the first count is even, for sines and cosines.
    head = rng.choice([None, 2, 4])
    unit = 4 * groups
    widths = [unit * rng.randint(1, 3) for _ in range(levels)]
    cell = rng.randint(1, 3), rng.randint(1, 3)
    height, width = (size << (levels - 1) for size in cell)
    channels = rng.randint(1, 4)

    def blocks(way: str) -> list[str]:
        return [rng.choice([f"{way}Block2D", f"Attn{way}Block2D"]) for _ in range(levels)]

    config = {
        "sample_size": height if height == width and rng.random() < 0.5 else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "center_input_sample": rng.random() < 0.5,
        "time_embedding_dim": rng.choice([None, 10, 33]),
        "freq_shift": rng.choice([0, 1]),
        "flip_sin_to_cos": rng.random() < 0.5,
        "down_block_types": blocks("Down"),
        "up_block_types": blocks("Up"),
        "block_out_channels": widths,
        "layers_per_block": rng.randint(1, 3),
        "mid_block_scale_factor": rng.choice([1, 1.4142135, 2.0]),
        "downsample_padding": rng.choice([0, 1]),
        "dropout": rng.choice([0.0, 0.1]),
        "attention_head_dim": head,
        "norm_num_groups": groups,
        "attn_norm_num_groups": rng.choice([None, 1, 2]),
        "norm_eps": rng.choice([1e-6, 1e-5, 1e-2]),
        "resnet_time_scale_shift": rng.choice(["default", "scale_shift"]),
        "add_attention": rng.random() < 0.7,
    }
    # A missing key has diffusers' default; keys that others depend on must be present.
    for key in ("center_input_sample", "freq_shift", "flip_sin_to_cos", "downsample_padding", "norm_eps"):
        if rng.random() < 0.2:
            del config[key]
    return config


FAMILY: dict[str, dict[str, Any]] = {
    "training example": TRAINING_EXAMPLE,
    "cifar10": CIFAR10,
    "unusual": UNUSUAL,
    **{f"drawn {seed}": drawn(seed) for seed in range(27)},
}
"""Thirty configurations by name."""

TELLING = ["training example", "cifar10", "unusual", "drawn 2", "drawn 4", "drawn 12", "drawn 16"]
"""A subset of them that covers all variants, for Jittor, which takes minutes to compile each."""
