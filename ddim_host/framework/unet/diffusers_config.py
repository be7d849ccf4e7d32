"""Diffusers' configuration of a `UNet2DModel` as a `UNetSpec`, and the way back.

Diffusers is not needed for it. Where a key is absent, its default in diffusers counts.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ddim_host.errors import UserError
from ddim_host.framework.unet.spec import UNetSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = TypeVar("Array")

_CLASS = "UNet2DModel"

DEFAULTS: dict[str, object] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""Every key that a `UNet2DModel` knows, and its value where it is absent."""

_ONLY: dict[str, tuple[object, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_type": ("conv", None),
    "upsample_type": ("conv", None),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
"""The values of which no others can be expressed; several of a kind mean the same to diffusers."""

_WITHOUT_EFFECT = {
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
}
"""What diffusers' average of weights leaves beside the keys of the network."""

_THEIR_NAMES = {
    "base_channels": "the first of block_out_channels",
    "channel_multipliers": "block_out_channels",
    "num_res_blocks": "layers_per_block",
    "num_groups": "norm_num_groups",
    "middle_attention_groups": "attn_norm_num_groups",
    "middle_scale_factor": "mid_block_scale_factor",
    "its size": "its sample_size",
    "no level": "no level (block_out_channels)",
}
"""What the parameters of a network are called in diffusers, where a message speaks of them."""

_IN_A_MESSAGE = re.compile(rf"\b({'|'.join(_THEIR_NAMES)})\b")

_LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What the dense layers of an attention were called before diffusers 0.15."""

_LEGACY_NAME = re.compile(rf"(.+\.attentions\.\d+\.)({'|'.join(_LEGACY)})(\.(?:weight|bias))")


def spec_from_diffusers(config: Mapping[str, object], num_train_timesteps: int) -> UNetSpec:
    """The network that a `config.json` of diffusers describes.

    Args:
        config: What the file holds; keys that begin with an underscore say nothing about the network.
        num_train_timesteps: T, which the scheduler's configuration tells.

    Raises:
        UserError: A key has a value of a wrong type, or one that no `UNetSpec` can express, or is unknown.
    """
    read = _Reader(config)
    channels = read.integers("block_out_channels")
    base, levels = channels[0], len(channels)
    height, width = read.size("sample_size")
    image_channels = read.integer("in_channels")
    if read.integer("out_channels") != image_channels:
        _refuse(
            "out_channels", read["out_channels"], f"the network must return its {image_channels} in_channels"
        )
    heights = [height >> level for level in range(levels)]
    down = read.attending("down_block_types", ("DownBlock2D", "AttnDownBlock2D"), levels)
    up = read.attending("up_block_types", ("UpBlock2D", "AttnUpBlock2D"), levels)[::-1]
    fields: dict[str, Any] = {
        "base_channels": base,
        "channel_multipliers": tuple(n // base if n % base == 0 else n / base for n in channels),
        "num_res_blocks": read.integer("layers_per_block"),
        "attention_resolutions": _where(heights, down),
        "attention_head_dim": read.optional_integer("attention_head_dim"),
        "num_groups": read.integer("norm_num_groups"),
        "dropout": read.number("dropout"),
        "up_attention_resolutions": None if up == down else _where(heights, up),
        "middle_attention": read.flag("add_attention"),
        "middle_attention_groups": read.optional_integer("attn_norm_num_groups"),
        "middle_scale_factor": read.number("mid_block_scale_factor"),
        "scale_shift": read["resnet_time_scale_shift"] == "scale_shift",
        "norm_eps": read.number("norm_eps"),
        "downsample_padding": read.integer("downsample_padding"),
        "center_input": read.flag("center_input_sample"),
        # Diffusers takes 0 for "not given".
        "time_embedding_dim": read.optional_integer("time_embedding_dim") or None,
        "flip_sin_to_cos": read.flag("flip_sin_to_cos"),
        "freq_shift": read.integer("freq_shift"),
    }
    try:
        return UNetSpec((height, width), image_channels, num_train_timesteps, **fields)
    except UserError as error:
        problem = error.what.partition(": ")[2]
        raise UserError(
            "diffusers' configuration describes a network that cannot be built",
            why=_IN_A_MESSAGE.sub(lambda found: _THEIR_NAMES[found[0]], problem),
        ) from error


def diffusers_config(spec: UNetSpec) -> dict[str, object]:
    """The `config.json` of a `UNet2DModel` that computes the same; `spec_from_diffusers` reads it back.

    Args:
        spec: The network.

    Raises:
        UserError: Diffusers has no such network.
    """
    base, widths = spec.base_channels, spec.widths
    if widths[0] != base:
        raise UserError(
            "diffusers has no such network",
            why=f"its first level has {widths[0]} channels and the convolution before it {base}; "
            "in diffusers both have the same",
            fix="only networks whose channel_multipliers begin with 1 can be written for diffusers",
        )
    down = [height in spec.attention_resolutions for height in spec.heights]
    up = [height in spec.attention_on_the_way_up for height in reversed(spec.heights)]
    height, width = spec.image_size
    return {
        "_class_name": _CLASS,
        **DEFAULTS,
        "sample_size": height if height == width else [height, width],
        "in_channels": spec.image_channels,
        "out_channels": spec.image_channels,
        "center_input_sample": spec.center_input,
        "time_embedding_dim": spec.time_embedding_dim,
        "freq_shift": spec.freq_shift,
        "flip_sin_to_cos": spec.flip_sin_to_cos,
        "down_block_types": ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in down],
        "up_block_types": ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in up],
        "block_out_channels": list(widths),
        "layers_per_block": spec.num_res_blocks,
        "mid_block_scale_factor": spec.middle_scale_factor,
        "downsample_padding": spec.downsample_padding,
        "dropout": spec.dropout,
        "attention_head_dim": spec.attention_head_dim,
        "norm_num_groups": spec.num_groups,
        "attn_norm_num_groups": spec.middle_attention_groups,
        "norm_eps": spec.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if spec.scale_shift else "default",
        "add_attention": spec.middle_attention,
    }


def with_canonical_names(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Weights under today's names: `query`, `key`, `value` and `proj_attn` are what attentions once had.

    Args:
        weights: Arrays by name, of whatever kind.

    Raises:
        UserError: A layer is there under both names.
    """
    renamed: dict[str, Array] = {}
    for name, array in weights.items():
        legacy = _LEGACY_NAME.fullmatch(name)
        new = f"{legacy[1]}{_LEGACY[legacy[2]]}{legacy[3]}" if legacy else name
        if new in renamed or (new != name and new in weights):
            raise UserError(
                f"the weights hold {new} twice",
                why="there is one under this name and another under the one that it had once",
                fix="use weights that one version of diffusers wrote",
            )
        renamed[new] = array
    return renamed


def _refuse(key: str, value: object, why: str) -> NoReturn:
    raise UserError(f"a network with {key} = {value!r:.80} cannot be read from diffusers", why=why)


class _Reader:
    """Reads keys of a configuration, each with its type.

    Args:
        config: What the file holds.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        name = config.get("_class_name", _CLASS)
        if name != _CLASS:
            _refuse("_class_name", name, f"only a {_CLASS} can be read")
        for key, value in config.items():
            if key not in DEFAULTS and key not in _WITHOUT_EFFECT and not key.startswith("_"):
                _refuse(key, value, f"a {_CLASS} has no key {key!r:.80}, so that its effect is unknown")
        for key, allowed in _ONLY.items():
            if not any(self[key] == value and type(self[key]) is type(value) for value in allowed):
                listed = " or ".join("null" if value is None else str(value) for value in allowed)
                _refuse(key, self[key], f"{key} must be {listed}")

    def __getitem__(self, key: str) -> Any:
        return self._config.get(key, DEFAULTS[key])

    def integer(self, key: str) -> int:
        value = self[key]
        if not _is_integer(value):
            _refuse(key, value, f"{key} must be an integer")
        return int(value)

    def optional_integer(self, key: str) -> int | None:
        value = self[key]
        if value is not None and not _is_integer(value):
            _refuse(key, value, f"{key} must be an integer or null")
        return None if value is None else int(value)

    def number(self, key: str) -> float:
        value = self[key]
        if not _is_integer(value) and not (isinstance(value, float) and math.isfinite(value)):
            _refuse(key, value, f"{key} must be a number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self[key]
        if not isinstance(value, bool):
            _refuse(key, value, f"{key} must be true or false")
        return value

    def integers(self, key: str) -> list[int]:
        value = self[key]
        if not isinstance(value, list | tuple) or not value or not all(map(_is_positive, value)):
            _refuse(key, value, f"{key} must be a list of positive integers")
        return list(value)

    def size(self, key: str) -> tuple[int, int]:
        """Height and width."""
        value = self[key]
        if _is_positive(value):
            return value, value
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_positive, value)):
            _refuse(key, value, f"{key} must be the size of the images: an integer, or height and width")
        return value[0], value[1]

    def attending(self, key: str, types: tuple[str, str], levels: int) -> list[bool]:
        """Which blocks attend, of two types without and with attention."""
        value = self[key]
        if not isinstance(value, list | tuple) or len(value) != levels:
            _refuse(
                key, value, f"{key} must be a list of {levels} blocks, one for each of block_out_channels"
            )
        # Until diffusers 0.1 names began like this; it still takes them.
        names = [name.removeprefix("UNetRes") if isinstance(name, str) else name for name in value]
        for name in names:
            if name not in types:
                _refuse(key, name, f"blocks are {types[0]} or {types[1]}")
        return [name == types[1] for name in names]


def _is_integer(value: object) -> bool:
    """Whether it is one that a size, a number of something or a small offset can be."""
    return type(value) is int and abs(value) < 1 << 31


def _is_positive(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _where(heights: list[int], attends: list[bool]) -> tuple[int, ...]:
    return tuple(height for height, attending in zip(heights, attends, strict=True) if attending)
