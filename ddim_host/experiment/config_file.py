"""`config.toml`: the configuration of an experiment, written by a run or by hand."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from ddim_host.errors import UserError
from ddim_host.experiment.config import LENGTHS, PART_KINDS, PartConfig, Request, Watchers
from ddim_host.experiment.settings import SETTINGS, read_setting
from ddim_host.plugin.data import DataFingerprint
from ddim_host.plugin.parameters import PartChoice, parse_choice, suggestion, written
from ddim_host.system.files import file_errors, read_text, require_plain
from ddim_host.system.limits import MAX_IMAGE_SIZE
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.experiment.config import Config
    from ddim_host.plugin.parameters import Value
    from ddim_host.plugin.registry import Kind

_PRESETS = Path(__file__).with_name("presets")
_PROVENANCE = "provenance"
_IMAGE_SHAPE = "image_shape"
_FINGERPRINT = "images"
_IMPORTED = "imported"
_ANCESTOR = "ancestor"
_FIRST_STEP = "first_step"
_RESUMED = "resumed"

OBSERVER = "observer"
"""The key of the observers, which may be a list; they are not part of the experiment."""

_MAX_TOML_BYTES = 4 << 20
"""Maximum file size, enough for the betas of a noise schedule with the maximum number of timesteps."""

_LONG_KEY = re.compile(
    r"""(?:(?:[\w-]{1,40}+|"(?:[^"\\\n]|\\.){0,40}+"|'[^'\n]{0,40}+')[ \t]*\.[ \t]*){32}"""
)
"""A key with 32 or more dotted parts; tomllib's memory use grows with the square of their number."""


