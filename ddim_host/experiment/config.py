"""What a run is, completely: what was asked for, and what that came to."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tomli_w

from ddim_host.errors import UserError, reason
from ddim_host.experiment.settings import SETTINGS, read_setting
from ddim_host.plugin.data import DataFingerprint
from ddim_host.plugin.parameters import PartChoice, Value, convert, parse_choice, suggestion
from ddim_host.plugin.registry import Kind
from ddim_host.system.files import read_text, require_plain
from ddim_host.system.limits import MAX_IMAGE_SIZE, MAX_STEPS
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.framework.interface import Device, Precision

__all__ = [
    "PART_KINDS",
    "Config",
    "PartConfig",
    "Request",
    "preset_names",
    "read_fingerprint",
    "read_image_shape",
    "read_part",
    "read_preset",
    "read_request",
    "read_toml",
    "write_config",
]

PART_KINDS = (
    Kind.DATA,
    Kind.MODEL,
    Kind.NOISE_SCHEDULE,
    Kind.TIMESTEP_SAMPLER,
    Kind.LOSS,
    Kind.LOSS_WEIGHTING,
    Kind.TIMESTEP_SUBSET,
)
"""The parts of a run, in the order in which people read them."""

_PRESETS = Path(__file__).with_name("presets")
_PROVENANCE = "provenance"
_IMAGE_SHAPE = "image_shape"
_FINGERPRINT = "images"

_MAX_TOML_BYTES = 64 << 10
_LONG_KEY = re.compile(
    r"""(?:(?:[\w-]{1,40}+|"(?:[^"\\\n]|\\.){0,40}+"|'[^'\n]{0,40}+')[ \t]*\.[ \t]*){32}"""
)
"""A name of so many names joined by dots; tomllib takes memory like the square of their number."""


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

    Its length is either `train_steps` or `epochs`; the other is None.
    """

    plugin: PartConfig
    data: PartConfig
    model: PartConfig
    noise_schedule: PartConfig
    timestep_sampler: PartConfig
    loss: PartConfig
    loss_weighting: PartConfig
    timestep_subset: PartConfig
    num_train_timesteps: int
    steps: int
    eta: float
    clip: bool
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

    def length(self, num_train_images: int) -> int:
        """The length of the training in optimizer steps."""
        if self.epochs is None:
            return cast("int", self.train_steps)
        return math.ceil(self.epochs * num_train_images / self.batch_size)

    def part(self, kind: Kind) -> PartConfig:
        """The part of one kind."""
        return cast("PartConfig", getattr(self, kind.option))


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as they said.

    Attributes:
        plugin: The framework, or None.
        parts: Parts by kind.
        settings: Values by name, converted and checked.
        epochs: Length of the training in passes over the training images, in place of `train_steps`.
    """

    plugin: str | None = None
    parts: Mapping[Kind, PartChoice] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    epochs: int | None = None

    def over(self, base: Request) -> Request:
        """This request, completed from another one."""
        settings = {**base.settings, **self.settings}
        epochs = self.epochs
        if epochs is not None:
            settings.pop("train_steps", None)
        elif "train_steps" not in self.settings:
            epochs = base.epochs
        parts = {**base.parts}
        if self.plugin not in (None, base.plugin) and Kind.MODEL in parts:
            # The network has a twin of the same name in the other framework, from another distribution.
            parts[Kind.MODEL] = replace(parts[Kind.MODEL], distribution=None)
        return Request(self.plugin or base.plugin, {**parts, **self.parts}, settings, epochs)


def read_request(path: Path) -> Request:
    """Read a TOML file: the `config.toml` of a run, or one written by hand with any part of it.

    A part is a string as on the command line, or a table with `name`, `distribution` and `parameters`.

    Raises:
        UserError: The file cannot be read, is not TOML, or says something that is not known.
    """
    document = read_toml(path)
    document.pop(_PROVENANCE, None)
    kinds = {kind.option: kind for kind in PART_KINDS}
    plugin: str | None = None
    epochs: int | None = None
    parts: dict[Kind, PartChoice] = {}
    settings: dict[str, Value] = {}
    known = ["plugin", "epochs", *kinds, *SETTINGS]
    for key, given in document.items():
        if key == "evaluate" or (key in known and isinstance(given, list)):
            raise UserError(
                f"{key} in {path} is for a sweep",
                why="a run takes one value of everything, and evaluates nothing",
                fix=f"call `ddim-host sweep --config {path}`, or "
                + ("take it out" if key == "evaluate" else "give one value"),
            )
        if key == "plugin":
            # What a run's own file says of the distribution is how it was, not what is to be chosen.
            plugin = given if isinstance(given, str) else read_part(given, "plugin", path).name
        elif key == "epochs":
            epochs = read_epochs(given, origin=f"epochs in {path}")
        elif key in kinds:
            parts[kinds[key]] = read_part(given, key, path)
        elif key in SETTINGS:
            settings[key] = read_setting(key, given, origin=f"{key} in {path}")
        else:
            raise UserError(
                f"{path} has an unknown setting {key!r}{suggestion(key, known)}",
                why=f"known: {', '.join(known)}",
                fix="give --preset on the command line" if key == "preset" else "",
            )
    if epochs is not None and "train_steps" in settings:
        raise UserError(f"{path} gives both epochs and train_steps", fix="remove one of them")
    return Request(plugin, parts, settings, epochs)


