"""One experiment of a sweep, in its run directory.

Besides the files listed in `ddim_host.run.directory`, the folder contains:

trial.toml     the resolved experiment, in the format of a run's config.toml; never changed
trial.log      the output of all commands
trial.json     the exit codes and times of the commands
failure.json   the error of a failed command, read and removed by the sweep
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ddim_host.errors import UserError
from ddim_host.experiment.config_file import OBSERVER, read_toml, write_config
from ddim_host.run.directory import RunDirectory
from ddim_host.run.execution import is_complete
from ddim_host.system.files import file_errors, read_json, write_text
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ddim_host.experiment.config import Config
    from ddim_host.sweep.grid import AxisValue

StageName: TypeAlias = Literal["run", "evaluate"]


@dataclass(frozen=True)
class Stage:
    """A finished command of an experiment.

    Attributes:
        command: The arguments: `run`, `--config=...`, ...
        exit_code: 0 for success; negative if a signal killed the process.
        seconds: Time from the start of the process to its exit.
    """

    command: tuple[str, ...]
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class TrialRequest:
    """A requested experiment.

    Attributes:
        values: The requested values, by axis.
        varying: The axes that vary in the sweep and appear in the name.
        config: The resolved experiment.
    """

    values: Mapping[str, AxisValue]
    varying: set[str]
    config: Config


class Trial:
    """An experiment, and the commands that remained when this object was created.

    Attributes:
        path: The folder, which may not exist yet.
        run: The run, which may not exist yet.
        begun: True if the run already exists and will be resumed.
        stages: The remaining commands, in order; empty if the experiment is done.

    Args:
        path: The absolute path of the folder; absolute, so that commands can be compared and no path looks
            like an option.
        evaluation: Options for `evaluate`; None for no evaluation.
        asked: The requested experiment; None if it was found in the folder of a sweep.
        features: Returns the `--features` for a data set, or an empty string for the default.
    """

    def __init__(
        self,
        path: Path,
        evaluation: Mapping[str, str] | None,
        asked: TrialRequest | None = None,
        features: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.path = path
        self.asked = asked
        self.name = path.name
        self.run = RunDirectory(path)
        self.config_path = path / "trial.toml"
        self.log_path = path / "trial.log"
        self.failure_path = path / "failure.json"
        self._record_path = path / "trial.json"
        self.begun = trained = False
        with contextlib.suppress(UserError):  # `run` will report the error
            self.begun = self.run.exists()
            trained = self.begun and is_complete(self.run)
        self.stages: dict[StageName, tuple[str, ...]] = {}
        if not trained:
            self.stages["run"] = ("run", f"--config={self.config_path}", f"--out={path}", "--resume")
        if evaluation is not None:
            if "features" not in evaluation and (named := features(self._data)):
                evaluation = {**evaluation, "features": named}
            command = ("evaluate", str(path), *(f"--{name}={value}" for name, value in evaluation.items()))
            known = self._recorded("evaluate")
            # Ignore the path in the comparison, because the folder may have been moved.
            if not trained or known is None or known.exit_code != 0 or known.command[2:] != command[2:]:
                self.stages["evaluate"] = command

    @cached_property
    def identity(self) -> dict[str, Any] | None:
        """The experiment's configuration without versions and observers; None if `trial.toml` is damaged."""
        try:
            return identity(read_toml(self.config_path))
        except UserError:
            return None

    @property
    def _data(self) -> str:
        """The name of the data set; empty if `trial.toml` is damaged."""
        if self.asked is not None:
            return self.asked.config.data.name
        data = (self.identity or {}).get("data")
        return str(data.get("name", "")) if isinstance(data, dict) else ""

    def prepare(self) -> None:
        """Create the folder of a new experiment with its `trial.toml`, atomically.

        Raises:
            UserError: The folder cannot be created.
        """
        if self.asked is None or self.config_path.exists():
            return
        partial = self.path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with file_errors(f"cannot create {self.path}"):
                partial.mkdir()
                write_text(partial / self.config_path.name, write_config(self.asked.config))
                partial.rename(self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def record(self, name: StageName, stage: Stage) -> None:
        """Record the outcome of a command.

        Raises:
            UserError: The record cannot be written.
        """
        stages = {one: self._recorded(one) for one in get_args(StageName)} | {name: stage}
        record = {one: asdict(known) for one, known in stages.items() if known is not None}
        with file_errors(f"cannot write {self._record_path}"):
            write_text(self._record_path, json.dumps(record, indent=2) + "\n")

    def _recorded(self, name: StageName) -> Stage | None:
        """Return the outcome of a command, or None if it has not run or the record is damaged."""
        try:
            return read_record(Stage, read_json(self._record_path)[name])
        except (OSError, KeyError, TypeError, ValueError):
            return None


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration document without versions and observers.

    Experiments are the same if they differ only in the versions of their parts or in their observers.
    """
    return {
        name: {**value, "version": None} if isinstance(value, dict) else value
        for name, value in config.items()
        if name != OBSERVER
    }
