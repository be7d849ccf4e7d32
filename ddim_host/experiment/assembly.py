"""Assemble an experiment: turn a request into validated parts that are ready to run."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ddim_host.diffusion import ddim_steps
from ddim_host.errors import UserError
from ddim_host.experiment.config import PART_KINDS, PARTS_OF_TRAINING, Config, PartConfig, Request, Watchers
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
from ddim_host.plugin.framework_guard import naming_fix
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import Parameter, PartChoice, format_choice
from ddim_host.plugin.registry import Kind, Part
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
    """An assembled experiment, before any download and before the network is built.

    Attributes:
        config: The resolved configuration.
        parts: The parts by kind; those of `absent` are missing.
        image_shape: `(H, W, C)` of the images.
        schedule: The noise schedule.
        unet: The description of the network.
        observers: The observers.
        registry: All installed parts.
        join_processes: The framework's hook that connects several processes; None if it has none.
        absent: For a trained run, why parts that were only needed for its training are not available.
        images_are_known: False if the run was imported and the user did not name a data set.
    """

    config: Config
    parts: dict[Kind, Part]
    image_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    unet: UNet
    observers: Observers
    registry: Registry
    join_processes: JoinProcesses | None
    absent: Mapping[Kind, UserError] = field(default_factory=dict)
    images_are_known: bool = True
    _source: DataSource | None = None
    _subsets: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _plans: dict[tuple[int, float], SamplingPlan] = field(default_factory=dict)

    def _part_of_training(self, kind: Kind) -> Part:
        """Return a part of training.

        Raises:
            UserError: The run is trained, and the part is not available.
        """
        if kind in self.absent:
            raise self.absent[kind]
        return self.parts[kind]

    @cached_property
    def sampler(self) -> TimestepSampler:
        """The timestep sampler, in its initial state when first used."""
        return validation.checked_sampler(
            self._part_of_training(Kind.TIMESTEP_SAMPLER),
            self.config.timestep_sampler.parameters,
            self.schedule,
            self.config.batch_size,
        )

    @cached_property
    def loss(self) -> Loss:
        """The loss, which returns one number per image."""
        return validation.checked_loss(self._part_of_training(Kind.LOSS), self.config.loss.parameters)

    @cached_property
    def weighting(self) -> NDArray[np.float64]:
        """The loss weighting, float64 `(T,)`."""
        return validation.checked_weighting(
            self._part_of_training(Kind.LOSS_WEIGHTING),
            self.config.loss_weighting.parameters,
            self.schedule,
            self.config.prediction_type,
        )

    @cached_property
    def source(self) -> DataSource:
        """The data set. For a trained run, it is opened on first use, because not all commands need it.

        Raises:
            UserError: It is not available, or its images differ in shape from the training images.
        """
        if self._source is not None:
            return self._source
        if not self.images_are_known:
            raise unknown_images()
        data = self.config.data
        part = self._part_of_training(Kind.DATA)
        source = validation.checked_source(part, data.parameters)
        if source.image_shape != self.image_shape:
            raise UserError(
                f"the images of {part.label} differ in shape from the training images",
                why=f"their shape (height, width, channels) is {source.image_shape}, the network's is "
                f"{self.image_shape}",
                fix="choose other images with --data"
                if "channels" not in source.resolved or source.image_shape[:2] != self.image_shape[:2]
                else f"add channels={self.image_shape[2]} to --data, or choose other images",
            )
        return source

    @property
    def data_choice(self) -> str:
        """The data set as on the command line, including the parameters that it resolved itself."""
        data = self.config.data
        return format_choice(data.name, {**data.parameters, **self.source.resolved})

    @cached_property
    def processes(self) -> Processes:
        """The processes of this experiment: only this one, or all that a launcher started.

        Raises:
            UserError: The framework cannot connect them, or a batch is too small to be split among them.
        """
        launch, config = launched(), self.config
        if launch.count == 1:
            return ALONE
        if self.join_processes is None:
            raise UserError(
                f"framework {config.plugin.name!r} runs only in a single process",
                why=f"{launch.launcher} started {launch.count} processes, but {config.plugin.distribution} "
                "does not implement the hook ddim_process_groups",
                fix=f"run the command without {launch.launcher}",
            )
        if config.batch_size < launch.count:
            raise UserError(
                f"a batch of {config.batch_size} cannot be split among {launch.count} processes",
                fix="use a larger --batch-size (the total over all processes), or fewer processes",
            )
        return self.join_processes(config.device)

    @cached_property
    def images(self) -> TrainTest:
        """The images of the data set, downloaded and decoded on first use."""
        return validation.checked_images(self._part_of_training(Kind.DATA), self.source)

    def timesteps(self, num_inference_steps: int | None = None) -> NDArray[np.int64]:
        """Return the timesteps that sampling visits, int64 `(S,)`; S defaults to the configuration.

        Raises:
            UserError: The timestep subset does not support this size.
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
        """Return the steps from noise to image with their solver; S and eta default to the configuration.

        Raises:
            UserError: The timestep subset does not support this size, or the solver does not support eta.
        """
        eta = self.config.eta if eta is None else eta
        timesteps = self.timesteps(num_inference_steps)
        key = len(timesteps), eta
        if key not in self._plans:
            part, parameters = self.parts[Kind.SOLVER], self.config.solver.parameters
            steps = ddim_steps(self.schedule, timesteps, eta)
            self._plans[key] = validation.checked_solver(part, parameters, steps)
        return self._plans[key]

    def require_device(self) -> None:
        """Check that the device and the precision are available if they were requested explicitly.

        The check builds a network, which takes seconds.

        Raises:
            UserError: The framework cannot be imported, or the device or precision is not available.
        """
        if self.config.names_hardware:
            self.build_model()

    def build_model(self) -> Model:
        """Connect the processes, and build the network in the framework, with undefined weights.

        Raises:
            UserError: The framework cannot be imported, or the device or precision is not available.
        """
        part = self.parts[Kind.MODEL]
        own = {parameter.name for parameter in part.parameters()}
        parameters = {k: v for k, v in self.config.model.parameters.items() if k in own}
        try:
            _ = self.processes  # connecting selects the device of this process
            return validation.checked_model(
                part,
                lambda: part.make(self.unet.spec, self.config.device, self.config.precision, **parameters),
            )
        except ImportError as error:
            raise UserError(
                f"framework {self.config.plugin.name!r} cannot be imported",
                why=str(error),
                fix=naming_fix(error, self.config.plugin.name, part.distribution)
                or f"install the missing package, or reinstall {part.distribution} with its dependencies",
            ) from error


