"""Grid of a sweep: every combination of the values of its axes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from ddim_host.errors import UserError
from ddim_host.evaluation.request import EVALUATION_OPTIONS
from ddim_host.experiment.config import LENGTHS, PART_KINDS, Request, Watchers
from ddim_host.experiment.config_file import (
    OBSERVER,
    ConfigFile,
    read_framework,
    read_observers,
    read_part,
    read_preset,
    read_toml,
)
from ddim_host.experiment.settings import SETTINGS, read_setting
from ddim_host.plugin.discovery import framework_name
from ddim_host.plugin.parameters import PartChoice, Value, format_choice, format_value, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

AxisValue: TypeAlias = PartChoice | Value
"""A part as requested, a validated setting, or the name of a framework or preset."""

_PARTS = tuple(kind.option for kind in PART_KINDS)

AXES = ("plugin", *_PARTS, "preset", *SETTINGS)
"""The axes of a grid: the framework, every part and setting of a run, and presets."""

_MOST_TRIALS = 10_000
_LONGEST_NAME = 120
"""Maximum length in bytes, so that file systems accept the name with a suffix."""


@dataclass(frozen=True)
class Grid:
    """The requested sweep.

    Attributes:
        axes: The requested values of each part and setting.
        evaluation: Options for `evaluate`, with values as on the command line; None for no evaluation.
        watchers: The observers of every experiment; None if the user did not specify any.
        is_imported: True if the file is that of an imported run, whose training images are unknown.
    """

    axes: Mapping[str, tuple[AxisValue, ...]] = field(default_factory=dict)
    evaluation: Mapping[str, str] | None = None
    watchers: Watchers | None = None
    is_imported: bool = False

    def over(self, base: Grid) -> Grid:
        """Return this grid, with missing axes and options taken from another grid."""
        taken = LENGTHS if LENGTHS & self.axes.keys() else frozenset()
        inherited = {name: values for name, values in base.axes.items() if name not in taken}
        axes = {**inherited, **self.axes}
        if axes.get("plugin") != base.axes.get("plugin") and "model" in axes and "model" not in self.axes:
            # The new framework's distribution provides its own network of the same name.
            models = cast("tuple[PartChoice, ...]", axes["model"])
            axes["model"] = tuple(replace(model, distribution=None) for model in models)
        evaluation = {**(base.evaluation or {}), **(self.evaluation or {})}
        return Grid(
            axes,
            None if self.evaluation is base.evaluation is None else evaluation,
            base.watchers if self.watchers is None else self.watchers,
            self.is_imported or base.is_imported,
        )

    def trials(self) -> list[dict[str, AxisValue]]:
        """Return the values of each experiment, with axes in the order of `AXES`; the last varies fastest.

        Raises:
            UserError: The grid has more than 10,000 experiments.
        """
        axes = {name: _distinct(self.axes[name]) for name in AXES if name in self.axes}
        trials = list(itertools.islice(itertools.product(*axes.values()), _MOST_TRIALS + 1))
        if len(trials) > _MOST_TRIALS:
            raise UserError(f"a sweep can have at most {_MOST_TRIALS:,} experiments", fix="use fewer values")
        return [dict(zip(axes, values, strict=True)) for values in trials]

    def varying(self) -> set[str]:
        """Return the axes with several distinct values."""
        return {name for name, values in self.axes.items() if len(_distinct(values)) > 1}


def requested(trial: Mapping[str, AxisValue]) -> Request:
    """Return the request for one of a grid's `trials`.

    Raises:
        UserError: Two settings are mutually exclusive, or the preset does not exist.
    """
    given: Mapping[str, Any] = trial
    settings = {name: given[name] for name in SETTINGS if name in given}
    if settings.keys() >= LENGTHS:
        raise UserError("--epochs and --train-steps are mutually exclusive", fix="remove one of them")
    parts = {kind: given[kind.option] for kind in PART_KINDS if kind.option in given}
    request = Request(given.get("plugin"), parts, settings)
    if "preset" in given:
        request = request.over(read_preset(given["preset"]))
    # The runs of a sweep are rarely watched, and grids during training would distort their times.
    return request.over(Request(settings={"sample_every": 0}))


def read_value(name: str, given: object, path: Path | None = None) -> AxisValue:
    """Parse a value of an axis, from the command line or from the TOML file at `path`.

    Raises:
        UserError: The value cannot be read or is not allowed.
    """
    if name in SETTINGS:
        origin = SETTINGS[name].option if path is None else f"{name} in {path}"
        return read_setting(name, given, origin=origin)
    if name == "preset" and isinstance(given, str):
        return given
    if name == "plugin":
        return read_framework(given, path or Path())
    return read_part(given, name, path or Path())


def read_grid(path: Path) -> Grid:
    """Read a TOML file like that of a run, except that every value may be a list.

    The table `evaluate` contains options for the `evaluate` command.

    Raises:
        UserError: The file cannot be read, is not TOML, or has an unknown key or an invalid value.
    """
    document = read_toml(path)
    origin = ConfigFile(path, Request(), document.pop("provenance", None))
    evaluation = document.pop("evaluate", None)
    observers = document.pop(OBSERVER, None)
    axes = {}
    for key, given in document.items():
        _require_known(key, (*AXES, OBSERVER), path)
        values = given if isinstance(given, list) else [given]
        if not values:
            raise UserError(
                f"{key} in {path} has no values", fix="list at least one value, or remove the key"
            )
        axes[key] = tuple(read_value(key, value, path) for value in values)
    return Grid(
        axes,
        None if evaluation is None else _evaluation(evaluation, path),
        None if observers is None else Watchers(read_observers(observers, path)),
        origin.is_imported,
    )


def trial_name(trial: Mapping[str, AxisValue], varying: set[str]) -> str:
    """Return the name of an experiment's folder: its framework and the values of the varying axes."""
    framework = str(trial.get("plugin", ""))
    words = [framework if "plugin" in varying else framework_name(framework)]
    words += [f"{axis}={_text(trial[axis])}" for axis in trial if axis in varying and axis != "plugin"]
    name = re.sub(r"[^\w.,=+-]+", "-", ",".join(filter(None, words))).strip("-.").encode()[:_LONGEST_NAME]
    return name.decode(errors="ignore") or "run"


