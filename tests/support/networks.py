"""Networks for tests, and random weights for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.framework.unet import UNet, UNetSpec, parameters

if TYPE_CHECKING:
    from ddim_host.framework.unet import Weights

CIFAR10 = UNetSpec(image_size=(32, 32), image_channels=3, num_train_timesteps=1000)
DIGITS = UNetSpec(
    image_size=(8, 8),
    image_channels=1,
    num_train_timesteps=1000,
    base_channels=32,
    channel_multipliers=(1, 2),
    attention_resolutions=(4,),
    num_groups=8,
)
TINY = UNetSpec(
    image_size=(8, 8),
    image_channels=3,
    num_train_timesteps=50,
    base_channels=8,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_groups=4,
    dropout=0.0,
)
"""A network with one of each kind of layer and no dropout, for training steps on a CPU."""
# Each differs from the others in several of: channels, levels, blocks, place of attention, heads, groups.
SMALL = {
    "digits": DIGITS,
    "one level": UNetSpec(
        (8, 8), 3, 100, base_channels=4, channel_multipliers=(1,), attention_resolutions=(8,), num_groups=2
    ),
    "heads": UNetSpec(
        (8, 8),
        3,
        1000,
        base_channels=8,
        channel_multipliers=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(8, 2),
        attention_head_dim=4,
        num_groups=4,
    ),
    "three blocks, attention in the middle only": UNetSpec(
        (16, 16),
        1,
        50,
        base_channels=12,
        channel_multipliers=(1, 3, 2, 1),
        num_res_blocks=3,
        attention_resolutions=(),
        attention_head_dim=3,
        num_groups=6,
    ),
    "attention everywhere": UNetSpec(
        (12, 12),
        3,
        10,
        base_channels=16,
        channel_multipliers=(1, 1, 4),
        attention_resolutions=(12, 6, 3),
        attention_head_dim=16,
        num_groups=1,
    ),
}


def random_weights(spec: UNetSpec) -> Weights:
    """Return random parameters, with no inactive part of the network and an output of about 1."""
    rng = np.random.default_rng(7)
    weights: Weights = {}
    for parameter in parameters(UNet.from_spec(spec)):
        values = rng.standard_normal(parameter.shape, dtype=np.float32)
        if len(parameter.shape) > 1:
            weights[parameter.name] = values / np.float32(math.sqrt(math.prod(parameter.shape[1:])))
        else:
            weights[parameter.name] = values * np.float32(0.2) + np.float32(parameter.init == "ones")
    return weights
