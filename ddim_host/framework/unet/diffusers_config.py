"""Conversion between diffusers' configuration of a `UNet2DModel` and a `UNetSpec`.

Diffusers need not be installed. Missing keys take diffusers' defaults.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host.errors import UserError
from ddim_host.framework.unet.spec import UNetSpec
from ddim_host.system.limits import MAX_IMAGE_SIZE
from ddim_host.system.typed_config import TypedConfig, is_integer

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
"""Every argument of `UNet2DModel`, with its default."""

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
"""The only supported values of these keys."""

_WITHOUT_EFFECT = {
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
}
"""Keys that diffusers' EMA adds to the configuration of a network."""

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
"""Diffusers' names for the parameters of a `UNetSpec`, for error messages."""

_IN_A_MESSAGE = re.compile(rf"\b({'|'.join(_THEIR_NAMES)})\b")

_LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that attention's dense layers had before diffusers 0.15, with their current names."""

_LEGACY_NAME = re.compile(rf"(.+\.attentions\.\d+\.)({'|'.join(_LEGACY)})(\.(?:weight|bias))")


def spec_from_diffusers(config: Mapping[str, object], num_train_timesteps: int) -> UNetSpec:
    """Read the specification of a network from diffusers' `config.json`.

    Args:
        config: Contents of the file; keys that begin with an underscore are ignored.
        num_train_timesteps: T, from the scheduler's configuration.

    Raises:
        UserError: A key is unknown, or its value has the wrong type or cannot be expressed by a `UNetSpec`.
    """
    read = _NetworkConfig(config)
    channels = read.integers("block_out_channels")
    base, levels = channels[0], len(channels)
    height, width = read.size("sample_size")
    image_channels = read.integer("in_channels")
    if read.integer("out_channels") != image_channels:
        read.refuse(
            "out_channels", read["out_channels"], f"out_channels must equal in_channels = {image_channels}"
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
        # Diffusers reads 0 as None.
        "time_embedding_dim": read.optional_integer("time_embedding_dim") or None,
        "flip_sin_to_cos": read.flag("flip_sin_to_cos"),
        "freq_shift": read.integer("freq_shift"),
    }
    try:
        return UNetSpec((height, width), image_channels, num_train_timesteps, **fields)
    except UserError as error:
        problem = error.what.partition(": ")[2]
        raise UserError(
            "the diffusers configuration describes a network that cannot be built",
            why=_IN_A_MESSAGE.sub(lambda found: _THEIR_NAMES[found[0]], problem),
        ) from error


def diffusers_config(spec: UNetSpec) -> dict[str, object]:
    """Return the `config.json` of an equivalent `UNet2DModel`, which `spec_from_diffusers` can read back.

    Args:
        spec: The network.

    Raises:
        UserError: Diffusers has no equivalent network.
    """
    base, widths = spec.base_channels, spec.widths
    if widths[0] != base:
        raise UserError(
            "diffusers has no equivalent of this network",
            why=f"its first level has {widths[0]} channels, but the convolution before it has {base}; "
            "diffusers requires equal numbers",
            fix="export a network whose channel_multipliers begin with 1",
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
    """Rename attention layers that have the old names `query`, `key`, `value` and `proj_attn`.

    Args:
        weights: Arrays by name, of any type.

    Raises:
        UserError: A layer is present under both names.
    """
    renamed: dict[str, Array] = {}
    for name, array in weights.items():
        legacy = _LEGACY_NAME.fullmatch(name)
        new = f"{legacy[1]}{_LEGACY[legacy[2]]}{legacy[3]}" if legacy else name
        if new in renamed or (new != name and new in weights):
            raise UserError(
                f"the weights contain {new} twice",
                why="once under this name and once under its old name",
                fix="use weights written by a single version of diffusers",
            )
        renamed[new] = array
    return renamed


class _NetworkConfig(TypedConfig):
    """A reader of a network's configuration.

    Args:
        config: Contents of the file.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__(
            config,
            "a diffusers network",
            classes=(_CLASS,),
            defaults=DEFAULTS,
            without_effect=_WITHOUT_EFFECT,
        )
        for key, allowed in _ONLY.items():
            if not any(self[key] == value and type(self[key]) is type(value) for value in allowed):
                listed = " or ".join("null" if value is None else str(value) for value in allowed)
                self.refuse(key, self[key], f"{key} must be {listed}")

    def integers(self, key: str) -> list[int]:
        value = self[key]
        if not isinstance(value, list | tuple) or not value or not all(map(_is_positive, value)):
            self.refuse(key, value, f"{key} must be a list of positive integers")
        return list(value)

    def size(self, key: str) -> tuple[int, int]:
        """Read the height and width of images."""
        value = self[key]
        pair = [value, value] if _is_positive(value) else value
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_positive, pair)):
            self.refuse(key, value, f"{key} must be a positive integer, or a list of height and width")
        if max(pair) > MAX_IMAGE_SIZE:
            self.refuse(key, value, f"{key} must be at most {MAX_IMAGE_SIZE}")
        return pair[0], pair[1]

    def attending(self, key: str, types: tuple[str, str], levels: int) -> list[bool]:
        """Return whether each block has attention, given the block types without and with attention."""
        value = self[key]
        if not isinstance(value, list | tuple) or len(value) != levels:
            self.refuse(
                key, value, f"{key} must be a list of {levels} types, one per entry of block_out_channels"
            )
        # Up to diffusers 0.1, names had this prefix; diffusers still accepts it.
        names = [name.removeprefix("UNetRes") if isinstance(name, str) else name for name in value]
        for name in names:
            if name not in types:
                self.refuse(key, name, f"each block must be {types[0]} or {types[1]}")
        return [name == types[1] for name in names]


def _is_positive(value: Any) -> bool:
    return is_integer(value) and value > 0


def _where(heights: list[int], attends: list[bool]) -> tuple[int, ...]:
    return tuple(height for height, attending in zip(heights, attends, strict=True) if attending)