def assemble(
    request: Request, *, plugins: Plugins | None = None, image_shape: tuple[int, int, int] | None = None
) -> Experiment:
    """Assemble an experiment.

    Args:
        request: The user's request.
        plugins: The result of `load_framework` if it has already been called.
        image_shape: `(H, W, C)` of the images of a trained run, whose data set and other parts of training
            may be missing until they are used; None to read it from the data set.

    Raises:
        UserError: A requested part or value is unknown, has the wrong type, or is not allowed or available.
    """
    plugins = plugins or load_framework(request)
    is_trained = image_shape is not None
    parts, absent = _resolve_parts(request, plugins.registry, is_trained=is_trained)
    source = None
    if image_shape is None:
        data = parts[Kind.DATA]
        source = validation.checked_source(data.part, data.parameters)
        image_shape = source.image_shape
        parts[Kind.DATA] = replace(data, parameters={**data.parameters, **source.resolved})
    config = _resolve(request, plugins, parts, image_shape, absent)
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
    experiment = Experiment(
        config=config,
        parts={kind: resolved.part for kind, resolved in parts.items()},
        image_shape=image_shape,
        schedule=schedule,
        unet=UNet.from_spec(spec),
        observers=observers,
        registry=plugins.registry,
        join_processes=plugins.join_processes,
        absent=absent,
        _source=source,
    )
    if not is_trained:
        _ = experiment.sampler, experiment.loss, experiment.weighting  # raises now if one does not work
    return experiment


def unknown_images() -> UserError:
    """Return the error for a command that needs the images of an imported run but has no `--data`."""
    return UserError(
        "the images that this network was trained on are unknown",
        why="the run was imported, and pipelines do not record their training images",
        fix="add --data, for example --data cifar10 or --data images:path=PATH",
    )


def require_images(request: Request) -> None:
    """Check that a request based on an imported run names a data set; the default would be unrelated.

    Raises:
        UserError: It does not.
    """
    if Kind.DATA not in request.parts:
        raise unknown_images()


def load_framework(request: Request) -> Plugins:
    """Load the plugins with the requested framework, or with the only installed one.

    Raises:
        UserError: None of several frameworks was chosen; see also `plugin.loading.load_plugins`.
    """
    return load_plugins(only_framework() if request.plugin is None else request.plugin)


