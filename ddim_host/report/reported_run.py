"""Contents of a run directory, as far as they are readable; unreadable files are reported as problems."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from ddim_host.errors import UserError, printable
from ddim_host.evaluation.scores import EvaluationFile, Scores
from ddim_host.experiment.config import PART_KINDS, PARTS_OF_TRAINING
from ddim_host.parts.found_subsets import SubsetsFile
from ddim_host.plugin.discovery import framework_name
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import num_parameters
from ddim_host.run.directory import existing_run
from ddim_host.run.drawing import PictureKind
from ddim_host.run.images import MAX_GRID_BYTES, grid_images
from ddim_host.run.metrics import growth
from ddim_host.run.real_images import FOLDER, TEST_IMAGES, Neighbours, RealGrid
from ddim_host.system.files import natural_key, read_bytes, read_json
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.parts.found_subsets import FoundSubset
    from ddim_host.plugin.data import Images
    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.run.directory import RunDirectory

_Result = TypeVar("_Result")

_DURING_TRAINING = "during-training"
_STEP = re.compile(r"step-(\d{8,12})")


@dataclass(frozen=True)
class _Shown:
    """Fields of a grid's record that the page needs; the record may contain more."""

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
        name: The file name.
        png: The contents of the file.
        record: The record of the sampling; see `drawing.draw`.
    """

    name: str
    png: bytes
    record: dict[str, Any]

    @property
    def protocol(self) -> tuple[object, ...]:
        """Settings that determine the images: the noise and the sampling path."""
        names = ("kind", "rows", "columns", "seed", "timesteps", "eta", "clip", "weights", "checkpoint")
        return (self.solver, *(repr(self.record.get(name)) for name in names))

    @property
    def solver(self) -> str:
        """The solver, as written on the command line."""
        return str(self.record.get("solver", "ddim"))

    @property
    def steps(self) -> str:
        """The number of steps in words, such as `5 steps` or `5 steps (9 calls) with heun`."""
        count, calls = len(self.record["timesteps"]), self.record.get("network_calls")
        known = isinstance(calls, int) and calls != count
        return (
            f"{count} steps"
            + (f" ({calls} calls)" if known else "")
            + (f" with {printable(self.solver)}" if self.solver != "ddim" else "")
        )

    @property
    def kind(self) -> PictureKind:
        """Kind of picture; see `drawing.Drawing`."""
        kind: PictureKind = self.record["kind"]
        return kind

    @property
    def layout(self) -> tuple[int, int | None]:
        """The number of images, and images per row; None for a nearly square grid."""
        rows, columns = self.record["rows"], self.record["columns"]
        return (rows, None) if self.kind == "samples" else (rows * columns, columns)

    @property
    def seconds(self) -> float | None:
        """Sampling time in seconds on a warm device; None if not measured."""
        return _duration(self.record.get("seconds"))

    @property
    def warmup_seconds(self) -> float | None:
        """Time in seconds of compilation and warm-up before sampling; None if not measured."""
        return _duration(self.record.get("warmup_seconds"))


@dataclass(frozen=True)
class Training:
    """Training progress of a run, from its metrics.

    Attributes:
        done: Completed steps or epochs.
        total: Planned steps or epochs.
        unit: `step` or `epoch`.
    """

    done: int
    total: int
    unit: str

    @property
    def is_complete(self) -> bool:
        """True if the training is complete."""
        return self.done >= self.total

    def __str__(self) -> str:
        return f"{self.unit} {self.done:,} of {self.total:,}"


@dataclass(frozen=True)
class DuringTraining:
    """A grid drawn during training.

    Attributes:
        step: The number of training steps before the grid was drawn.
        grid: The grid.
    """

    step: int
    grid: Grid


@dataclass(frozen=True)
class RealImages:
    """Real images to compare with the samples of one grid.

    Attributes:
        grid: The file name of the grid.
        neighbours: Distances to the training images nearest to its samples.
        nearest: Each sample, followed by its nearest training images, uint8 `(N, H, W, C)`.
        test: Some test images, uint8 `(N, H, W, C)`.
    """

    grid: str
    neighbours: Neighbours
    nearest: Images
    test: Images


@dataclass(frozen=True)
class ReportedRun:
    """A run, as shown in a report.

    Attributes:
        name: The end of the run's path, long enough to be unique.
        path: The run directory.
        image_shape: `(H, W, C)`.
        settings: Every part, parameter and setting by name, as text.
        provenance: Versions, hardware and the command; those that changed when the run was resumed say when.
        recorded: The same as recorded at the start, and the list `resumed` of what changed later.
        first_step: The training steps of another run from whose weights this one started; usually 0.
        metrics: The rows of `metrics.csv`.
        scores: Scores from `evaluate`.
        subsets: Timestep subsets from `optimize`.
        grids: Grids of samples.
        training: Training progress; None if the planned length is unknown.
        num_parameters: Number of network parameters; None before the first checkpoint.
        during_training: Grids from the same noise, in order of training step.
        real_images: Real images to compare with a grid; None if there are none.
        problems: Problems found in the run, such as unreadable files.
    """

    name: str
    path: Path
    image_shape: tuple[int, int, int]
    settings: dict[str, str]
    provenance: dict[str, str]
    recorded: dict[str, object]
    first_step: int
    metrics: tuple[EpochMetrics, ...]
    scores: Scores
    subsets: tuple[FoundSubset, ...]
    grids: tuple[Grid, ...]
    training: Training | None
    num_parameters: int | None
    during_training: tuple[DuringTraining, ...]
    real_images: RealImages | None
    problems: tuple[str, ...]

    @property
    def framework(self) -> str:
        """The framework that trained the run."""
        return self.settings["plugin"]


def read_reported_run(path: Path, name: str) -> ReportedRun:
    """Read the files of a run for a report.

    Args:
        path: The run directory.
        name: The name to show.

    Raises:
        UserError: The run does not exist, or its configuration is damaged. Other damage is only
            added to `problems`.
    """
    run = existing_run(path)
    config = run.config
    image_shape = config.image_shape
    problems: list[str] = []

    def read(what: Callable[[], _Result], otherwise: _Result) -> _Result:
        try:
            return what()
        except UserError as error:
            problems.append(f"{error.what}: {error.why}" if error.why else error.what)
            return otherwise

    metrics: list[EpochMetrics] = read(run.read_metrics, [])
    if grown := growth(metrics):
        problems.append(grown)
    return ReportedRun(
        name=name,
        path=path,
        image_shape=image_shape,
        settings=_settings(config),
        provenance=_printable(config.made_with | _imported(config)),
        recorded=_recorded(config),
        first_step=config.first_step,
        metrics=tuple(metrics),
        scores=read(EvaluationFile(path / "evaluation.json").read, Scores()),
        subsets=read(SubsetsFile(path).read, ()),
        grids=tuple(
            grid
            for picture in sorted(run.samples_path.glob("*.png"), key=lambda path: natural_key(path.name))
            if (grid := read(lambda picture=picture: _grid(picture), None)) is not None  # type: ignore[misc]
        ),
        training=read(lambda: _training(run, metrics), None),
        num_parameters=read(lambda: _num_parameters(run), None),
        during_training=tuple(
            DuringTraining(step, grid)
            for step, picture in _during_training(run.samples_path / _DURING_TRAINING)
            if (grid := read(lambda picture=picture: _grid(picture), None)) is not None  # type: ignore[misc]
        ),
        real_images=read(lambda: _real_images(run.samples_path / FOLDER, image_shape), None),
        problems=tuple(problems),
    )


def _training(run: RunDirectory, metrics: list[EpochMetrics]) -> Training | None:
    settings = run.config.request.settings
    steps, epochs = settings.get("train_steps"), settings.get("epochs")
    # A run that only samples the weights of another one has no metrics.
    trained = not metrics and run.is_trained()
    if isinstance(steps, int):
        return Training(steps if trained else metrics[-1].step if metrics else 0, steps, "step")
    if isinstance(epochs, int):
        return Training(epochs if trained else metrics[-1].epoch if metrics else 0, epochs, "epoch")
    return None


def _num_parameters(run: RunDirectory) -> int | None:
    return num_parameters(run.latest_checkpoint()) if run.has_checkpoint() else None


def _during_training(folder: Path) -> list[tuple[int, Path]]:
    """List the grids drawn during training; their file names contain the steps."""
    steps = {int(match[1]): path for path in folder.glob("*.png") if (match := _STEP.fullmatch(path.stem))}
    return sorted(steps.items())


def _real_images(folder: Path, image_shape: tuple[int, int, int]) -> RealImages | None:
    """Read the real images written by `real_images.write_real_images`, if any."""
    names = sorted(path.stem for path in folder.glob("*.json") if path.stem != TEST_IMAGES)
    if not names:
        return None
    [name, *_] = names
    record_path = folder / f"{name}.json"
    with record_errors(record_path):
        neighbours = read_record(Neighbours, read_json(record_path))
        if neighbours.columns < 1 or any(len(row) + 1 != neighbours.columns for row in neighbours.distances):
            raise ValueError("the number of distances does not match the number of training images")
    with record_errors(folder / f"{TEST_IMAGES}.json"):
        test = read_record(RealGrid, read_json(folder / f"{TEST_IMAGES}.json"))
    columns = neighbours.columns
    return RealImages(
        f"{name}.png",
        neighbours,
        _images(folder / f"{name}.png", len(neighbours.distances) * columns, image_shape, columns),
        _images(folder / f"{TEST_IMAGES}.png", test.num_images, image_shape),
    )


def _images(
    picture: Path, count: int, image_shape: tuple[int, int, int], columns: int | None = None
) -> Images:
    try:
        return grid_images(read_bytes(picture, MAX_GRID_BYTES), count, image_shape, columns=columns)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot show {picture}", why=printable(error)) from None


_BEFORE = {Kind.SOLVER: PartChoice("ddim", None, {})}
"""Parts missing from the configurations of older runs."""


_OF_TRAINING = frozenset(
    {"train_steps", "epochs", "lr", "lr_warmup_steps", "ema_decay", "max_grad_norm", "checkpoint_seconds"}
)
"""Settings of an imported run for later training; they do not describe the original training."""


def _settings(config: ConfigFile) -> dict[str, str]:
    """Flatten the configuration to strings, in a readable order."""
    request = config.request
    settings = {"plugin": framework_name(request.plugin or "")}
    for kind in PART_KINDS:
        if config.is_imported and kind in PARTS_OF_TRAINING:
            settings[kind.option] = "unknown (imported)"
            continue
        choice = request.parts.get(kind) or _BEFORE.get(kind)
        if choice is None:
            path = config.path.parent
            raise UserError(f"the configuration in {path} is incomplete", why=f"it has no {kind.option}")
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
    """Return a number of seconds from a file, or None if it is not a valid duration."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return None


