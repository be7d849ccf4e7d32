"""From what the user asked for to the parts of one experiment, checked and ready to run."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ddim_host.diffusion import ddim_steps
from ddim_host.errors import UserError
from ddim_host.experiment.config import PART_KINDS, Config, PartConfig, Request, Watchers
from ddim_host.experiment.defaults import (
    DEFAULT_DISTRIBUTIONS,
    DEFAULT_PARTS,
    default_attention,
    default_model_parameters,
    default_settings,
)
from ddim_host.experiment.observers import Observers, Watcher
from ddim_host.experiment.settings import SETTINGS
from ddim_host.framework.processes import ALONE
from ddim_host.framework.unet import UNet, UNetSpec
from ddim_host.plugin import validation
from ddim_host.plugin.discovery import only_framework
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import Parameter, PartChoice, format_choice, resolve
from ddim_host.plugin.registry import Kind, Part
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule
    from ddim_host.framework.interface import JoinProcesses, Loss, Model
    from ddim_host.framework.processes import Processes
    from ddim_host.plugin.contracts import TimestepSampler
    from ddim_host.plugin.data import DataSource, TrainTest
    from ddim_host.plugin.discovery import Plugin
    from ddim_host.plugin.loading import Plugins
    from ddim_host.plugin.parameters import Value
    from ddim_host.plugin.registry import Registry
    from ddim_host.plugin.validation import SamplingPlan


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment, assembled; nothing was downloaded and no network built yet.

    Attributes:
        config: All of it as data.
        parts: The parts by kind.
        image_shape: `(H, W, C)` of the images.
        schedule: The noise schedule.
        sampler: The timestep sampler, with the state of a new run.
        loss: One number per image.
        weighting: float64 `(T,)`, the loss weighting.
        unet: The network's description.
        observers: Who is told of what becomes of it.
        registry: All parts that are installed.
        join_processes: How the framework joins several processes; None where it cannot.
        images_are_known: Whether the data set is that of the training, or one that the user named.
    """

    config: Config
    parts: dict[Kind, Part]
    image_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    sampler: TimestepSampler
    loss: Loss
    weighting: NDArray[np.float64]
    unet: UNet
    observers: Observers
    registry: Registry
    join_processes: JoinProcesses | None
    images_are_known: bool = True
    _source: DataSource | None = None
    _subsets: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @cached_property
    def source(self) -> DataSource:
        """The data set; that of a trained run is looked for when it is asked for, and need not be there.

        Raises:
            UserError: It is not available, or its images have another shape than those of the training.
        """
        if self._source is not None:
            return self._source
        if not self.images_are_known:
            raise unknown_images()
        data = self.config.data
        source = validation.checked_source(self.parts[Kind.DATA], data.parameters)
        if source.image_shape != self.image_shape:
            raise UserError(
                f"{self.parts[Kind.DATA].label} has images of another shape than the run was trained on",
                why=f"theirs is (height, width, channels) = {source.image_shape}, and the network's is "
                f"{self.image_shape}",
                fix="choose other images with --data"
                if "channels" not in source.resolved or source.image_shape[:2] != self.image_shape[:2]
                else f"add channels={self.image_shape[2]} to --data, or choose other images",
            )
        return source

    @property
    def data_choice(self) -> str:
        """The data set as on the command line, with what was left to the images."""
        data = self.config.data
        return format_choice(data.name, {**data.parameters, **self.source.resolved})

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

    @cached_property
    def images(self) -> TrainTest:
        """The data set, read: downloaded or decoded first if that has not happened yet."""
        return validation.checked_images(self.parts[Kind.DATA], self.source)

    def timesteps(self, num_inference_steps: int | None = None) -> NDArray[np.int64]:
        """Return the timesteps that sampling visits, int64 `(S,)`; S is the configured one unless given.

        Raises:
            UserError: The timestep subset has none of this size.
        """
        steps = self.config.steps if num_inference_steps is None else num_inference_steps
        if steps not in self._subsets:
            subset = validation.checked_subset(
                self.parts[Kind.TIMESTEP_SUBSET],
                self.config.timestep_subset.parameters,
                self.schedule,
                steps,
            )
            subset.flags.writeable = False
            self._subsets[steps] = subset
        return self._subsets[steps]

    def sampling_plan(self, num_inference_steps: int | None = None, eta: float | None = None) -> SamplingPlan:
        """Return the steps from noise to image with their solver, as configured unless given.

        Raises:
            UserError: The timestep subset has none of this size, or the solver does not work with this eta.
        """
        timesteps = self.timesteps(num_inference_steps)
        steps = ddim_steps(self.schedule, timesteps, self.config.eta if eta is None else eta)
        return validation.checked_solver(self.parts[Kind.SOLVER], self.config.solver.parameters, steps)

    def require_device(self) -> None:
        """Make sure that there are the device and the precision that were asked for by name.

        If they may be missing, a network is built, which takes seconds.

        Raises:
            UserError: The framework cannot be imported, or lacks them.
        """
        if self.config.names_hardware:
            self.build_model()

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


