"""The run directory: its files, and how they are created.

config.toml      the resolved experiment, and its provenance
metrics.csv      one row per epoch; see `ddim_host.run.metrics`
checkpoints/     see `ddim_host.run.checkpoints`
left_out.json    names of broken files skipped by `--data images:skip_broken=true`
samples/         grids, each with a JSON file that describes how it was made and how long it took
samples/during-training/  grids drawn by `--sample-every`: step-00000045.png, ...
samples/real/    the training images nearest to samples; see `ddim_host.run.real_images`
report.html      the run on one page
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.experiment.config import training_length
from ddim_host.experiment.config_file import read_config_file, with_resumption
from ddim_host.plugin.parameters import suggestion
from ddim_host.run.checkpoints import latest_checkpoint, load_progress, step_folders, weights_folder
from ddim_host.run.metrics import read_metrics, write_metrics
from ddim_host.system.files import file_errors, is_leftover, locked, new_folder, new_name, write_text
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.run.checkpoints import Measure

TRIAL_FILES = frozenset({"trial.toml", "trial.log", "trial.json", "failure.json"})
"""Files that a sweep adds to the folder of a run, possibly before the run; see `ddim_host.sweep.trial`."""

_UNBEGUN = "unbegun"
"""A file in `checkpoints/` until the run has begun; see `RunDirectory.beginning`."""


class RunDirectory:
    """The folder of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def quoted(self) -> str:
        """The path of the folder, quoted for a shell."""
        return shlex.quote(str(self.path))

    @property
    def config_path(self) -> Path:
        """The path of `config.toml`."""
        return self.path / "config.toml"

    @cached_property
    def config(self) -> ConfigFile:
        """The contents of `config.toml`, read once.

        Raises:
            UserError: The file cannot be read, is not TOML, or has an unknown key or an invalid value.
        """
        return read_config_file(self.config_path)

    @property
    def metrics_path(self) -> Path:
        """The path of `metrics.csv`."""
        return self.path / "metrics.csv"

    @property
    def checkpoints_path(self) -> Path:
        """The path of `checkpoints/`."""
        return self.path / "checkpoints"

    @property
    def samples_path(self) -> Path:
        """The path of `samples/`."""
        return self.path / "samples"

    def training_grid_path(self, step: int) -> Path:
        """Return the path of the grid drawn after `step` training steps, which may not exist."""
        return self.samples_path / "during-training" / f"step-{step:08d}.png"

    @property
    def report_path(self) -> Path:
        """The path of `report.html`."""
        return self.path / "report.html"

    def remove_page(self) -> None:
        """Remove `report.html`, if it exists.

        Raises:
            UserError: The folder cannot be written.
        """
        with self._file_errors():
            self.report_path.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Return whether the folder contains a run.

        Raises:
            UserError: The folder cannot be accessed.
        """
        with self._file_errors():
            return self.config_path.exists()

    def require_free(self) -> None:
        """Check that a new run would overwrite nothing.

        Raises:
            UserError: The path is a file, or a folder with files that are not from a sweep.
        """
        if self.exists():
            raise UserError(
                f"{self.path} already contains a run",
                fix=f"continue it with --resume --out {self.quoted}, or choose another --out",
            )
        with self._file_errors():
            free = not self.path.exists() or (
                self.path.is_dir() and all(map(_is_ignorable, self.path.iterdir()))
            )
        if not free:
            raise UserError(f"{self.path} exists and is not an empty folder", fix="choose another --out")

    def write_config(self, config: str) -> None:
        """Write the configuration, which makes the folder a run.

        Raises:
            UserError: The file cannot be written.
        """
        self.__dict__.pop("config", None)  # drop the cached old configuration
        with self._file_errors():
            write_text(self.config_path, config)

    def record_resumption(self, step: int, made_with: Mapping[str, str]) -> None:
        """Add to the configuration that the run was resumed, with the conditions that have changed.

        This also removes the mark of `beginning`, in case the first process was killed before it could.

        Args:
            step: The step from which the run continues.
            made_with: Versions, hardware and command, by name.

        Raises:
            UserError: The file cannot be read or written.
        """
        self.write_config(with_resumption(self.config_path, step, made_with))
        with self._file_errors():
            (self.checkpoints_path / _UNBEGUN).unlink(missing_ok=True)

    @contextlib.contextmanager
    def beginning(self) -> Iterator[None]:
        """Mark the checkpoints as worthless until the block, which makes the folder a run, has succeeded.

        So if the process is killed within the block, the same command can be run again.

        Raises:
            UserError: The folder cannot be written.
        """
        mark = self.checkpoints_path / _UNBEGUN
        with self._file_errors():
            if mark.exists():
                for folder in step_folders(self.checkpoints_path):
                    shutil.rmtree(folder)
            write_text(mark, "")
        yield
        with self._file_errors():
            mark.unlink()

    def write_left_out(self, names: Sequence[str]) -> None:
        """Write the names of image files that were left out to `left_out.json`.

        Raises:
            UserError: The file cannot be written.
        """
        with self._file_errors():
            write_text(self.path / "left_out.json", json.dumps(names, indent=0) + "\n")

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Create the folder if it is missing, and lock it so that no other process trains the run.

        The lock is held until the page of the run has been written.

        Raises:
            UserError: Another process is training the run, or the folder cannot be used.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._file_errors(passing=BlockingIOError):
                    self.checkpoints_path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.checkpoints_path, wait=False))
            except BlockingIOError:
                raise UserError(
                    f"another process is training the run in {self.path}",
                    fix="wait for it to finish, stop it, or choose another folder with --out",
                ) from None
            yield

    def is_in_training(self) -> bool:
        """Return whether a process is training the run, or writing its samples and its page.

        Raises:
            UserError: The folder cannot be accessed.
        """
        try:
            with (
                self._file_errors(passing=(BlockingIOError, FileNotFoundError)),
                locked(self.checkpoints_path, wait=False),
            ):
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def _file_errors(
        self, *, passing: type[OSError] | tuple[type[OSError], ...] = ()
    ) -> contextlib.AbstractContextManager[None]:
        what = f"cannot use the run directory {self.path}"
        return file_errors(what, fix="choose another folder with --out", passing=passing)

    def has_checkpoint(self) -> bool:
        """Return whether the run has a checkpoint from which training can continue."""
        return latest_checkpoint(self.checkpoints_path) is not None

    def latest_checkpoint(self) -> Path:
        """Return the newest checkpoint from which training can continue.

        Raises:
            UserError: The run has no checkpoint yet.
        """
        folder = latest_checkpoint(self.checkpoints_path)
        if folder is None:
            raise UserError(
                f"the run in {self.path} has no checkpoint yet",
                fix="wait for the first one if the run is being trained; otherwise restart it with "
                f"--resume --out {self.quoted}",
            )
        return folder

    def trained_steps(self) -> int:
        """Return the number of training steps up to the newest checkpoint; 0 if there is none.

        Raises:
            UserError: The checkpoint is damaged.
        """
        return load_progress(self.latest_checkpoint()).step if self.has_checkpoint() else 0

    def is_trained(self) -> bool:
        """Return whether the newest checkpoint is from the last step.

        Raises:
            UserError: The configuration or the newest checkpoint is damaged.
        """
        settings, images = self.config.request.settings, self.config.fingerprint
        if images is None:
            return False
        try:
            length = training_length(settings, images.num_train)
        except KeyError:  # a line was removed from config.toml
            return False
        return self.has_checkpoint() and self.trained_steps() >= length

    def best_checkpoints(self) -> dict[Measure, Path]:
        """Return the folders of the best epochs' weights, as recorded in the newest checkpoint.

        Raises:
            UserError: The run has no checkpoint yet, or the checkpoint is damaged.
        """
        best = load_progress(self.latest_checkpoint()).best
        return {measure: weights_folder(self.checkpoints_path, epoch.step) for measure, epoch in best.items()}

    def read_metrics(self) -> list[EpochMetrics]:
        """Read the rows of metrics written so far; return an empty list if there is no file.

        Raises:
            UserError: The file is damaged.
        """
        return read_metrics(self.metrics_path)

    def write_metrics(self, rows: list[EpochMetrics]) -> None:
        """Write all rows of metrics, replacing the file.

        Raises:
            UserError: The file cannot be written.
        """
        with file_errors(
            f"cannot write {self.metrics_path}", fix="free some disk space, then continue with --resume"
        ):
            write_metrics(self.metrics_path, rows)

    @contextlib.contextmanager
    def new_samples_path(self, stem: str) -> Iterator[Path]:
        """Claim the first of `samples/STEM-1.png`, `-2`, ... that has neither a picture nor a record.

        No other process can claim it within the block. With several ranks, only the first one claims it.

        Raises:
            UserError: The folder cannot be written.
        """
        paths = _numbered(self.samples_path / stem, ".png")
        if not launched().is_first:
            yield next(path for path in paths if not _is_drawn(path))
            return
        with contextlib.ExitStack() as stack:
            with file_errors(f"cannot write to {self.samples_path}", fix="choose another folder with --out"):
                self.samples_path.mkdir(parents=True, exist_ok=True)
                path = stack.enter_context(new_name(paths, _is_drawn))
            yield path


def existing_run(path: Path) -> RunDirectory:
    """Open the run in a folder.

    Raises:
        UserError: The folder does not contain a run.
    """
    run = RunDirectory(path)
    if run.exists():
        return run
    if not path.exists():
        beside = [config.parent.name for config in path.absolute().parent.glob("*/config.toml")]
        prefix = f"{path.parent}/" if path.parent.name else ""
        raise UserError(
            f"there is no run in {path}{suggestion(path.name, beside, prefix=prefix)}",
            why=f"{path.absolute()} does not exist",
        )
    # `runs/first/checkpoints/step-00000450` is two levels below its run.
    above = (RunDirectory(folder) for folder in path.absolute().parents[:2])
    around = [run.path for run in above if run.exists() and run.checkpoints_path.is_dir()]
    raise UserError(
        f"there is no run in {path}",
        why=f"it is inside the run {around[0]}" if around else "it contains no config.toml",
        fix="pass the folder of the run; choose a checkpoint with --checkpoint" if around else "",
    )


@contextlib.contextmanager
def new_run(framework: str, data: str) -> Iterator[RunDirectory]:
    """Create the folder of a run: the first of `runs/FRAMEWORK-DATA-1`, `-2`, ... that does not exist.

    With several ranks, only the first one creates it.

    Raises:
        UserError: The folder cannot be created.
    """
    if not launched().is_first:
        yield RunDirectory(next_run_path(framework, data))
        return
    with contextlib.ExitStack() as stack:
        with file_errors("cannot use the folder runs/", fix="choose another folder with --out"):
            path = stack.enter_context(new_folder(_run_paths(framework, data)))
        yield RunDirectory(path)


def next_run_path(framework: str, data: str) -> Path:
    """Return the path that `new_run` would create now."""
    return next(path for path in _run_paths(framework, data) if not path.exists())


def _run_paths(framework: str, data: str) -> Iterator[Path]:
    return _numbered(Path("runs") / f"{framework}-{data}")


def _is_drawn(path: Path) -> bool:
    return path.exists() or path.with_suffix(".json").exists()


def _is_ignorable(path: Path) -> bool:
    """Return whether a file was left by a sweep, or by a process killed before its run began."""
    if is_leftover(path) or path.name in TRIAL_FILES:
        return True
    if path.name != "checkpoints" or not path.is_dir():
        return False
    return (path / _UNBEGUN).exists() or all(map(is_leftover, path.iterdir()))


def _numbered(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield `PATH-1`, `PATH-2`, ... forever."""
    return (path.with_name(f"{path.name}-{number}{suffix}") for number in itertools.count(1))
