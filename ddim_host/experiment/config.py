"""An experiment as data: what was asked for (`Request`), and what that came to (`Config`)."""

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
"""The parts of a run, in the order in which people read them."""

LENGTHS = frozenset({"train_steps", "epochs"})
"""Settings that exclude each other: both set the length of the training."""


@dataclass(frozen=True)
class Watchers:
    """The observers that were asked for.

    Attributes:
        choices: The observers.
        recorded: Whether the file of a run says so, perhaps one of another machine: an observer that is not
            available here is then left out, with a note.
    """

    choices: tuple[PartChoice, ...]
    recorded: bool = False


@dataclass(frozen=True)
class PartConfig:
    """One part of a run, resolved.

    Attributes:
        name: Its name.
        distribution: Who provides it.
        version: That distribution's version.
        parameters: All its parameters, defaults included.
    """

    name: str
    distribution: str
    version: str
    parameters: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A run, resolved: the framework, the parts and every setting (see `ddim_host.experiment.settings`).

    Its length is either `train_steps` or `epochs`; the other is None. Observers are no part of the
    experiment: whoever watches, the results are the same.
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
    test_images: int
    seed: int
    device: Device
    precision: Precision
    observer: tuple[PartConfig, ...] = ()

    def length(self, num_train_images: int) -> int:
        """Return the length of the training in optimizer steps."""
        return training_length(vars(self), num_train_images)

    @property
    def x_start_limit(self) -> float | None:
        """The largest absolute value of the predicted x_start while sampling; None leaves it as predicted."""
        return self.clip_range if self.clip else None

    @property
    def names_hardware(self) -> bool:
        """Whether it asks for what a machine may lack; `auto`, the CPU and fp32 are always there."""
        return self.device == "cuda" or self.precision == "bf16"

    def part(self, kind: Kind) -> PartConfig:
        """Return the part of one kind."""
        return cast("PartConfig", getattr(self, kind.option))


def clip_in_words(limit: float | None) -> str:
    """Say what the predicted x_start is limited to."""
    return "not clipped" if limit is None else f"clipped to {limit:g}"


def training_length(settings: Mapping[str, Any], num_train_images: int) -> int:
    """Return the length of a training in optimizer steps.

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
    """What the user asked for, as far as they said.

    Attributes:
        plugin: The framework, or None.
        parts: Parts by kind.
        settings: Values by name, converted and checked.
        watchers: Observers; None if the user said nothing about them.
    """

    plugin: str | None = None
    parts: Mapping[Kind, PartChoice] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    watchers: Watchers | None = None

    def over(self, base: Request) -> Request:
        """Return this request, completed from another one."""
        taken = LENGTHS if LENGTHS & self.settings.keys() else frozenset()
        inherited = {name: value for name, value in base.settings.items() if name not in taken}
        parts = {**base.parts}
        if self.plugin not in (None, base.plugin) and Kind.MODEL in parts:
            # The network has a twin of the same name in the other framework, from another distribution.
            parts[Kind.MODEL] = replace(parts[Kind.MODEL], distribution=None)
        return Request(
            self.plugin or base.plugin,
            {**parts, **self.parts},
            {**inherited, **self.settings},
            base.watchers if self.watchers is None else self.watchers,
        )