def assemble(
    request: Request, *, plugins: Plugins | None = None, image_shape: tuple[int, int, int] | None = None
) -> Experiment:
    """Put an experiment together.

    Args:
        request: What the user asked for.
        plugins: From `load_framework`, if they are loaded already.
        image_shape: `(H, W, C)` of the images of a trained run, whose data set need not be there; None asks
            the data set.

    Raises:
        UserError: Anything that the user asked for is unknown, ill-typed, not allowed or not available.
    """
    plugins = plugins or load_framework(request)
    parts = _resolve_parts(request, plugins.registry)
    source = None
    if image_shape is None:
        data = parts[Kind.DATA]
        source = validation.checked_source(data.part, data.parameters)
        image_shape = source.image_shape
        parts[Kind.DATA] = replace(data, parameters={**data.parameters, **source.resolved})
    config = _resolve(request, plugins, parts, image_shape)
    watched_by, observers = _observers(request.watchers, plugins.registry)
    config = replace(config, observer=watched_by)
    schedule = validation.checked_schedule(
        parts[Kind.NOISE_SCHEDULE].part,
        config.noise_schedule.parameters,
        config.num_train_timesteps,
        config.prediction_type,
        rescale_zero_snr=config.rescale_zero_snr,
    )
    own = {parameter.name for parameter in parts[Kind.MODEL].part.parameters()}
    spec_parameters: dict[str, Any] = {k: v for k, v in config.model.parameters.items() if k not in own}
    height, width, channels = image_shape
    spec = UNetSpec((height, width), channels, config.num_train_timesteps, **spec_parameters)
    return Experiment(
        config=config,
        parts={kind: resolved.part for kind, resolved in parts.items()},
        image_shape=image_shape,
        schedule=schedule,
        sampler=validation.CheckedSampler(
            parts[Kind.TIMESTEP_SAMPLER].part, config.timestep_sampler.parameters, schedule
        ),
        loss=validation.checked_loss(parts[Kind.LOSS].part, config.loss.parameters),
        weighting=validation.checked_weighting(
            parts[Kind.LOSS_WEIGHTING].part,
            config.loss_weighting.parameters,
            schedule,
            config.prediction_type,
        ),
        unet=UNet.from_spec(spec),
        observers=observers,
        registry=plugins.registry,
        join_processes=plugins.join_processes,
        _source=source,
    )


def unknown_images() -> UserError:
    """Return the error for a command that needs the images of an imported run, and was not told which."""
    return UserError(
        "the images that this network was trained on are unknown",
        why="the run was imported, and a pipeline does not tell",
        fix="add --data, for example --data cifar10 or --data images:path=PATH",
    )


def load_framework(request: Request) -> Plugins:
    """Load the plugins with the framework that was asked for, else with the only one that is installed.

    Raises:
        UserError: No framework was chosen among several, or see `plugin.loading.load_plugins`.
    """
    return load_plugins(only_framework() if request.plugin is None else request.plugin)


