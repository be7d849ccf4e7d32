"""The network as data: every layer with its canonical name and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim_host.framework.unet.spec import UNetSpec


@dataclass(frozen=True)
class Conv:
    """A convolution with bias; weight `(out, in, kernel, kernel)`.

    Attributes:
        name: Canonical name.
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Height and width of the kernel.
        stride: Step of the kernel in pixels.
        padding: Rows of zeros added above and below, and the same numbers of columns left and right.
        starts_at_zero: True if the initial weights are zero.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
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
    """Group normalisation with scale and shift; `eps` is added to the variance."""

    name: str
    channels: int
    groups: int
    eps: float


@dataclass(frozen=True)
class ResNet:
    """A residual block; the time embedding enters between its two convolutions.

    Attributes:
        norm1: Norm before the first convolution.
        conv1: The first convolution.
        time_emb_proj: Projection of the time embedding to a shift per channel or, with `scale_shift`, to all
            scales followed by all shifts.
        norm2: Norm before the second convolution.
        conv2: The second convolution.
        conv_shortcut: 1 x 1 convolution that changes the number of channels; None if it stays the same.
        scale_shift: True if the time embedding scales and shifts the output of `norm2`, instead of shifting
            its input.
        scale_factor: Divisor of the block's output.
    """

    norm1: GroupNorm
    conv1: Conv
    time_emb_proj: Linear
    norm2: GroupNorm
    conv2: Conv
    conv_shortcut: Conv | None
    scale_shift: bool
    scale_factor: float = 1.0


@dataclass(frozen=True)
class Attention:
    """Self-attention over all pixels, with a residual connection.

    Attributes:
        group_norm: Norm before the projections; None for no norm.
        to_q: Projection to queries.
        to_k: Projection to keys.
        to_v: Projection to values.
        to_out: Projection of the attention output.
        heads: Number of heads, which must divide the number of channels.
        scale_factor: Divisor of the block's output.
    """

    group_norm: GroupNorm | None
    to_q: Linear
    to_k: Linear
    to_v: Linear
    to_out: Linear
    heads: int
    scale_factor: float = 1.0


@dataclass(frozen=True)
class Level:
    """One resolution on the way down or up: blocks, optional attention after each, and resampling."""

    resnets: tuple[ResNet, ...]
    attentions: tuple[Attention, ...]
    resample: Conv | None


@dataclass(frozen=True)
class UNet:
    """The complete network, in the order of computation."""

    spec: UNetSpec
    time_linear_1: Linear
    time_linear_2: Linear
    conv_in: Conv
    down: tuple[Level, ...]
    middle: tuple[ResNet, Attention | None, ResNet]
    up: tuple[Level, ...]
    conv_norm_out: GroupNorm
    conv_out: Conv

    @classmethod
    def from_spec(cls, spec: UNetSpec) -> UNet:
        """Return the layers of the network described by `spec`."""
        build = _Builder(spec)
        widths, heights = spec.widths, spec.heights
        down_padding = (1, 1) if spec.downsample_padding else (0, 1)
        channels = spec.base_channels
        skips = [channels]
        down = []
        for index, (width, height) in enumerate(zip(widths, heights, strict=True)):
            block = f"down_blocks.{index}"
            inputs = [channels, *[width] * (spec.num_res_blocks - 1)]
            last = index == len(widths) - 1
            resample = Conv(f"{block}.downsamplers.0.conv", width, width, stride=2, padding=down_padding)
            attends = height in spec.attention_resolutions
            down.append(build.level(block, inputs, width, None if last else resample, attends=attends))
            skips += [width] * (spec.num_res_blocks + (0 if last else 1))
            channels = width
        middle = build.middle(channels)
        up = []
        for index, (width, height) in enumerate(zip(widths[::-1], heights[::-1], strict=True)):
            block = f"up_blocks.{index}"
            inputs = []
            for _ in range(spec.num_res_blocks + 1):
                inputs.append(channels + skips.pop())
                channels = width
            last = index == len(widths) - 1
            resample = Conv(f"{block}.upsamplers.0.conv", width, width)
            attends = height in spec.attention_on_the_way_up
            up.append(build.level(block, inputs, width, None if last else resample, attends=attends))
        time_features = spec.time_features
        return cls(
            spec=spec,
            time_linear_1=Linear("time_embedding.linear_1", spec.base_channels, time_features),
            time_linear_2=Linear("time_embedding.linear_2", time_features, time_features),
            conv_in=Conv("conv_in", spec.image_channels, spec.base_channels),
            down=tuple(down),
            middle=middle,
            up=tuple(up),
            conv_norm_out=build.norm("conv_norm_out", channels),
            conv_out=Conv("conv_out", channels, spec.image_channels, starts_at_zero=True),
        )


class _Builder:
    """A builder of blocks that share a spec."""

    def __init__(self, spec: UNetSpec) -> None:
        self.spec = spec

    def norm(self, name: str, channels: int) -> GroupNorm:
        return GroupNorm(name, channels, self.spec.num_groups, self.spec.norm_eps)

    def resnet(self, name: str, in_channels: int, out_channels: int) -> ResNet:
        spec, same = self.spec, in_channels == out_channels
        shifts = 2 * out_channels if spec.scale_shift else out_channels
        return ResNet(
            norm1=self.norm(f"{name}.norm1", in_channels),
            conv1=Conv(f"{name}.conv1", in_channels, out_channels),
            time_emb_proj=Linear(f"{name}.time_emb_proj", spec.time_features, shifts),
            norm2=self.norm(f"{name}.norm2", out_channels),
            conv2=Conv(f"{name}.conv2", out_channels, out_channels, starts_at_zero=True),
            conv_shortcut=None
            if same
            else Conv(f"{name}.conv_shortcut", in_channels, out_channels, kernel=1, padding=(0, 0)),
            scale_shift=spec.scale_shift,
        )

    def attention(self, name: str, channels: int) -> Attention:
        head_dim = self.spec.attention_head_dim
        return Attention(
            group_norm=self.norm(f"{name}.group_norm", channels),
            to_q=Linear(f"{name}.to_q", channels, channels),
            to_k=Linear(f"{name}.to_k", channels, channels),
            to_v=Linear(f"{name}.to_v", channels, channels),
            to_out=Linear(f"{name}.to_out.0", channels, channels, starts_at_zero=True),
            heads=1 if head_dim is None else channels // head_dim,
        )

    def middle(self, channels: int) -> tuple[ResNet, Attention | None, ResNet]:
        spec, factor = self.spec, self.spec.middle_scale_factor
        first, second = (
            replace(self.resnet(f"mid_block.resnets.{i}", channels, channels), scale_factor=factor)
            for i in range(2)
        )
        if not spec.middle_attention:
            return first, None, second
        attention = self.attention("mid_block.attentions.0", channels)
        norm, groups = attention.group_norm, spec.groups_of_middle_attention
        norm = None if norm is None or groups is None else replace(norm, groups=groups)
        return first, replace(attention, group_norm=norm, scale_factor=factor), second

    def level(
        self, name: str, inputs: list[int], width: int, resample: Conv | None, *, attends: bool
    ) -> Level:
        return Level(
            resnets=tuple(self.resnet(f"{name}.resnets.{i}", n, width) for i, n in enumerate(inputs)),
            attentions=tuple(self.attention(f"{name}.attentions.{i}", width) for i in range(len(inputs)))
            if attends
            else (),
            resample=resample,
        )
