"""One experiment of a sweep: a folder, which is that of its run, too.

Besides what `ddim_host.run.directory` lists it holds

trial.toml     the experiment, resolved, in the format of a run's config.toml; never changed
trial.log      all that its commands print
trial.json     how the commands that a sweep called have ended
failure.json   from a command that fails to the sweep, which takes it away
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
    """A command that was called for an experiment.

    Attributes:
        command: The command without its program: `run`, `--config=...`, ...
        exit_code: How it ended: 0, done; below 0, killed by that signal.
        seconds: How long it took, from the start of its process to its end.
    """

    command: tuple[str, ...]
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """An experiment that was asked for, resolved.

    Attributes:
        values: What was given, by axis.
        varying: The axes after which it is named.
        config: What that came to.
    """

    values: Mapping[str, AxisValue]
    varying: set[str]
    config: Config


class Trial:
    """An experiment, and what was left to do for it when this object was made.

    Attributes:
        path: Its folder, which need not be there yet.
        run: Its run, which need not be there either.
        begun: Whether there is a run, which goes on where it was interrupted.
        stages: The commands to call, in this order; none if it is done.

    Args:
        path: Its folder, absolute: commands are compared, and none may look like an option.
        evaluation: Options of `evaluate`; None if it is not to be evaluated.
        asked: What was asked for; None for one that was found in the folder of a sweep.
        features: Tells the feature extractor for a data set, if `evaluate` has to be told.
    """

    def __init__(
        self,
        path: Path,
        evaluation: Mapping[str, str] | None,
        asked: Asked | None = None,
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
        with contextlib.suppress(UserError):  # `run` will say what is wrong with it
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
            # The folder may have been moved.
            if not trained or known is None or known.exit_code != 0 or known.command[2:] != command[2:]:
                self.stages["evaluate"] = command

    @cached_property
    def identity(self) -> dict[str, Any] | None:
        """The experiment's configuration without versions; None if `trial.toml` is damaged."""
        try:
            return identity(read_toml(self.config_path))
        except UserError:
            return None

    @property
    def _data(self) -> str:
        """The name of its data set; empty if `trial.toml` is damaged."""
        if self.asked is not None:
            return self.asked.config.data.name
        data = (self.identity or {}).get("data")
        return str(data.get("name", "")) if isinstance(data, dict) else ""

    def prepare(self) -> None:
        """Make the folder of a new experiment, with `trial.toml`: both are there afterwards, or nothing is.

        Raises:
            UserError: The folder cannot be made.
        """
        if self.asked is None or self.config_path.exists():
            return
        partial = self.path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with file_errors(f"cannot make {self.path}"):
                partial.mkdir()
                write_text(partial / self.config_path.name, write_config(self.asked.config))
                partial.rename(self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def record(self, name: StageName, stage: Stage) -> None:
        """Keep how a command has ended.

        Raises:
            UserError: The record cannot be written.
        """
        stages = {one: self._recorded(one) for one in get_args(StageName)} | {name: stage}
        record = {one: asdict(known) for one, known in stages.items() if known is not None}
        with file_errors(f"cannot write {self._record_path}"):
            write_text(self._record_path, json.dumps(record, indent=2) + "\n")

    def _recorded(self, name: StageName) -> Stage | None:
        """Return how a command has ended; None if it was not called, or the record is damaged."""
        try:
            return read_record(Stage, read_json(self._record_path)[name])
        except (OSError, KeyError, TypeError, ValueError):
            return None


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a configuration without versions: a run goes on with newer parts, too.

    Whoever observes an experiment, it is the same one.
    """
    return {
        name: {**value, "version": None} if isinstance(value, dict) else value
        for name, value in config.items()
        if name != OBSERVER
    }
