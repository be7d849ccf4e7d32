"""Specification of a U-Net, and its limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Beyond these limits, even the list of layers or parameter shapes could exhaust memory.
_MOST_CHANNELS = 1 << 16
_MOST_LEVELS = 16
_MOST_BLOCKS = 100

_FEWEST_IN_GROUP = 4
"""Minimum number of channels per group when `num_groups` is suggested, as in the default networks."""

_LARGEST_ATTENTION = 16
"""Height in pixels of the largest level for which attention is suggested."""


@dataclass(frozen=True)
class UNetSpec:
    """Specification of a U-Net. The defaults are DDPM's for CIFAR-10.

    Attributes:
        image_size: Height and width in pixels; both divisible by 2 at every level but the last.
        image_channels: Channels of an image.
        num_train_timesteps: T; the network is called with t in [0, T).
        base_channels: Channels of the first level; even, for the sines and cosines of the timestep.
        channel_multipliers: Channels of each level, as multiples of `base_channels` (not cumulative).
        num_res_blocks: Residual blocks per level on the way down; one more on the way up.
        attention_resolutions: Heights in pixels of the levels that have self-attention on the way down.
        attention_head_dim: Channels of an attention head; `none` for a single head, as in DDPM.
        num_groups: Number of groups in every group normalisation; must divide the channels of every level.
        dropout: Dropout probability before the second convolution of every residual block.
        up_attention_resolutions: Like attention_resolutions, but on the way up; `none` for the same levels.
        middle_attention: Use self-attention in the middle block, between the way down and the way up.
        middle_attention_groups: Groups of its norm; `none` for `num_groups`, or no norm if `scale_shift`.
        middle_scale_factor: Divisor of the output of every layer in the middle block.
        scale_shift: Let the time embedding scale and shift a norm's output, instead of shifting its input.
        norm_eps: Epsilon of every group normalisation.
        downsample_padding: Zero padding in downsampling: 0 for bottom and right only, 1 for all sides.
        center_input: Pass images x to the network as 2x - 1.
        time_embedding_dim: Features of the embedded timestep; `none` for four times `base_channels`.
        flip_sin_to_cos: Put the timestep's cosines before its sines.
        freq_shift: The n frequencies are 10000^(-k / (n - freq_shift)); 1 in DDPM, 0 in most networks.
    """

    image_size: tuple[int, int]
    image_channels: int
    num_train_timesteps: int
    base_channels: int = 128
    channel_multipliers: tuple[float, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    attention_head_dim: int | None = None
    num_groups: int = 32
    dropout: float = 0.1
    up_attention_resolutions: tuple[int, ...] | None = None
    middle_attention: bool = True
    middle_attention_groups: int | None = None
    middle_scale_factor: float = 1.0
    scale_shift: bool = False
    norm_eps: float = 1e-6
    downsample_padding: int = 0
    center_input: bool = False
    time_embedding_dim: int | None = None
    flip_sin_to_cos: bool = False
    freq_shift: int = 1

    def __post_init__(self) -> None:
        problem = next(self._problems(), None)
        if problem:
            what, fix = problem
            raise UserError(f"this U-Net cannot be built: {what}", fix=f"{fix} the parameters of --model")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the highest resolution first."""
        return tuple(round(self.base_channels * multiplier) for multiplier in self.channel_multipliers)

    @property
    def heights(self) -> tuple[int, ...]:
        """Height in pixels of each level, the largest first."""
        return tuple(self.image_size[0] >> level for level in range(len(self.channel_multipliers)))

    @property
    def time_features(self) -> int:
        """Number of features of the embedded timestep."""
        return self.time_embedding_dim or 4 * self.base_channels

    @property
    def attention_on_the_way_up(self) -> tuple[int, ...]:
        """Heights of the levels that have self-attention on the way up."""
        down, up = self.attention_resolutions, self.up_attention_resolutions
        return down if up is None else up

    @property
    def groups_of_middle_attention(self) -> int | None:
        """Groups of the norm before the middle attention; None for no norm."""
        if self.middle_attention_groups is None and not self.scale_shift:
            return self.num_groups
        return self.middle_attention_groups

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield each problem, with the beginning of its fix."""
        for problem in itertools.chain(self._wrong_sizes(), self._wrong_numbers()):
            yield problem, "change"
        for channels in sorted({self.base_channels, *self.widths}):
            if self.num_groups < 1 or channels % self.num_groups:
                yield (
                    f"{channels} channels cannot be divided into num_groups = {self.num_groups} equal groups",
                    f"set num_groups={self._fitting_groups()} in",
                )
        yield from self._wrong_attention()

    def _fitting_groups(self) -> int:
        """Return the largest number of groups that divides every level into groups of enough channels.

        With one channel per group, the norm would cancel the time embedding.
        """
        widths = self.base_channels, *self.widths
        largest = max(1, min(widths) // _FEWEST_IN_GROUP)
        return max(groups for groups in range(1, largest + 1) if math.gcd(*widths) % groups == 0)

    def _wrong_sizes(self) -> Iterator[str]:
        multipliers, base = self.channel_multipliers, self.base_channels
        levels = len(multipliers)
        if base < 4 or base % 2:
            yield f"base_channels must be an even number of at least 4, not {base}"
        if not 1 <= levels <= _MOST_LEVELS or not all(multiplier > 0 for multiplier in multipliers):
            yield f"channel_multipliers must contain 1 to {_MOST_LEVELS} positive numbers"
            return
        if max(base, base * max(multipliers)) > _MOST_CHANNELS:
            yield f"no level can have more than {_MOST_CHANNELS:,} channels"
            return
        for multiplier, width in zip(multipliers, self.widths, strict=True):
            if width < 1 or width / base != multiplier:
                yield (
                    f"channel_multipliers contains {multiplier}, "
                    f"but {multiplier} x {base} channels is not an integer"
                )
        if not 1 <= self.num_res_blocks <= _MOST_BLOCKS:
            yield f"num_res_blocks must be from 1 to {_MOST_BLOCKS}, not {self.num_res_blocks}"
        for size in self.image_size:
            if size < 1 or size % 2 ** (levels - 1):
                yield (
                    f"{levels} levels halve the image {levels - 1} times, "
                    f"but its size {size} is not divisible by {2 ** (levels - 1)}"
                )

    def _wrong_numbers(self) -> Iterator[str]:
        if self.image_channels < 1:
            yield f"image_channels must be at least 1, not {self.image_channels}"
        if not 0.0 <= self.dropout < 1.0:
            yield f"dropout must be a number in [0, 1), not {self.dropout}"
        for name in ("norm_eps", "middle_scale_factor"):
            number = getattr(self, name)
            if not 0.0 < number < math.inf:
                yield f"{name} must be a positive number, not {number}"
        if self.downsample_padding not in (0, 1):
            yield f"downsample_padding must be 0 or 1, not {self.downsample_padding}"
        if not 0 <= self.freq_shift < self.base_channels // 2:
            yield f"freq_shift must be from 0 to {self.base_channels // 2 - 1}, not {self.freq_shift}"
        if self.time_embedding_dim is not None and not 1 <= self.time_embedding_dim <= _MOST_CHANNELS:
            yield f"time_embedding_dim must be from 1 to {_MOST_CHANNELS:,}, not {self.time_embedding_dim}"

    def _wrong_attention(self) -> Iterator[tuple[str, str]]:
        heights, widths = self.heights, self.widths
        attending = {widths[-1]} if self.middle_attention else set()
        for name in ("attention_resolutions", "up_attention_resolutions"):
            for size in getattr(self, name) or ():
                if size in heights:
                    attending.add(widths[heights.index(size)])
                    continue
                proposed = max(
                    (other for other in heights if other <= _LARGEST_ATTENTION), default=heights[-1]
                )
                yield (
                    f"{name} contains {size}, but the levels are {', '.join(map(str, heights))} pixels high",
                    f"set {name}={proposed} in",
                )
        head = self.attention_head_dim
        for channels in sorted(attending):
            if head is not None and (head < 1 or channels % head):
                yield (
                    f"{channels} channels cannot be divided into heads of {head} channels "
                    "(attention_head_dim)",
                    "change",
                )
        groups = self.middle_attention_groups
        if self.middle_attention and groups is not None and (groups < 1 or widths[-1] % groups):
            yield (
                f"{widths[-1]} channels cannot be divided into middle_attention_groups = {groups} "
                f"equal groups",
                "change",
            )