@dataclass(frozen=True)
class _Resolved:
    """A part, the choice of it, and its parameters; those of a network are resolved later."""

    part: Part
    choice: PartChoice
    parameters: dict[str, Value]


def _resolve_parts(
    request: Request, registry: Registry, *, is_trained: bool
) -> tuple[dict[Kind, _Resolved], dict[Kind, UserError]]:
    """Return the parts, and why recorded parts of a trained run's training are not available."""
    parts, absent = {}, {}
    for kind in PART_KINDS:
        choice = request.parts.get(kind) or default_part(kind, registry)
        try:
            part = registry.find(kind, choice)
            values = {} if kind is Kind.MODEL else part.values(choice.arguments)
        except UserError as error:
            if not (is_trained and kind in PARTS_OF_TRAINING and kind in request.parts):
                raise
            absent[kind] = error
        else:
            parts[kind] = _Resolved(part, choice, values)
    return parts, absent


def _as_recorded(choice: PartChoice) -> PartConfig:
    """Return a part that is not available, as the configuration of a trained run records it."""
    values: dict[str, Any] = {
        name: tuple(given) if isinstance(given, list) else given for name, given in choice.arguments.items()
    }
    return PartConfig(choice.name, choice.distribution or "", "", values)


def _resolve(
    request: Request,
    plugins: Plugins,
    parts: Mapping[Kind, _Resolved],
    image_shape: tuple[int, int, int],
    absent: Collection[Kind],
) -> Config:
    framework = cast("Plugin", plugins.framework)
    values: dict[str, Any] = _settings(request, image_shape[0])
    values["plugin"] = PartConfig(framework.name, framework.distribution, framework.version)
    for kind, resolved in parts.items():
        part, parameters = resolved.part, resolved.parameters
        if kind is Kind.MODEL:
            parameters = _resolve_network(part, resolved.choice, image_shape[0])
        values[kind.option] = PartConfig(part.name, part.distribution, part.version, parameters)
    for kind in absent:
        values[kind.option] = _as_recorded(request.parts[kind])
    return Config(**values)


def _resolve_network(part: Part, choice: PartChoice, image_size: int) -> dict[str, Value]:
    """Resolve the parameters of the factory and of the U-Net, whose defaults depend on the image size."""
    defaults = default_model_parameters(image_size)
    types = typing.get_type_hints(UNetSpec)
    spec = tuple(Parameter(name, types[name], default) for name, default in defaults.items())
    model = part.values(choice.arguments, more=spec)
    if "attention_resolutions" not in choice.arguments:
        # The default depends on the number of levels, which the user may have changed.
        levels = len(cast("tuple[int, ...]", model["channel_multipliers"]))
        model["attention_resolutions"] = default_attention(image_size, levels)
    multipliers = cast("tuple[float, ...]", model["channel_multipliers"])
    model["channel_multipliers"] = tuple(int(m) if m.is_integer() else m for m in map(float, multipliers))
    return model


def _observers(watchers: Watchers | None, registry: Registry) -> tuple[tuple[PartConfig, ...], Observers]:
    """Create the requested observers; return their entries for `config.toml`, and the observers."""
    found, made, absent = [], [], []
    for choice in () if watchers is None else watchers.choices:
        try:
            part = registry.find(Kind.OBSERVER, choice)
            parameters = part.values(choice.arguments)
            observer = validation.checked_observer(part, parameters)
        except UserError as error:
            if watchers is None or not watchers.recorded:
                raise
            absent.append(f"observer {choice.name!r} of this run is skipped: {error.summary}")
            continue
        found.append(PartConfig(part.name, part.distribution, part.version, parameters))
        made.append(Watcher(observer, f"{part.label} of {part.distribution} {part.version}", part.package))
    return tuple(found), Observers(made, absent)


def default_part(kind: Kind, registry: Registry) -> PartChoice:
    """Return the default part: this project's own, even if other distributions provide the same name."""
    name, own = DEFAULT_PARTS[kind], DEFAULT_DISTRIBUTIONS.get(kind)
    is_there = any((part.name, part.distribution) == (name, own) for part in registry.of_kind(kind))
    return PartChoice(name, own if is_there else None, {})


def _settings(request: Request, image_size: int) -> dict[str, Any]:
    """Return all settings, as requested or by default; some defaults depend on the image size."""
    defaults = {name: setting.default for name, setting in SETTINGS.items()} | default_settings(image_size)
    if "epochs" in request.settings:
        defaults["train_steps"] = None
    return {**defaults, **request.settings}
