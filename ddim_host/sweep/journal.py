"""What was done with each experiment of a sweep; on disk after every stage, so that nothing is done twice."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, reason
from ddim_host.system.files import read_json, write_text
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Journal", "Stage", "Trial"]

_NAME = re.compile(r"(?!logs$)(?![.-])[\w.,=+-]{1,255}")
"""Of a folder in that of the sweep, which also holds the logs; see `grid.trial_name`."""


@dataclass(frozen=True)
class Stage:
    """A command that was called for an experiment.

    Attributes:
        command: The command without its program: `run`, `--plugin=torch`, ...
        exit_code: How it ended: 0, done; below 0, killed by that signal.
        seconds: How long it took, from the start of its process to its end.
    """

    command: tuple[str, ...]
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep.

    Attributes:
        name: Name of its folder.
        options: What was asked for, by option.
        run: The training; None before it has ended.
        evaluate: The evaluation; None before it has ended.
    """

    name: str
    options: dict[str, str]
    run: Stage | None = None
    evaluate: Stage | None = None


@dataclass
class Journal:
    """All experiments of a sweep's folder, those of earlier commands, too.

    Attributes:
        path: The file.
        trials: By name.
    """

    path: Path
    trials: dict[str, Trial] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal in a file; empty where there is none.

        Raises:
            UserError: The file is damaged, or cannot be read.
        """
        try:
            document = read_json(path)
            trials = [read_record(Trial, record) for record in document["trials"]]
            for trial in trials:
                if not _NAME.fullmatch(trial.name):
                    raise ValueError(f"{trial.name!r:.80} cannot be the name of an experiment")
        except FileNotFoundError:
            trials = []
        except OSError as error:
            raise UserError(f"cannot read {path}", why=reason(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is damaged",
                why=f"{type(error).__name__}: {error}",
                fix="move it away: runs that are there already are then continued, not begun again",
            ) from None
        return cls(path, {trial.name: trial for trial in trials})

    def trial(self, options: Mapping[str, str], name: str, taken: Iterable[str] = ()) -> Trial:
        """The experiment with these options; a new one where there is none yet.

        Args:
            options: What was asked for.
            name: What a new one is called, unless another one has that name.
            taken: More names that it cannot have.
        """
        for trial in self.trials.values():
            if trial.options == options:
                return trial
        names = {*self.trials, *taken}
        number = 1
        unique = name
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        return Trial(unique, dict(options))

    def write(self, *trials: Trial) -> None:
        """Keep experiments as they are now.

        Raises:
            UserError: The file cannot be written.
        """
        self.trials |= {trial.name: trial for trial in trials}
        document = {"trials": [asdict(trial) for trial in self.trials.values()]}
        try:
            write_text(self.path, json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}", why=reason(error)) from None