def _distinct(values: Iterable[AxisValue]) -> list[AxisValue]:
    return list({repr(value): value for value in values}.values())


def _text(value: AxisValue) -> str:
    """Return a value as written on the command line."""
    if not isinstance(value, PartChoice):
        return format_value(value)
    arguments: dict[str, Any] = {
        name: tuple(given) if isinstance(given, list) else given for name, given in value.arguments.items()
    }
    name = f"{value.distribution}/{value.name}" if value.distribution else value.name
    return format_choice(name, arguments)


def _evaluation(table: object, path: Path) -> dict[str, str]:
    if not isinstance(table, dict):
        raise UserError(
            f"evaluate in {path} must be a table", fix="write [evaluate], with its options below it"
        )
    options = {}
    for key, given in table.items():
        _require_known(key, EVALUATION_OPTIONS, path)
        values = given if isinstance(given, list) else [given]
        # A command line cannot contain NUL.
        if not all(isinstance(value, int | float | str) and "\0" not in str(value) for value in values):
            raise UserError(
                f"cannot read evaluate.{key} in {path}",
                why="a value must be a number, a string, true or false",
            )
        options[key] = ",".join(map(format_value, values))
    return options


def _require_known(key: str, known: Collection[str], path: Path) -> None:
    if key not in known:
        raise UserError(
            f"{path} has an unknown setting {key!r}{suggestion(key, [*known])}",
            why=f"the known settings are {', '.join(known)}",
        )
