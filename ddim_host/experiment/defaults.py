"""Default parts, and settings whose defaults depend on the image size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.plugin.parameters import Value

DEFAULT_PARTS = {
    Kind.DATA: "digits",
    Kind.MODEL: "unet",
    Kind.NOISE_SCHEDULE: "linear",
    Kind.TIMESTEP_SAMPLER: "uniform",
    Kind.LOSS: "mse",
    Kind.LOSS_WEIGHTING: "none",
    Kind.TIMESTEP_SUBSET: "linear",
    Kind.SOLVER: "ddim",
    Kind.SEARCH: "dynamic_programming",
}

DEFAULT_DISTRIBUTIONS = {
    Kind.DATA: "ddim-host",
    Kind.NOISE_SCHEDULE: "ddim-host",
    Kind.TIMESTEP_SAMPLER: "ddim-timestep-samplers",
    Kind.LOSS: "ddim-losses",
    Kind.LOSS_WEIGHTING: "ddim-host",
    Kind.TIMESTEP_SUBSET: "ddim-host",
    Kind.SOLVER: "ddim-host",
    Kind.SEARCH: "ddim-host",
}
"""Distributions of the default parts, used if other distributions provide parts of the same names."""

SMALL = 16
"""Largest image size, in pixels, for which the small network is the default."""


def default_settings(image_size: int) -> dict[str, Value]:
    """Return the default length of training, batch size, learning rate and EMA for an image size in pixels.

    Above 16 pixels, they are DDPM's values for CIFAR-10 (arXiv 2006.11239, appendix B).
    """
    if image_size <= SMALL:
        return {
            "train_steps": 450,
            "batch_size": 128,
            "lr": 1e-3,
            "lr_warmup_steps": 100,
            "ema_decay": 0.995,
        }
    return {
        "train_steps": 800_000,
        "batch_size": 128,
        "lr": 2e-4,
        "lr_warmup_steps": 5000,
        "ema_decay": 0.9999,
    }


def default_attention(image_size: int, levels: int) -> tuple[int, ...]:
    """Return the default attention resolutions: the largest level after the first of at most 16 pixels."""
    sizes = [image_size >> level for level in range(1, levels)]
    return tuple(size for size in sizes if size <= 16)[:1]


def distinguishing_parameters(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters of a network that depend on the images or differ from DDPM's."""
    fixed = _spec_defaults()
    size_dependent = _size_dependent_defaults(SMALL)
    return {
        name: value
        for name, value in parameters.items()
        if name in size_dependent or name not in fixed or value != fixed[name]
    }


NO_PARAMETERS = {"image_size", "image_channels", "num_train_timesteps"}
"""Fields of `UNetSpec` that users cannot set: the images and the noise schedule determine them."""


def default_model_parameters(image_size: int) -> dict[str, Value]:
    """Return the parameters of the default U-Net for images of `image_size` pixels.

    For 32 x 32 RGB images, this is DDPM's network, with 35,746,307 weights. The image is halved as often as
    its size allows: at most once if it has 16 pixels or fewer on each side, otherwise at most three times.
    """
    return _spec_defaults() | _size_dependent_defaults(image_size)


def _spec_defaults() -> dict[str, Any]:
    from ddim_host.framework.unet import UNetSpec  # noqa: PLC0415 - imports NumPy, which `--help` does not need

    return {
        field.name: field.default for field in dataclasses.fields(UNetSpec) if field.name not in NO_PARAMETERS
    }


def _size_dependent_defaults(image_size: int) -> dict[str, Value]:
    small = image_size <= SMALL
    halvings = 0
    while halvings < (1 if small else 3) and image_size % 2 ** (halvings + 1) == 0:
        halvings += 1
    return {
        "base_channels": 32 if small else 128,
        "channel_multipliers": (1, *[2] * halvings),
        "num_res_blocks": 2,
        "attention_resolutions": default_attention(image_size, halvings + 1),
        "attention_head_dim": None,
        # With one channel per group, normalisation would cancel the time embedding.
        "num_groups": 8 if small else 32,
        "dropout": 0.0 if small else 0.1,
    }
