"""From what the user asked for to the parts of one experiment, checked and ready to run."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ddim_host.diffusion import NoiseSchedule, ddim_steps
from ddim_host.errors import UserError
from ddim_host.experiment.config import PART_KINDS, Config, PartConfig, Request
from ddim_host.experiment.defaults import (
    DEFAULT_DISTRIBUTIONS,
    DEFAULT_PARTS,
    default_attention,
    default_model_parameters,
    default_settings,
)
from ddim_host.experiment.settings import SETTINGS
from ddim_host.framework.processes import ALONE
from ddim_host.framework.unet import UNet, UNetSpec
from ddim_host.plugin import validation
from ddim_host.plugin.discovery import no_framework_chosen
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import Parameter, PartChoice, resolve
from ddim_host.plugin.registry import Kind, Part
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep
    from ddim_host.framework.interface import JoinProcesses, Loss, Model
    from ddim_host.framework.processes import Processes
    from ddim_host.plugin.contracts import TimestepSampler
    from ddim_host.plugin.data import DataSource, TrainTest
    from ddim_host.plugin.discovery import Plugin
    from ddim_host.plugin.parameters import Value
    from ddim_host.plugin.registry import Registry

__all__ = ["Experiment", "assemble"]


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment, assembled; nothing was downloaded and no network built yet.

    Attributes:
        config: All of it as data.
        parts: The parts by kind.
        source: The data set.
        schedule: The noise schedule.
        sampler: The timestep sampler, with the state of a new run.
        loss: One number per image.
        weighting: float64 `(T,)`, the loss weighting.
        unet: The network's description.
        join_processes: How the framework joins several processes; None where it cannot.
    """

    config: Config
    parts: dict[Kind, Part]
    source: DataSource
    schedule: NoiseSchedule
    sampler: TimestepSampler
    loss: Loss
    weighting: NDArray[np.float64]
    unet: UNet
    join_processes: JoinProcesses | None

    @cached_property
    def processes(self) -> Processes:
        """Who runs this experiment: this process alone, or those that a launcher started, then joined.

        Raises:
            UserError: The framework cannot join them, or a batch is too small to be shared.
        """
        launch, config = launched(), self.config
        if launch.count == 1:
            return ALONE
        if self.join_processes is None:
            raise UserError(
                f"the framework {config.plugin.name!r} runs in one process only",
                why=f"{launch.launcher} started {launch.count}; {config.plugin.distribution} lacks the hook "
                "ddim_process_groups",
                fix=f"start it without {launch.launcher}",
            )
        if config.batch_size < launch.count:
            raise UserError(
                f"{launch.count} processes cannot share a batch of {config.batch_size}",
                fix="use a larger --batch-size (that of all processes together), or fewer processes",
            )
        return self.join_processes(config.device)

    def load_images(self) -> TrainTest:
        """Read the data set, downloading or decoding it where that has not happened yet; once."""
        return self._images

    @cached_property
    def _images(self) -> TrainTest:
        return validation.checked_images(self.parts[Kind.DATA], self.source)

    def timesteps(self, num_inference_steps: int | None = None) -> NDArray[np.int64]:
        """The timesteps that sampling visits, int64 `(S,)`; with as many steps as configured, or another S.

        Raises:
            UserError: The timestep subset has none of this size.
        """
        return validation.checked_subset(
            self.parts[Kind.TIMESTEP_SUBSET],
            self.config.timestep_subset.parameters,
            self.schedule,
            self.config.steps if num_inference_steps is None else num_inference_steps,
        )

    def sampling_steps(self) -> tuple[DDIMStep, ...]:
        """The steps from noise to image."""
        return ddim_steps(self.schedule, self.timesteps(), self.config.eta)

    def build_model(self) -> Model:
        """Build the network in the framework, with weights not yet defined; joins the processes first.

        Raises:
            UserError: The framework cannot be imported, or lacks what was asked for.
        """
        part = self.parts[Kind.MODEL]
        own = {parameter.name for parameter in part.parameters()}
        parameters = {k: v for k, v in self.config.model.parameters.items() if k in own}
        try:
            _ = self.processes  # a network lives where its process was put
            return validation.checked_model(
                part,
                lambda: part.make(self.unet.spec, self.config.device, self.config.precision, **parameters),
            )
        except ImportError as error:
            raise UserError(
                f"the framework {self.config.plugin.name!r} cannot be imported",
                why=str(error),
                fix=f"pip install {part.distribution}",
            ) from error


