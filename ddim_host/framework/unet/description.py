"""The network as data: every layer with its canonical name and its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP_NORM_EPS = 1e-6

# Beyond these, the mere list of a network's layers, or of its parameters' sizes, could fill the memory.
_MOST_CHANNELS = 1 << 16
_MOST_LEVELS = 16
_MOST_BLOCKS = 100

_FEWEST_IN_GROUP = 4
_LARGEST_ATTENTION = 16
"""Channels in a group, where a number of groups is proposed; as in the networks that are the defaults."""


@dataclass(frozen=True)
class UNetSpec:
    """What distinguishes one U-Net from another.

    Attributes:
        image_size: Height and width in pixels; divisible by 2 at every level but the last.
        image_channels: 1 (grey) or 3 (RGB).
        num_train_timesteps: T; the network is called with t in [0, T).
        base_channels: Channels of the first level; even, for the sines and cosines of the timestep.
        channel_multipliers: Channels of each level, in units of `base_channels` (not compounding).
        num_res_blocks: Residual blocks per level on the way down; one more on the way up.
        attention_resolutions: Sizes in pixels of the levels that have self-attention; the middle always has.
        attention_head_dim: Channels of a head; `none` for a single head, as in DDPM.
        num_groups: Groups of each group normalisation; divides the channels of every level.
        dropout: Probability, before the second convolution of every residual block.
    """

    image_size: int
    image_channels: int
    num_train_timesteps: int
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    attention_head_dim: int | None = None
    num_groups: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        problem = next(self._problems(), None)
        if problem:
            what, fix = problem
            raise UserError(f"this U-Net cannot be built: {what}", fix=f"{fix} the parameters of --model")

    def _problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong, and what to do with the parameters."""
        for problem in self._wrong_sizes():
            yield problem, "change"
        for channels in sorted({self.base_channels * m for m in (1, *self.channel_multipliers)}):
            if self.num_groups < 1 or channels % self.num_groups:
                yield (
                    f"{channels} channels do not divide into num_groups = {self.num_groups} equal groups",
                    f"set num_groups={self._fitting_groups()} in",
                )
            if self.attention_head_dim is not None and (
                self.attention_head_dim < 1 or channels % self.attention_head_dim
            ):
                yield f"{channels} channels do not divide into heads of {self.attention_head_dim}", "change"
        sizes = [self.image_size >> level for level in range(len(self.channel_multipliers))]
        for size in self.attention_resolutions:
            if size not in sizes:
                proposed = max((other for other in sizes if other <= _LARGEST_ATTENTION), default=sizes[-1])
                yield (
                    f"attention_resolutions holds {size}, "
                    f"but the levels have {', '.join(map(str, sizes))} pixels",
                    f"set attention_resolutions={proposed} in",
                )

    def _fitting_groups(self) -> int:
        """The most groups that every level divides into, with enough channels in each.

        With as many groups as channels the norm of one channel would cancel the time embedding.
        """
        return max(
            groups
            for groups in range(1, self.base_channels // _FEWEST_IN_GROUP + 1)
            if self.base_channels % groups == 0
        )

    def _wrong_sizes(self) -> Iterator[str]:
        levels = len(self.channel_multipliers)
        if self.base_channels < 4 or self.base_channels % 2:
            yield f"base_channels must be an even number from 4 up, not {self.base_channels}"
        if not 1 <= levels <= _MOST_LEVELS or min(self.channel_multipliers) < 1:
            yield f"channel_multipliers must be one to {_MOST_LEVELS} positive numbers"
        if self.base_channels * max(self.channel_multipliers) > _MOST_CHANNELS:
            yield f"no level can have more than {_MOST_CHANNELS:,} channels"
        if not 1 <= self.num_res_blocks <= _MOST_BLOCKS:
            yield f"num_res_blocks must be from 1 to {_MOST_BLOCKS}, not {self.num_res_blocks}"
        if self.image_size < 1 or self.image_size % 2 ** (levels - 1):
            yield (
                f"{levels} levels halve the image {levels - 1} times, "
                f"but its size {self.image_size} is not divisible by {2 ** (levels - 1)}"
            )
        if not 0.0 <= self.dropout < 1.0:
            yield f"dropout must lie in [0, 1), not {self.dropout}"


@dataclass(frozen=True)
class Conv:
    """A convolution with bias; weight `(out, in, kernel, kernel)`.

    `same` padding at stride 1. At stride 2 one row and column of zeros is added below and to the right only
    (the asymmetric padding of DDPM).
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    starts_at_zero: bool = False


@dataclass(frozen=True)
class Linear:
    """A dense layer with bias; weight `(out, in)`."""

    name: str
    in_features: int
    out_features: int
    starts_at_zero: bool = False


@dataclass(frozen=True)
class GroupNorm:
    """Group normalisation with scale and shift; epsilon is `GROUP_NORM_EPS`."""

    name: str
    channels: int
    groups: int


@dataclass(frozen=True)
class ResNet:
    """A residual block that is told the time between its two convolutions."""

    norm1: GroupNorm
    conv1: Conv
    time_emb_proj: Linear
    norm2: GroupNorm
    conv2: Conv
    conv_shortcut: Conv | None


@dataclass(frozen=True)
class Attention:
    """Self-attention over all pixels, with a residual connection."""

    group_norm: GroupNorm
    to_q: Linear
    to_k: Linear
    to_v: Linear
    to_out: Linear
    heads: int


@dataclass(frozen=True)
class Level:
    """One resolution, on the way down or up: blocks, attention after each or none, and what changes size."""

    resnets: tuple[ResNet, ...]
    attentions: tuple[Attention, ...]
    resample: Conv | None


@dataclass(frozen=True)
class UNet:
    """The whole network, in the order in which an image passes through it."""

    spec: UNetSpec
    time_linear_1: Linear
    time_linear_2: Linear
    conv_in: Conv
    down: tuple[Level, ...]
    middle: tuple[ResNet, Attention, ResNet]
    up: tuple[Level, ...]
    conv_norm_out: GroupNorm
    conv_out: Conv

    @classmethod
    def from_spec(cls, spec: UNetSpec) -> UNet:
        """Lay out the network that `spec` describes."""
        build = _Builder(spec)
        widths = [spec.base_channels * m for m in spec.channel_multipliers]
        sizes = [spec.image_size >> level for level in range(len(widths))]
        channels = spec.base_channels
        skips = [channels]
        down = []
        for index, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            block = f"down_blocks.{index}"
            inputs = [channels, *[width] * (spec.num_res_blocks - 1)]
            last = index == len(widths) - 1
            resample = None if last else Conv(f"{block}.downsamplers.0.conv", width, width, stride=2)
            down.append(build.level(block, inputs, width, size, resample))
            skips += [width] * (spec.num_res_blocks + (0 if last else 1))
            channels = width
        middle = (
            build.resnet("mid_block.resnets.0", channels, channels),
            build.attention("mid_block.attentions.0", channels),
            build.resnet("mid_block.resnets.1", channels, channels),
        )
        up = []
        for index, (width, size) in enumerate(zip(widths[::-1], sizes[::-1], strict=True)):
            block = f"up_blocks.{index}"
            inputs = []
            for _ in range(spec.num_res_blocks + 1):
                inputs.append(channels + skips.pop())
                channels = width
            last = index == len(widths) - 1
            resample = None if last else Conv(f"{block}.upsamplers.0.conv", width, width)
            up.append(build.level(block, inputs, width, size, resample))
        time_features = 4 * spec.base_channels
        return cls(
            spec=spec,
            time_linear_1=Linear("time_embedding.linear_1", spec.base_channels, time_features),
            time_linear_2=Linear("time_embedding.linear_2", time_features, time_features),
            conv_in=Conv("conv_in", spec.image_channels, spec.base_channels),
            down=tuple(down),
            middle=middle,
            up=tuple(up),
            conv_norm_out=GroupNorm("conv_norm_out", channels, spec.num_groups),
            conv_out=Conv("conv_out", channels, spec.image_channels, starts_at_zero=True),
        )


class _Builder:
    """Makes blocks that share a spec."""

    def __init__(self, spec: UNetSpec) -> None:
        self.spec = spec

    def resnet(self, name: str, in_channels: int, out_channels: int) -> ResNet:
        groups = self.spec.num_groups
        same = in_channels == out_channels
        return ResNet(
            norm1=GroupNorm(f"{name}.norm1", in_channels, groups),
            conv1=Conv(f"{name}.conv1", in_channels, out_channels),
            time_emb_proj=Linear(f"{name}.time_emb_proj", 4 * self.spec.base_channels, out_channels),
            norm2=GroupNorm(f"{name}.norm2", out_channels, groups),
            conv2=Conv(f"{name}.conv2", out_channels, out_channels, starts_at_zero=True),
            conv_shortcut=None
            if same
            else Conv(f"{name}.conv_shortcut", in_channels, out_channels, kernel=1),
        )

    def attention(self, name: str, channels: int) -> Attention:
        head_dim = self.spec.attention_head_dim
        return Attention(
            group_norm=GroupNorm(f"{name}.group_norm", channels, self.spec.num_groups),
            to_q=Linear(f"{name}.to_q", channels, channels),
            to_k=Linear(f"{name}.to_k", channels, channels),
            to_v=Linear(f"{name}.to_v", channels, channels),
            to_out=Linear(f"{name}.to_out.0", channels, channels, starts_at_zero=True),
            heads=1 if head_dim is None else channels // head_dim,
        )

    def level(self, name: str, inputs: list[int], width: int, size: int, resample: Conv | None) -> Level:
        attends = size in self.spec.attention_resolutions
        return Level(
            resnets=tuple(self.resnet(f"{name}.resnets.{i}", n, width) for i, n in enumerate(inputs)),
            attentions=tuple(self.attention(f"{name}.attentions.{i}", width) for i in range(len(inputs)))
            if attends
            else (),
            resample=resample,
        )
