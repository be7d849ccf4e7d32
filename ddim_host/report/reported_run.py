"""Everything that a run directory holds, as far as it is whole; what is not is said and does no harm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from ddim_host.errors import UserError, printable
from ddim_host.evaluation.scores import EvaluationFile, Scores
from ddim_host.experiment.config import PART_KINDS, Request
from ddim_host.parts.found_subsets import SubsetsFile
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.directory import existing_run
from ddim_host.run.drawing import PictureKind
from ddim_host.run.metrics import growth
from ddim_host.system.files import read_bytes, read_json
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.parts.found_subsets import FoundSubset
    from ddim_host.plugin.observation import EpochMetrics

_Result = TypeVar("_Result")

_MOST_GRID_BYTES = 8 << 20
"""A page with larger pictures could not be sent to anybody."""


@dataclass(frozen=True)
class _Shown:
    """What a page says of a grid; a record may hold more."""

    kind: PictureKind
    rows: int
    columns: int
    seed: int
    eta: float
    timesteps: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """A grid of samples, interpolations or trajectories.

    Attributes:
        name: Its file's name.
        png: The file.
        record: How it was made; see `drawing.draw`.
    """

    name: str
    png: bytes
    record: dict[str, Any]

    @property
    def protocol(self) -> tuple[object, ...]:
        """What decides the noise that the images began from and the way that they went."""
        names = ("kind", "rows", "columns", "seed", "timesteps", "eta", "clip", "weights", "checkpoint")
        return (self.solver, *(repr(self.record.get(name)) for name in names))

    @property
    def solver(self) -> str:
        """What followed the timesteps."""
        return str(self.record.get("solver", "ddim"))

    @property
    def steps(self) -> str:
        """How it was sampled: `5 steps`; `5 steps (9 calls) with heun`."""
        count, calls = len(self.record["timesteps"]), self.record.get("network_calls")
        known = isinstance(calls, int) and calls != count
        return (
            f"{count} steps"
            + (f" ({calls} calls)" if known else "")
            + (f" with {printable(self.solver)}" if self.solver != "ddim" else "")
        )

    @property
    def kind(self) -> PictureKind:
        """What its rows are; see `drawing.Drawing`."""
        kind: PictureKind = self.record["kind"]
        return kind

    @property
    def layout(self) -> tuple[int, int | None]:
        """The number of its images, and how many are in a row; None if it is as square as possible."""
        rows, columns = self.record["rows"], self.record["columns"]
        return (rows, None) if self.kind == "samples" else (rows * columns, columns)

    @property
    def seconds(self) -> float | None:
        """How long the sampling took on a warm device; None where nobody measured it."""
        return _duration(self.record.get("seconds"))

    @property
    def warmup_seconds(self) -> float | None:
        """How long compiling and warming up took before."""
        return _duration(self.record.get("warmup_seconds"))


@dataclass(frozen=True)
class ReportedRun:
    """A run as a page shows it.

    Attributes:
        name: What it is called: the end of its path, as far as it is needed to tell it from others.
        path: Its folder.
        image_shape: `(H, W, C)`.
        settings: Every part, parameter and setting by name, as text.
        provenance: Versions, hardware and the command.
        metrics: The rows of `metrics.csv`.
        scores: What `evaluate` measured.
        subsets: The timesteps that were found for it.
        grids: What was drawn from it.
        problems: What could not be read, or is not complete.
    """

    name: str
    path: Path
    image_shape: tuple[int, int, int]
    settings: dict[str, str]
    provenance: dict[str, str]
    metrics: tuple[EpochMetrics, ...]
    scores: Scores
    subsets: tuple[FoundSubset, ...]
    grids: tuple[Grid, ...]
    problems: tuple[str, ...]

    @property
    def framework(self) -> str:
        """The framework that trained it."""
        return self.settings["plugin"]


def read_reported_run(path: Path, name: str) -> ReportedRun:
    """Read a run.

    Args:
        path: Its folder.
        name: What to call it.

    Raises:
        UserError: There is no run, or its configuration is damaged; all else only is a problem of the run.
    """
    run = existing_run(path)
    config = run.config
    request, image_shape = config.request, config.image_shape
    problems: list[str] = []

    def read(what: Callable[[], _Result], otherwise: _Result) -> _Result:
        try:
            return what()
        except UserError as error:
            problems.append(f"{error.what}: {error.why}" if error.why else error.what)
            return otherwise

    metrics: list[EpochMetrics] = read(run.read_metrics, [])
    problems += _unfinished(request, metrics)
    if grown := growth(metrics):
        problems.append(grown)
    return ReportedRun(
        name=name,
        path=path,
        image_shape=image_shape,
        settings=_settings(config),
        provenance=_provenance(config),
        metrics=tuple(metrics),
        scores=read(EvaluationFile(path / "evaluation.json").read, Scores()),
        subsets=read(SubsetsFile(path).read, ()),
        grids=tuple(
            grid
            for picture in sorted(run.samples_path.glob("*.png"))
            if (grid := read(lambda picture=picture: _grid(picture), None)) is not None  # type: ignore[misc]
        ),
        problems=tuple(problems),
    )


def _unfinished(request: Request, metrics: list[EpochMetrics]) -> list[str]:
    """What to say of a run whose training goes on, or was interrupted."""
    if not metrics:
        return []  # which is said where runs are compared
    last, steps, epochs = metrics[-1], request.settings.get("train_steps"), request.settings.get("epochs")
    if isinstance(steps, int):
        done, unit, total = last.step, "step", steps
    elif isinstance(epochs, int):
        done, unit, total = last.epoch, "epoch", epochs
    else:
        return []
    if done >= total:
        return []
    return [f"its training has not come to an end: its metrics end at {unit} {done:,} of {total:,}"]


_BEFORE = {Kind.SOLVER: PartChoice("ddim", None, {})}
"""Parts that the configurations of older runs do not name."""


_OF_TRAINING = frozenset(
    {"train_steps", "epochs", "lr", "lr_warmup_steps", "ema_decay", "max_grad_norm", "checkpoint_seconds"}
)
_PARTS_OF_TRAINING = frozenset({Kind.DATA, Kind.TIMESTEP_SAMPLER, Kind.LOSS, Kind.LOSS_WEIGHTING})
"""What an imported run has for a training that may follow, and what says nothing of the one that was."""


def _settings(config: ConfigFile) -> dict[str, str]:
    """Flat, in the order in which people read them."""
    request = config.request
    settings = {"plugin": request.plugin or ""}
    for kind in PART_KINDS:
        if config.is_imported and kind in _PARTS_OF_TRAINING:
            settings[kind.option] = "unknown (imported)"
            continue
        choice = request.parts.get(kind) or _BEFORE.get(kind)
        if choice is None:
            path = config.path.parent
            raise UserError(f"{path} holds no configuration of a run", why=f"it has no {kind.option}")
        settings[kind.option] = choice.name
        settings |= {f"{kind.option}.{key}": _text(value) for key, value in choice.arguments.items()}
    unknown = _OF_TRAINING if config.is_imported else ()
    settings |= {key: _text(value) for key, value in request.settings.items() if key not in unknown}
    return settings | {"data.images": "unknown (imported)" if config.is_imported else str(config.fingerprint)}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return printable(value)


def _duration(value: object) -> float | None:
    """A number of seconds from a file; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return None


def _provenance(config: ConfigFile) -> dict[str, str]:
    texts = {key: value for key, value in config.provenance_table.items() if isinstance(value, str)}
    texts |= {f"imported: {key.replace('_', ' ')}": value for key, value in config.ancestor.items()}
    return {key: printable(value) for key, value in texts.items()}


def _grid(picture: Path) -> Grid | None:
    """A grid with its record; None for pictures of something else."""
    beside = picture.with_suffix(".json")
    try:
        record = read_json(beside)
        if not isinstance(record, dict):
            raise TypeError("it is no object")
        if record.get("kind") not in get_args(PictureKind):
            return None
        shown = read_record(_Shown, record)
        if shown.rows < 1 or shown.columns < 1:
            raise ValueError(f"it has {shown.rows} rows of {shown.columns} images")
        record |= {"rows": shown.rows, "columns": shown.columns}  # which may have been texts
        return Grid(picture.name, read_bytes(picture, _MOST_GRID_BYTES), record)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot show {picture}", why=printable(error)) from None
    except KeyError as error:
        raise UserError(f"cannot show {picture}", why=f"its record has no {printable(error)}") from None
