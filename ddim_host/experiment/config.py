"""An experiment as data: the user's request (`Request`) and the resolved configuration (`Config`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.diffusion import PredictionType
    from ddim_host.framework.interface import Device, Precision
    from ddim_host.plugin.parameters import PartChoice, Value

PART_KINDS = (
    Kind.DATA,
    Kind.MODEL,
    Kind.NOISE_SCHEDULE,
    Kind.TIMESTEP_SAMPLER,
    Kind.LOSS,
    Kind.LOSS_WEIGHTING,
    Kind.TIMESTEP_SUBSET,
    Kind.SOLVER,
)
"""The kinds of a run's parts, in display order."""

PARTS_OF_TRAINING = frozenset({Kind.DATA, Kind.TIMESTEP_SAMPLER, Kind.LOSS, Kind.LOSS_WEIGHTING})
"""Parts that a trained run needs only for some commands, or not at all."""

LENGTHS = frozenset({"train_steps", "epochs"})
"""Mutually exclusive settings: both set the length of training."""


@dataclass(frozen=True)
class Watchers:
    """The requested observers.

    Attributes:
        choices: The observers.
        recorded: True if they come from the `config.toml` of a run, which may be from another machine;
            observers that are not available are then skipped with a note.
    """

    choices: tuple[PartChoice, ...]
    recorded: bool = False


@dataclass(frozen=True)
class PartConfig:
    """A resolved part of a run.

    Attributes:
        name: The name of the part.
        distribution: The distribution that provides it.
        version: The version of the distribution.
        parameters: All parameters, including defaults.
    """

    name: str
    distribution: str
    version: str
    parameters: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A resolved run: the framework, the parts and every setting (see `ddim_host.experiment.settings`).

    The length of training is either `train_steps` or `epochs`; the other is None. Observers are not part of
    the experiment, because they do not affect the results.
    """

    plugin: PartConfig
    data: PartConfig
    model: PartConfig
    noise_schedule: PartConfig
    timestep_sampler: PartConfig
    loss: PartConfig
    loss_weighting: PartConfig
    timestep_subset: PartConfig
    solver: PartConfig
    num_train_timesteps: int
    prediction_type: PredictionType
    rescale_zero_snr: bool
    steps: int
    eta: float
    clip: bool
    clip_range: float
    num_images: int
    train_steps: int | None
    epochs: int | None
    batch_size: int
    lr: float
    lr_warmup_steps: int
    ema_decay: float
    max_grad_norm: float
    checkpoint_seconds: float
    sample_every: int | str
    real_images: bool
    test_images: int
    seed: int
    device: Device
    precision: Precision
    observer: tuple[PartConfig, ...] = ()

    def length(self, num_train_images: int) -> int:
        """Return the length of training in optimizer steps."""
        return training_length(vars(self), num_train_images)

    @property
    def x_start_limit(self) -> float | None:
        """The limit on the absolute value of the predicted x_start while sampling; None for no limit."""
        return self.clip_range if self.clip else None

    @property
    def names_hardware(self) -> bool:
        """True if the requested device or precision may be unavailable, unlike `auto`, cpu and fp32."""
        return self.device == "cuda" or self.precision == "bf16"

    def part(self, kind: Kind) -> PartConfig:
        """Return the part of the given kind."""
        return cast("PartConfig", getattr(self, kind.option))


def clip_in_words(limit: float | None) -> str:
    """Describe how the predicted x_start is clipped."""
    return "not clipped" if limit is None else f"clipped to [-{limit:g}, {limit:g}]"


def training_length(settings: Mapping[str, Any], num_train_images: int) -> int:
    """Return the length of training in optimizer steps.

    Args:
        settings: `train_steps`, or `epochs` and `batch_size`.
        num_train_images: The number of training images.
    """
    epochs: int | None = settings.get("epochs")
    if epochs is None:
        return cast("int", settings["train_steps"])
    return math.ceil(epochs * num_train_images / cast("int", settings["batch_size"]))


@dataclass(frozen=True)
class Request:
    """The user's choices; everything else takes its default.

    Attributes:
        plugin: The framework, `name` or `distribution/name`; None if the user did not choose one.
        parts: Parts by kind.
        settings: Validated values by name.
        watchers: Observers; None if the user did not mention any.
    """

    plugin: str | None = None
    parts: Mapping[Kind, PartChoice] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    watchers: Watchers | None = None

    def over(self, base: Request) -> Request:
        """Return this request, with missing values taken from another request."""
        taken = LENGTHS if LENGTHS & self.settings.keys() else frozenset()
        inherited = {name: value for name, value in base.settings.items() if name not in taken}
        parts = {**base.parts}
        if self.plugin not in (None, base.plugin) and Kind.MODEL in parts:
            # This framework's own distribution provides a network of the same name.
            parts[Kind.MODEL] = replace(parts[Kind.MODEL], distribution=None)
        return Request(
            self.plugin or base.plugin,
            {**parts, **self.parts},
            {**inherited, **self.settings},
            base.watchers if self.watchers is None else self.watchers,
        )
