"""Which experiments a sweep consists of: every combination of the values of its axes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.experiment.config import PART_KINDS
from ddim_host.experiment.config_file import read_part, read_toml
from ddim_host.experiment.settings import SETTINGS
from ddim_host.plugin.parameters import format_choice, parse_choice, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ddim_host.plugin.parameters import Value

__all__ = ["AXES", "EVALUATION_OPTIONS", "Grid", "read_grid", "trial_name"]

_PARTS = ("plugin", *(kind.option for kind in PART_KINDS))

AXES = (*_PARTS, "preset", *SETTINGS)
"""What can have several values: every part and setting of a run, and presets."""

EVALUATION_OPTIONS = {
    "samples": ("N", "images for each score"),
    "steps": ("N,...", "numbers of steps"),
    "eta": ("X,...", "values of eta"),
    "seed": ("N,...", "seeds of the noise"),
    "features": ("PART", "the feature extractor"),
    "reference": ("train|test", "the real images to compare with"),
    "grids": ("N", "images of each score in a picture"),
}
"""Options of `evaluate` that a sweep passes on: what they take, and what that is."""

_MOST_TRIALS = 10_000
_LONGEST_NAME = 120
"""In bytes, so that a name with a suffix is one that file systems take."""


@dataclass(frozen=True)
class Grid:
    """What was asked for.

    Attributes:
        axes: The values of each part and setting that was given, as on the command line.
        evaluation: Options of `evaluate` with their values; None where nothing is to be evaluated.
    """

    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluation: Mapping[str, str] | None = None

    def over(self, base: Grid) -> Grid:
        """This grid, completed from another one; an axis that both have keeps these values."""
        axes = {**base.axes, **self.axes}
        if axes.get("plugin") != base.axes.get("plugin") and "model" not in self.axes and "model" in axes:
            # The network has a twin of the same name in the other framework, from another distribution.
            axes["model"] = tuple(map(_any_distribution, base.axes["model"]))
        for one, other in (("epochs", "train_steps"), ("train_steps", "epochs")):
            if one in self.axes and other not in self.axes:
                axes.pop(other, None)  # both set the length
        if self.evaluation is None or base.evaluation is None:
            evaluation = base.evaluation if self.evaluation is None else self.evaluation
        else:
            evaluation = {**base.evaluation, **self.evaluation}
        return Grid(axes, evaluation)

    def trials(self) -> list[dict[str, str]]:
        """The options of each experiment; of the axes, in the order of `AXES`, the last one runs fastest.

        Raises:
            UserError: There are absurdly many.
        """
        axes = {name: self.axes[name] for name in AXES if name in self.axes}
        combinations = itertools.product(*(dict.fromkeys(values) for values in axes.values()))
        trials = list(itertools.islice(combinations, _MOST_TRIALS + 1))
        if len(trials) > _MOST_TRIALS:
            raise UserError(f"a sweep of more than {_MOST_TRIALS:,} experiments", fix="give fewer values")
        return [dict(zip(axes, values, strict=True)) for values in trials]

    def varying(self) -> set[str]:
        """The axes with several values."""
        return {name for name, values in self.axes.items() if len(set(values)) > 1}


def read_grid(path: Path) -> Grid:
    """Read a TOML file: like that of a run, but every value may be a list of values.

    The table `evaluate` holds options of the command of that name.

    Raises:
        UserError: The file cannot be read, is not TOML, or says something that is not known.
    """
    document = read_toml(path)
    document.pop("provenance", None)
    evaluation = document.pop("evaluate", None)
    axes = {}
    for key, given in document.items():
        _require_known(key, AXES, path)
        values = given if isinstance(given, list) else [given]
        if not values:
            raise UserError(f"{key} in {path} has no values")
        read = _plugin if key == "plugin" else _part if key in _PARTS else _scalar
        axes[key] = tuple(read(value, key, path) for value in values)
    return Grid(axes, None if evaluation is None else _evaluation(evaluation, path))


def trial_name(options: Mapping[str, str], varying: set[str]) -> str:
    """What an experiment's folder is called: its framework, and the values that others do not share."""
    told = {"plugin", *varying}
    words = [
        value if name == "plugin" else f"{name}={value}" for name, value in options.items() if name in told
    ]
    name = re.sub(r"[^\w.,=+-]+", "-", ",".join(words)).strip("-.").encode()[:_LONGEST_NAME]
    return name.decode(errors="ignore") or "run"


def _evaluation(table: object, path: Path) -> dict[str, str]:
    if not isinstance(table, dict):
        raise UserError(f"evaluate in {path} is not a table", fix="write [evaluate] and its options below")
    options = {}
    for key, given in table.items():
        _require_known(key, EVALUATION_OPTIONS, path)
        values = given if isinstance(given, list) else [given]
        options[key] = ",".join(_scalar(value, f"evaluate.{key}", path) for value in values)
    return options


def _require_known(key: str, known: Collection[str], path: Path) -> None:
    if key not in known:
        raise UserError(
            f"{path} has an unknown setting {key!r}{suggestion(key, [*known])}",
            why=f"known: {', '.join(known)}",
        )


def _plugin(given: object, key: str, path: Path) -> str:
    # What a run's own file says of the distribution is how it was, not what is to be chosen.
    return _scalar(given, key, path) if isinstance(given, str) else read_part(given, key, path).name


def _any_distribution(part: str) -> str:
    name, colon, parameters = part.partition(":")
    return name.rpartition("/")[2] + colon + parameters


def _part(given: object, key: str, path: Path) -> str:
    if isinstance(given, str):
        return _scalar(given, key, path)
    choice = read_part(given, key, path)
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in choice.arguments.items()
    }
    name = f"{choice.distribution}/{choice.name}" if choice.distribution else choice.name
    text = _scalar(format_choice(name, arguments), key, path)
    if parse_choice(text).arguments.keys() != arguments.keys():
        raise UserError(
            f"{key} in {path} cannot be swept over",
            why=f"{text!r:.200} would be read as other parameters, because a text in it looks like one",
            fix="call `ddim-host run --config` with this part, or use another file name",
        )
    return text


def _scalar(given: Value | object, key: str, path: Path) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, int | float | str):
        text = str(given)
        if "\0" not in text:
            return text
    raise UserError(f"cannot read {key} in {path}", why="a value is a number, a text, true or false")