def preset_names() -> list[str]:
    """The names of the presets that come with the host."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def read_preset(name: str) -> Request:
    """One of the presets.

    Raises:
        UserError: There is none of this name.
    """
    names = preset_names()
    if name not in names:
        raise UserError(
            f"there is no preset {name!r:.80}{suggestion(name, names)}", why=f"presets: {', '.join(names)}"
        )
    return read_request(_PRESETS / f"{name}.toml")


def read_image_shape(path: Path) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that a run was trained on, from its `config.toml`.

    Raises:
        UserError: The file cannot be read, or does not say.
    """
    provenance = read_toml(path).get(_PROVENANCE)
    shape: Any = provenance.get(_IMAGE_SHAPE) if isinstance(provenance, dict) else None
    if isinstance(shape, list) and len(shape) == 3 and all(type(n) is int for n in shape):
        height, width, channels = shape
        if 1 <= height == width <= MAX_IMAGE_SIZE and channels in (1, 3):
            return height, width, channels
    raise UserError(
        f"{path} does not say what images its run was trained on",
        why=f"[{_PROVENANCE}] should hold {_IMAGE_SHAPE} = [height, width, channels]",
    )


def read_fingerprint(path: Path) -> DataFingerprint | None:
    """Which images a run was trained on, from its `config.toml`.

    Returns:
        What it says; None for a file that was written by hand, and is no run's.

    Raises:
        UserError: The file cannot be read, or is a run's and does not say.
    """
    provenance = read_toml(path).get(_PROVENANCE)
    if provenance is None:
        return None
    try:
        return read_record(DataFingerprint, provenance[_FINGERPRINT])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} does not say which images its run was trained on",
            why=f"[{_PROVENANCE}.{_FINGERPRINT}] should hold num_train, num_test, train_sha256, test_sha256",
            fix=f"take [{_PROVENANCE}] out of a copy of it, and train with --config COPY",
        ) from None


def read_epochs(given: object, *, origin: str) -> int:
    """A number of epochs.

    Raises:
        UserError: It is not an integer from 1 up.
    """
    try:
        epochs = convert(given, int)
    except ValueError:
        epochs = None
    if not isinstance(epochs, int) or not 1 <= epochs <= MAX_STEPS:
        raise UserError(
            f"{origin} cannot be {given!r:.40}", why=f"it takes: integer, from 1 to {MAX_STEPS:,}"
        )
    return epochs


def write_config(
    config: Config,
    image_shape: tuple[int, int, int],
    fingerprint: DataFingerprint,
    provenance: Mapping[str, str],
) -> str:
    """The text of `config.toml`; `read_request`, `read_image_shape` and `read_fingerprint` take it back."""
    document: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, PartConfig):
            parameters = {name: _toml(given) for name, given in value.parameters.items()}
            tables[item.name] = {**dataclasses.asdict(value), "parameters": parameters}
        elif value is not None:
            document[item.name] = value
    origin = {
        **provenance,
        _IMAGE_SHAPE: list(image_shape),
        _FINGERPRINT: dataclasses.asdict(fingerprint),
    }
    return tomli_w.dumps({**document, **tables, _PROVENANCE: origin})


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a TOML file.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        text = read_text(path, _MAX_TOML_BYTES)
        if _LONG_KEY.search(text):
            raise ValueError("too many names are joined by dots")
        document = tomllib.loads(text)
        require_plain(document)
        return document
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}", why=reason(error)) from None
    # Besides its own error, tomllib lets through those of absurdly long numbers and deep nesting.
    except (ValueError, RecursionError) as error:
        raise UserError(f"the configuration {path} is not valid TOML", why=str(error)) from None


def _toml(value: Value) -> object:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def read_part(given: object, key: str, path: Path) -> PartChoice:
    """A part as a TOML file gives it: a text as on the command line, or a table.

    Args:
        given: The value.
        key: Its name in the file.
        path: The file, for the message.

    Raises:
        UserError: It is neither.
    """
    if isinstance(given, str):
        return parse_choice(given)
    if isinstance(given, dict):
        name = given.get("name")
        distribution = given.get("distribution")
        parameters = given.get("parameters", {})
        unknown = given.keys() - {"name", "distribution", "version", "parameters"}
        if (
            isinstance(name, str)
            and isinstance(distribution, str | None)
            and isinstance(parameters, dict)
            and not unknown
        ):
            return PartChoice(name, distribution, parameters)
    raise UserError(
        f"cannot read {key} in {path}",
        why="a part is a string as on the command line, or a table with name, distribution and parameters",
        fix=f'write {key} = "NAME:parameter=value,...", or a table [{key}] with name = "NAME", and its '
        f"parameters below [{key}.parameters]",
    )
