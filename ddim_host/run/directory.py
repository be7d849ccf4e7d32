"""The run directory: what is in it, and how it comes to be there.

config.toml      everything resolved, and what it ran on
metrics.csv      a row per epoch; see `ddim_host.run.metrics`
checkpoints/     see `ddim_host.run.checkpoints`
left_out.json    names of broken files that `--data images:skip_broken=true` left out
samples/         grids, each with a JSON file of how it was made and the time it took
report.html      all of it on one page
"""

from __future__ import annotations

import contextlib
import itertools
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.experiment.config_file import read_config_file
from ddim_host.plugin.parameters import suggestion
from ddim_host.run.checkpoints import latest_checkpoint, load_progress, weights_folder
from ddim_host.run.metrics import read_metrics, write_metrics
from ddim_host.system.files import file_errors, is_leftover, locked, new_folder, new_name, write_text
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.run.checkpoints import Measure

TRIAL_FILES = frozenset({"trial.toml", "trial.log", "trial.json", "failure.json"})
"""Files of a sweep in the folder of a run, which may be there before the run; see `ddim_host.sweep.trial`."""


class RunDirectory:
    """The folder of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config_path(self) -> Path:
        """`config.toml`."""
        return self.path / "config.toml"

    @cached_property
    def config(self) -> ConfigFile:
        """The content of `config.toml`, read once.

        Raises:
            UserError: It cannot be read, is not TOML, or says something that is not known.
        """
        return read_config_file(self.config_path)

    @property
    def metrics_path(self) -> Path:
        """`metrics.csv`."""
        return self.path / "metrics.csv"

    @property
    def checkpoints_path(self) -> Path:
        """`checkpoints/`."""
        return self.path / "checkpoints"

    @property
    def samples_path(self) -> Path:
        """`samples/`."""
        return self.path / "samples"

    @property
    def report_path(self) -> Path:
        """`report.html`."""
        return self.path / "report.html"

    def exists(self) -> bool:
        """Whether there is a run here.

        Raises:
            UserError: The path cannot be looked at.
        """
        with self._file_errors():
            return self.config_path.exists()

    def require_free(self) -> None:
        """Make sure that nothing would be overwritten.

        Raises:
            UserError: The path is a file, or a folder that holds more than a sweep has prepared.
        """
        if self.exists():
            raise UserError(
                f"{self.path} already holds a run",
                fix=f"continue it with --resume --out {self.path}, or choose another --out",
            )
        with self._file_errors():
            free = not self.path.exists() or (
                self.path.is_dir() and all(map(_is_nothing, self.path.iterdir()))
            )
        if not free:
            raise UserError(f"{self.path} exists and is not an empty folder", fix="choose another --out")

    def write_config(self, config: str) -> None:
        """Write the configuration: from now on there is a run here.

        Raises:
            UserError: It cannot be written.
        """
        self.__dict__.pop("config", None)  # that of before, if it was read
        with self._file_errors():
            write_text(self.config_path, config)

    def write_left_out(self, names: Sequence[str]) -> None:
        """Write the names of files that were left out of the images, to `left_out.json`.

        Raises:
            UserError: It cannot be written.
        """
        with self._file_errors():
            write_text(self.path / "left_out.json", json.dumps(names, indent=0) + "\n")

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Make the folder, where it is missing; while this lasts, no other process trains a run in it.

        Raises:
            UserError: Another one does, or the folder cannot be used.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._file_errors(passing=BlockingIOError):
                    self.checkpoints_path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.checkpoints_path, wait=False))
            except BlockingIOError:
                raise UserError(
                    f"another process trains the run in {self.path}",
                    fix="wait for it or end it, or name another folder with --out",
                ) from None
            yield

    def _file_errors(
        self, *, passing: type[OSError] | tuple[()] = ()
    ) -> contextlib.AbstractContextManager[None]:
        what = f"cannot use the run directory {self.path}"
        return file_errors(what, fix="choose another place with --out", passing=passing)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint that training can go on from."""
        return latest_checkpoint(self.checkpoints_path) is not None

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint that training can go on from.

        Raises:
            UserError: There is none yet.
        """
        folder = latest_checkpoint(self.checkpoints_path)
        if folder is None:
            raise UserError(
                f"the run in {self.path} has no checkpoint yet",
                fix="wait for its first one if it is being trained, and otherwise begin it again with "
                f"--resume --out {self.path}",
            )
        return folder

    def best_checkpoints(self) -> dict[Measure, Path]:
        """The best epochs' weights, as the newest checkpoint names them.

        Raises:
            UserError: There is no checkpoint yet, or it is damaged.
        """
        best = load_progress(self.latest_checkpoint()).best
        return {measure: weights_folder(self.checkpoints_path, epoch.step) for measure, epoch in best.items()}

    def read_metrics(self) -> list[EpochMetrics]:
        """Read the rows written so far; none if there is no file.

        Raises:
            UserError: The file is damaged.
        """
        return read_metrics(self.metrics_path)

    def write_metrics(self, rows: list[EpochMetrics]) -> None:
        """Write all rows, replacing the file.

        Raises:
            UserError: It cannot be written.
        """
        with self._file_errors():
            write_metrics(self.metrics_path, rows)

    @contextlib.contextmanager
    def new_samples_path(self, stem: str) -> Iterator[Path]:
        """Take the first of `samples/STEM-1.png`, `-2`, ... that does not exist, nor a record beside it.

        No other process takes it while this lasts. Of several processes of one run only the first takes it.

        Raises:
            UserError: The folder cannot be written.
        """
        paths = _numbered(self.samples_path / stem, ".png")
        if not launched().is_first:
            yield next(path for path in paths if not _is_drawn(path))
            return
        with contextlib.ExitStack() as stack:
            with file_errors(f"cannot write into {self.samples_path}", fix="choose another place with --out"):
                self.samples_path.mkdir(parents=True, exist_ok=True)
                path = stack.enter_context(new_name(paths, _is_drawn))
            yield path


def existing_run(path: Path) -> RunDirectory:
    """The run in a folder.

    Raises:
        UserError: There is none.
    """
    run = RunDirectory(path)
    if run.exists():
        return run
    if not path.exists():
        beside = [config.parent.name for config in path.absolute().parent.glob("*/config.toml")]
        raise UserError(f"there is no run in {path}{suggestion(path.name, beside)}", why="it does not exist")
    # `runs/first/checkpoints/step-00000450` is two levels below its run.
    above = (RunDirectory(folder) for folder in path.absolute().parents[:2])
    around = [run.path for run in above if run.exists() and run.checkpoints_path.is_dir()]
    raise UserError(
        f"there is no run in {path}",
        why=f"it is a part of the run {around[0]}" if around else "it holds no config.toml",
        fix="name the run; where a checkpoint can be chosen, it is with --checkpoint" if around else "",
    )


@contextlib.contextmanager
def new_run(framework: str, data: str) -> Iterator[RunDirectory]:
    """Make the folder of a run: the first of `runs/FRAMEWORK-DATA-1`, `-2`, ... that does not exist.

    Of several processes of one run only the first makes it.

    Raises:
        UserError: It cannot be made.
    """
    paths = _numbered(Path("runs") / f"{framework}-{data}")
    if not launched().is_first:
        yield RunDirectory(next(path for path in paths if not path.exists()))
        return
    with contextlib.ExitStack() as stack:
        with file_errors("cannot use the folder runs/", fix="choose another place with --out"):
            path = stack.enter_context(new_folder(paths))
        yield RunDirectory(path)


def _is_drawn(path: Path) -> bool:
    return path.exists() or path.with_suffix(".json").exists()


def _is_nothing(path: Path) -> bool:
    """Tell whether a sweep prepared this, or a process left it that was killed before its run began."""
    if is_leftover(path) or path.name in TRIAL_FILES:
        return True
    return path.name == "checkpoints" and path.is_dir() and not any(path.iterdir())


def _numbered(path: Path, suffix: str = "") -> Iterator[Path]:
    """`PATH-1`, `PATH-2`, ... without end."""
    return (path.with_name(f"{path.name}-{number}{suffix}") for number in itertools.count(1))