def assemble(request: Request, *, source: DataSource | None = None) -> Experiment:
    """Load the plugins and put an experiment together.

    Args:
        request: What the user asked for.
        source: In place of what the data set's part would give: for a trained run, whose images need not be
            at hand.

    Raises:
        UserError: Anything that the user asked for is unknown, ill-typed, not allowed or not to be had.
    """
    if request.plugin is None:
        raise no_framework_chosen()
    plugins = load_plugins(request.plugin)
    framework = cast("Plugin", plugins.framework)
    choices = {kind: request.parts.get(kind) or _default_part(kind, plugins.registry) for kind in PART_KINDS}
    parts = {kind: plugins.registry.find(kind, choice) for kind, choice in choices.items()}

    def resolved(kind: Kind, known: tuple[Parameter, ...] | None = None) -> dict[str, Value]:
        part = parts[kind]
        return resolve(part.label, part.parameters() if known is None else known, choices[kind].arguments)

    parameters: dict[Kind, dict[str, Value]] = {
        kind: resolved(kind) for kind in PART_KINDS if kind is not Kind.MODEL
    }
    if source is None:
        source = validation.checked_source(parts[Kind.DATA], parameters[Kind.DATA])
    size, _, channels = source.image_shape
    model = resolved(Kind.MODEL, _model_parameters(parts[Kind.MODEL], size))
    if "attention_resolutions" not in choices[Kind.MODEL].arguments:
        # The levels need not be those of the default network.
        levels = len(cast("tuple[int, ...]", model["channel_multipliers"]))
        model["attention_resolutions"] = default_attention(size, levels)
    parameters[Kind.MODEL] = model
    values: dict[str, Any] = _settings(request, source)
    values["plugin"] = PartConfig(framework.name, framework.distribution, framework.version)
    for kind, part in parts.items():
        values[kind.option] = PartConfig(part.name, part.distribution, part.version, parameters[kind])
    config = Config(**values)
    schedule = NoiseSchedule(
        validation.checked_betas(
            parts[Kind.NOISE_SCHEDULE], parameters[Kind.NOISE_SCHEDULE], config.num_train_timesteps
        )
    )
    own = {parameter.name for parameter in parts[Kind.MODEL].parameters()}
    spec_parameters: dict[str, Any] = {k: v for k, v in config.model.parameters.items() if k not in own}
    spec = UNetSpec(size, channels, config.num_train_timesteps, **spec_parameters)
    experiment = Experiment(
        config=config,
        parts=parts,
        source=source,
        schedule=schedule,
        sampler=validation.CheckedSampler(
            parts[Kind.TIMESTEP_SAMPLER], parameters[Kind.TIMESTEP_SAMPLER], schedule
        ),
        loss=validation.checked_loss(parts[Kind.LOSS], parameters[Kind.LOSS]),
        weighting=validation.checked_weighting(
            parts[Kind.LOSS_WEIGHTING], parameters[Kind.LOSS_WEIGHTING], schedule
        ),
        unet=UNet.from_spec(spec),
        join_processes=plugins.join_processes,
    )
    experiment.timesteps()  # a subset that does not work should be known before the training
    return experiment


def _default_part(kind: Kind, registry: Registry) -> PartChoice:
    """The part that is used where the user names none: this project's own, whoever else gives that name."""
    name, own = DEFAULT_PARTS[kind], DEFAULT_DISTRIBUTIONS.get(kind)
    is_there = any((part.name, part.distribution) == (name, own) for part in registry.of_kind(kind))
    return PartChoice(name, own if is_there else None, {})


def _model_parameters(part: Part, image_size: int) -> tuple[Parameter, ...]:
    """The U-Net's own parameters, with defaults that follow the image size, then the factory's."""
    defaults = default_model_parameters(image_size)
    types = typing.get_type_hints(UNetSpec)
    spec = tuple(Parameter(name, types[name], default) for name, default in defaults.items())
    return spec + part.parameters()


def _settings(request: Request, source: DataSource) -> dict[str, Any]:
    """Every setting: what was asked for, or what follows from the data set, or the table's default."""
    by_data = default_settings(source.image_shape[0])
    values: dict[str, Any] = {}
    for setting in SETTINGS.values():
        default = by_data.get(setting.name, setting.default)
        values[setting.name] = request.settings.get(setting.name, default)
    values["epochs"] = request.epochs
    if request.epochs is not None:
        values["train_steps"] = None
    return values