@dataclass(frozen=True)
class _Resolved:
    """A part, how it was asked for, and its parameters; those of a network follow the images."""

    part: Part
    choice: PartChoice
    parameters: dict[str, Value]


def _resolve_parts(request: Request, registry: Registry) -> dict[Kind, _Resolved]:
    parts = {}
    for kind in PART_KINDS:
        choice = request.parts.get(kind) or default_part(kind, registry)
        part = registry.find(kind, choice)
        values = {} if kind is Kind.MODEL else resolve(part.label, part.parameters(), choice.arguments)
        parts[kind] = _Resolved(part, choice, values)
    return parts


def _resolve(
    request: Request, plugins: Plugins, parts: Mapping[Kind, _Resolved], image_shape: tuple[int, int, int]
) -> Config:
    framework = cast("Plugin", plugins.framework)
    values: dict[str, Any] = _settings(request, image_shape[0])
    values["plugin"] = PartConfig(framework.name, framework.distribution, framework.version)
    for kind, resolved in parts.items():
        part, parameters = resolved.part, resolved.parameters
        if kind is Kind.MODEL:
            parameters = _resolve_network(part, resolved.choice, image_shape[0])
        values[kind.option] = PartConfig(part.name, part.distribution, part.version, parameters)
    return Config(**values)


def _resolve_network(part: Part, choice: PartChoice, image_size: int) -> dict[str, Value]:
    """The network's parameters: the U-Net's, with defaults that follow the image size, and the factory's."""
    defaults = default_model_parameters(image_size)
    types = typing.get_type_hints(UNetSpec)
    spec = tuple(Parameter(name, types[name], default) for name, default in defaults.items())
    model = resolve(part.label, spec + part.parameters(), choice.arguments)
    if "attention_resolutions" not in choice.arguments:
        # The levels need not be those of the default network.
        levels = len(cast("tuple[int, ...]", model["channel_multipliers"]))
        model["attention_resolutions"] = default_attention(image_size, levels)
    multipliers = cast("tuple[float, ...]", model["channel_multipliers"])
    model["channel_multipliers"] = tuple(int(m) if m.is_integer() else m for m in map(float, multipliers))
    return model


def _observers(watchers: Watchers | None, registry: Registry) -> tuple[tuple[PartConfig, ...], Observers]:
    """Make the observers that were asked for, and what `config.toml` says of them."""
    found, made, absent = [], [], []
    for choice in () if watchers is None else watchers.choices:
        try:
            part = registry.find(Kind.OBSERVER, choice)
            parameters = resolve(part.label, part.parameters(), choice.arguments)
            observer = validation.checked_observer(part, parameters)
        except UserError as error:
            if watchers is None or not watchers.recorded:
                raise
            absent.append(f"the observer {choice.name!r} of this run is left out: {error.summary}")
            continue
        found.append(PartConfig(part.name, part.distribution, part.version, parameters))
        made.append(Watcher(observer, f"{part.label} of {part.distribution} {part.version}", part.package))
    return tuple(found), Observers(made, absent)


def default_part(kind: Kind, registry: Registry) -> PartChoice:
    """Return the part to use if the user names none: this project's own, whoever else gives that name."""
    name, own = DEFAULT_PARTS[kind], DEFAULT_DISTRIBUTIONS.get(kind)
    is_there = any((part.name, part.distribution) == (name, own) for part in registry.of_kind(kind))
    return PartChoice(name, own if is_there else None, {})


def _settings(request: Request, image_size: int) -> dict[str, Any]:
    """Every setting: what was asked for, or what follows from the images, or the table's default."""
    defaults = {name: setting.default for name, setting in SETTINGS.items()} | default_settings(image_size)
    if "epochs" in request.settings:
        defaults["train_steps"] = None
    return {**defaults, **request.settings}