@dataclass(frozen=True)
class ConfigFile:
    """The contents of a `config.toml`.

    Attributes:
        path: The file.
        request: The experiment.
        provenance: Versions, hardware and images of the run; None in a file written by hand.
    """

    path: Path
    request: Request
    provenance: object

    @property
    def provenance_table(self) -> dict[str, Any]:
        """The provenance if it is a table, as in the file of a run; otherwise an empty table."""
        return self.provenance if isinstance(self.provenance, dict) else {}

    @property
    def is_imported(self) -> bool:
        """True if the run's weights were imported, so that their training is unknown."""
        return bool(self.imported)

    @property
    def imported(self) -> dict[str, str]:
        """The origin of imported weights, as text by field name; empty if the run was not imported."""
        return _texts(self.provenance_table.get(_IMPORTED))

    @property
    def ancestor(self) -> dict[str, str]:
        """The origin of imported weights from which this run, or an earlier one, started; empty if none."""
        return self.imported or _texts(self.provenance_table.get(_ANCESTOR))

    @property
    def first_step(self) -> int:
        """The training steps of another run from whose weights this one started; 0 if there was none."""
        step = self.provenance_table.get(_FIRST_STEP)
        return step if type(step) is int and step > 0 else 0

    @property
    def conditions(self) -> list[tuple[int, dict[str, str]]]:
        """Versions, hardware and command, by name: at step 0, then what had changed at each resumption."""
        return _conditions(self.provenance_table)

    @property
    def made_with(self) -> dict[str, str]:
        """The conditions in words; those that changed say since when: `1; 2 from step 50`."""
        values: dict[str, list[str]] = defaultdict(list)
        for position, (step, facts) in enumerate(self.conditions):
            for name, value in facts.items():
                values[name].append(f"{value} from step {step:,}" if position else value)
        return {name: "; ".join(of_name) for name, of_name in values.items()}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape `(H, W, C)` of the training images.

        Raises:
            UserError: The file does not record it, or it is out of range.
        """
        shape: Any = self.provenance_table.get(_IMAGE_SHAPE)
        if isinstance(shape, list) and len(shape) == 3 and all(type(n) is int for n in shape):
            height, width, channels = shape
            if 1 <= min(height, width) <= max(height, width) <= MAX_IMAGE_SIZE and channels in (1, 3):
                return height, width, channels
        raise UserError(
            f"{self.path} does not record a valid shape of the training images",
            why=f"[{_PROVENANCE}] must contain {_IMAGE_SHAPE} = [height, width, channels], with height and "
            f"width from 1 to {MAX_IMAGE_SIZE}, and 1 or 3 channels",
        )

    @property
    def fingerprint(self) -> DataFingerprint | None:
        """The fingerprint of the training images; None for an imported run or a file written by hand.

        Raises:
            UserError: The file of a run does not record it.
        """
        if self.provenance is None or self.is_imported:
            return None
        try:
            return read_record(DataFingerprint, self.provenance_table[_FINGERPRINT])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{self.path} does not record a fingerprint of the training images",
                why=f"[{_PROVENANCE}.{_FINGERPRINT}] should contain num_train, num_test, train_sha256, "
                "test_sha256",
                fix=f"copy the file, remove [{_PROVENANCE}] from the copy, and train with --config COPY",
            ) from None


def _conditions(provenance: Mapping[str, Any]) -> list[tuple[int, dict[str, str]]]:
    resumptions = provenance.get(_RESUMED)
    tables = resumptions if isinstance(resumptions, list) else []
    return [
        (0, _texts(provenance)),
        *(
            (table["step"], _texts(table))
            for table in tables
            if isinstance(table, dict) and type(table.get("step")) is int
        ),
    ]


def with_resumption(path: Path, step: int, made_with: Mapping[str, str]) -> str:
    """Return the text of a run's `config.toml` with one more resumption: its step, and what has changed.

    Args:
        path: The file.
        step: The step from which the run continues.
        made_with: Versions, hardware and command, as text by name.

    Raises:
        UserError: The file cannot be read, or is not valid TOML.
    """
    document = read_toml(path)
    provenance = document.get(_PROVENANCE)
    if isinstance(provenance, dict):
        before: dict[str, str] = {}
        for _, facts in _conditions(provenance):
            before |= facts
        changed = {name: value for name, value in made_with.items() if before.get(name) != value}
        resumptions = provenance.setdefault(_RESUMED, [])
        if isinstance(resumptions, list):
            resumptions.append({"step": step, **changed})
    return tomli_w.dumps(document)


def _texts(table: object) -> dict[str, str]:
    """Return the string values of a table."""
    items = table.items() if isinstance(table, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def read_config_file(path: Path) -> ConfigFile:
    """Read the `config.toml` of a run, or a file written by hand with some of its keys.

    A part is a string as on the command line, or a table with `name`, `distribution` and `parameters`.
    Observers may also be a list of these.

    Raises:
        UserError: The file cannot be read, is not TOML, or has an unknown key or an invalid value.
    """
    document = read_toml(path)
    provenance = document.pop(_PROVENANCE, None)
    kinds = {kind.option: kind for kind in PART_KINDS}
    plugin: str | None = None
    parts: dict[Kind, PartChoice] = {}
    settings: dict[str, Value] = {}
    watchers: Watchers | None = None
    known = ["plugin", *kinds, *SETTINGS]
    for key, given in document.items():
        if key == "evaluate" or (key in known and isinstance(given, list)):
            raise UserError(
                f"{key} in {path} is only valid in a sweep",
                why="`ddim-host run` accepts only one value per setting, and does not evaluate",
                fix=f"use `ddim-host sweep --config {path}`, or "
                + ("remove it" if key == "evaluate" else "give it a single value"),
            )
        if key == "plugin":
            plugin = read_framework(given, path)
        elif key in kinds:
            parts[kinds[key]] = read_part(given, key, path)
        elif key in SETTINGS:
            settings[key] = read_setting(key, given, origin=f"{key} in {path}")
        elif key == OBSERVER:
            watchers = Watchers(read_observers(given, path), recorded=provenance is not None)
        else:
            raise UserError(
                f"{path} has an unknown setting {key!r}{suggestion(key, [*known, OBSERVER])}",
                why=f"known settings: {', '.join((*known, OBSERVER))}",
                fix="pass --preset on the command line" if key == "preset" else "",
            )
    if settings.keys() >= LENGTHS:
        raise UserError(f"{path} sets both epochs and train_steps", fix="remove one of them")
    return ConfigFile(path, Request(plugin, parts, settings, watchers), provenance)


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def read_preset(name: str) -> Request:
    """Read a preset.

    Raises:
        UserError: No preset has this name.
    """
    names = preset_names()
    if name not in names:
        raise UserError(
            f"there is no preset {name!r:.80}{suggestion(name, names)}", why=f"presets: {', '.join(names)}"
        )
    return read_config_file(_PRESETS / f"{name}.toml").request


def write_config(config: Config) -> str:
    """Return the text of a `config.toml`, the inverse of `read_config_file`."""
    return tomli_w.dumps(config_document(config))


def write_run_config(
    config: Config,
    image_shape: tuple[int, int, int],
    fingerprint: DataFingerprint,
    provenance: Mapping[str, str],
    *,
    num_left_out: int = 0,
    first_step: int = 0,
    ancestor: Mapping[str, str] | None = None,
) -> str:
    """Return the text of the `config.toml` of a run.

    Args:
        config: The run.
        image_shape: `(H, W, C)` of its images.
        fingerprint: The fingerprint of the images.
        provenance: Versions, hardware and command, as text by name.
        num_left_out: Number of image files that were skipped.
        first_step: The training steps of the run from whose weights this one starts, if any.
        ancestor: Origin of the imported weights from which the run started, if any.
    """
    images: dict[str, Any] = dataclasses.asdict(fingerprint)
    if num_left_out:
        images["num_left_out"] = num_left_out
    origin: dict[str, Any] = {**provenance, _IMAGE_SHAPE: list(image_shape), _FINGERPRINT: images}
    if first_step:
        origin[_FIRST_STEP] = first_step
    if ancestor:
        origin[_ANCESTOR] = dict(ancestor)
    return tomli_w.dumps({**config_document(config), _PROVENANCE: origin})


def write_imported_config(
    config: Config,
    image_shape: tuple[int, int, int],
    origin: Mapping[str, str],
    facts: Mapping[str, str],
    *,
    with_data: bool,
) -> str:
    """Return the text of the `config.toml` of an imported run.

    Args:
        config: The run.
        image_shape: `(H, W, C)` of its images.
        origin: Origin of the weights, as text by name.
        facts: Provenance of the import, as text by name.
        with_data: True if the training images are known; otherwise the file has no data set.
    """
    document = config_document(config)
    if not with_data:
        del document["data"]
    provenance = {**facts, _IMAGE_SHAPE: list(image_shape), _IMPORTED: dict(origin)}
    return tomli_w.dumps({**document, _PROVENANCE: provenance})


def config_document(config: Config) -> dict[str, Any]:
    """Return the document that `write_config` writes, as a dictionary of plain TOML values."""
    document: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, PartConfig):
            tables[item.name] = _part_table(value)
        elif item.name == OBSERVER:
            tables |= {OBSERVER: [_part_table(one) for one in value]} if value else {}
        elif value is not None:
            document[item.name] = value
    return {**document, **tables}


def _part_table(part: PartConfig) -> dict[str, Any]:
    parameters = {written(name): _toml(given) for name, given in part.parameters.items()}
    return {**dataclasses.asdict(part), "parameters": parameters}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: The file cannot be read, or is not valid TOML.
    """
    try:
        with file_errors(f"cannot read the configuration {path}"):
            text = read_text(path, _MAX_TOML_BYTES)
        if _LONG_KEY.search(text):
            raise ValueError("a key has too many dotted parts")
        document = tomllib.loads(text)
        require_plain(document)
        return document
    # Very long numbers and deep nesting raise errors other than tomllib's own.
    except (ValueError, RecursionError) as error:
        raise UserError(f"the configuration {path} is not valid TOML", why=str(error)) from None


def _toml(value: Value) -> object:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def read_observers(given: object, path: Path) -> tuple[PartChoice, ...]:
    """Read the observers of a TOML file: one, or a list.

    Raises:
        UserError: An observer is neither a string nor the table of a part.
    """
    listed = given if isinstance(given, list) else [given]
    return tuple(read_part(one, OBSERVER, path) for one in listed)


def read_framework(given: object, path: Path) -> str:
    """Read the framework of a TOML file, a string or a table, as a value of `--plugin`.

    Raises:
        UserError: The value is neither a string nor the table of a part.
    """
    if isinstance(given, str):
        return given
    part = read_part(given, "plugin", path)
    return f"{part.distribution}/{part.name}" if part.distribution else part.name


def read_part(given: object, key: str, path: Path) -> PartChoice:
    """Read a part of a TOML file: a string as on the command line, or a table.

    Args:
        given: The value.
        key: The key in the file.
        path: The file, for the error message.

    Raises:
        UserError: The value is neither a string nor the table of a part.
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
        why="a part must be a string as on the command line, or a table with name, distribution "
        "and parameters",
        fix=f'write {key} = "NAME:parameter=value,...", or a table [{key}] with name = "NAME", and its '
        f"parameters in [{key}.parameters]",
    )