def _printable(facts: Mapping[str, str]) -> dict[str, str]:
    return {key: printable(value) for key, value in facts.items()}


def _imported(config: ConfigFile) -> dict[str, str]:
    return {f"imported: {key.replace('_', ' ')}": value for key, value in config.ancestor.items()}


def _recorded(config: ConfigFile) -> dict[str, object]:
    (_, at_start), *later = config.conditions
    resumed = [{"step": step, **_printable(facts)} for step, facts in later]
    return {**_printable(at_start | _imported(config)), **({"resumed": resumed} if resumed else {})}


def _grid(picture: Path) -> Grid | None:
    """Read a grid and its record; return None if the picture is not a grid."""
    record_path = picture.with_suffix(".json")
    try:
        record = read_json(record_path)
        if not isinstance(record, dict):
            raise TypeError("its record is not a JSON object")
        if record.get("kind") not in get_args(PictureKind):
            return None
        shown = read_record(_Shown, record)
        if shown.rows < 1 or shown.columns < 1:
            raise ValueError(f"its record says {shown.rows} rows of {shown.columns} images")
        record |= {"rows": shown.rows, "columns": shown.columns}  # the file may contain strings
        return Grid(picture.name, read_bytes(picture, MAX_GRID_BYTES), record)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot show {picture}", why=printable(error)) from None
    except KeyError as error:
        raise UserError(f"cannot show {picture}", why=f"its record has no {printable(error)}") from None
