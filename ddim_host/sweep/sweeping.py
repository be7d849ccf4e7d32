"""The experiments of a sweep, one after the other: trained, evaluated, and written down."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

from tqdm import tqdm

from ddim_host.errors import UserError, printable, reason
from ddim_host.run.directory import RunDirectory
from ddim_host.sweep.commands import CommandRunner
from ddim_host.sweep.grid import trial_name
from ddim_host.sweep.journal import Journal, Stage
from ddim_host.system.files import locked
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any, TextIO

    from ddim_host.sweep.grid import Grid
    from ddim_host.sweep.journal import Trial
    from ddim_host.system.progress import ProgressReport

__all__ = ["StageName", "Sweep", "Todo", "claimed"]

StageName: TypeAlias = Literal["run", "evaluate"]

_DONE = {"run": "trained", "evaluate": "evaluated"}
_JOURNAL = "sweep.json"
_ERROR = "ddim-host: error: "


@dataclass(frozen=True)
class Todo:
    """An experiment, and what is left to do for it.

    Attributes:
        trial: The experiment.
        stages: The commands to call, in this order; none where it is done.
    """

    trial: Trial
    stages: dict[StageName, tuple[str, ...]]

    @property
    def begun(self) -> bool:
        """Whether its training goes on where it was interrupted."""
        return "--resume" in self.stages.get("run", ())


@contextlib.contextmanager
def claimed(folder: Path, *, new: bool = False) -> Iterator[None]:
    """Makes the folder of a sweep where it does not exist; no other process may claim it meanwhile.

    Args:
        folder: The folder.
        new: Whether it must not exist yet.

    Raises:
        UserError: Another process has it, or it cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=not new)
            stack.enter_context(locked(folder, wait=False))
        except FileExistsError:
            raise UserError(f"{folder} has just been made by another process", fix="call it again") from None
        except BlockingIOError:
            raise UserError(
                f"another process runs the sweep in {folder}", fix="wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise UserError(f"cannot use {folder}", why=reason(error)) from None
        yield


class Sweep:
    """The experiments in one folder, which holds a folder for each run, their logs and the journal.

    Args:
        folder: The folder; it need not exist yet.

    Raises:
        UserError: It holds something else, or its journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # commands are compared, and an option must not begin with a dash
        self._journal = Journal.read(self.folder / _JOURNAL)
        try:
            # One whose journal was moved away still has the logs.
            other = not self._journal.trials and not self._logs.is_dir() and any(self.folder.iterdir())
        except FileNotFoundError:
            other = False
        except OSError as error:
            raise UserError(f"cannot use {folder}", why=reason(error)) from None
        if other:
            raise UserError(f"{folder} exists and holds no sweep", fix="choose another --out")
        self._runner = CommandRunner()
        self._lock = Lock()

    @property
    def _logs(self) -> Path:
        return self.folder / "logs"

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All experiments of the folder, as far as they were begun."""
        return tuple(self._journal.trials.values())

    def plan(self, grid: Grid) -> list[Todo]:
        """What is left to do for each experiment of a grid."""
        varying = grid.varying()
        todo: list[Todo] = []
        for options in grid.trials():
            taken = [one.trial.name for one in todo]
            name = trial_name(options, varying)
            other = self._journal.trials.get(name)
            if other is not None:
                # An earlier command called an experiment so in which something else was the same for all.
                changed = {key for key, value in options.items() if other.options.get(key) != value}
                name = trial_name(options, varying | changed)
            trial = self._journal.trial(options, name, taken)
            todo.append(Todo(trial, self._stages(trial, grid.evaluation)))
        return todo

    def work(self, todo: list[Todo], *, jobs: int = 1) -> None:
        """Do what is left; an experiment that fails does not keep the others from being done.

        Args:
            todo: From `plan`.
            jobs: How many experiments at a time. With more than one their times say little.

        Raises:
            UserError: The folder cannot be written.
            KeyboardInterrupt: The processes have been ended.
        """
        waiting = [one for one in todo if one.stages]
        self._journal.write(*(one.trial for one in todo))  # interrupted ones will be found by their options
        with (
            ThreadPoolExecutor(jobs) as pool,
            progress_bar("sweep", len(waiting), unit="experiment", leave=False) as bar,
        ):
            futures = [pool.submit(self._do, one) for one in waiting]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException:
                self._runner.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _stages(self, trial: Trial, evaluation: Mapping[str, str] | None) -> dict[StageName, tuple[str, ...]]:
        path = self.folder / trial.name
        begun = RunDirectory(path).exists()
        stages: dict[StageName, tuple[str, ...]] = {}
        if not (begun and trial.run is not None and trial.run.exit_code == 0):
            options = [f"--{name.replace('_', '-')}={value}" for name, value in trial.options.items()]
            resume = ["--resume"] if begun else []
            stages["run"] = ("run", *options, f"--out={path}", *resume)
        if evaluation is not None:
            asked = tuple(f"--{name}={value}" for name, value in evaluation.items())
            known = trial.evaluate
            if stages or known is None or known.exit_code != 0 or known.command[2:] != asked:
                stages["evaluate"] = ("evaluate", str(path), *asked)
        return stages

    def _do(self, todo: Todo) -> None:
        """Call the commands of an experiment as long as they succeed."""
        trial = todo.trial
        for name, command in todo.stages.items():
            try:
                done = self._call(trial.name, command)
            except OSError as error:
                tqdm.write(printable(f"{trial.name}: `{name}` could not be run: {reason(error)}"))
                return
            if done is None:
                return  # everything was stopped
            stage, said = done
            trial = replace(trial, run=stage) if name == "run" else replace(trial, evaluate=stage)
            with self._lock:
                self._journal.write(trial)
            tqdm.write(printable(self._outcome(trial.name, name, stage, said)))
            if stage.exit_code:
                return

    def _call(self, trial: str, command: tuple[str, ...]) -> tuple[Stage, _LastWords] | None:
        """Run a command to its end, with its output in the experiment's log."""
        self._logs.mkdir(exist_ok=True)
        started = time.perf_counter()
        with self._log(trial).open("a", encoding="utf-8") as log, _Live(trial) as live:
            log.write(f"$ {shlex.join(('ddim-host', *command))}\n")
            said = _LastWords(log)
            code = self._runner.run(command, said, live.show)
        return None if code is None else (Stage(command, code, time.perf_counter() - started), said)

    def _outcome(self, trial: str, name: StageName, stage: Stage, said: _LastWords) -> str:
        """How a command ended, in one line."""
        if stage.exit_code < 0:
            number = -stage.exit_code
            known = {one.value: one.name for one in signal.Signals}
            ending = f"was killed by {known.get(number, f'signal {number}')}"
        elif stage.exit_code:
            ending = f"failed with exit code {stage.exit_code}: {said.reason or 'it said nothing'}"
        else:
            text = f"{trial}: {_DONE[name]}; the whole process took {stage.seconds:.1f} s"
            return text + (self._training(trial, stage) if name == "run" else "")
        return f"{trial}: `{name}` {ending}; all of it: {self._log(trial)}"

    def _training(self, trial: str, stage: Stage) -> str:
        """How long the training itself took, and what came of it."""
        try:
            metrics = RunDirectory(self.folder / trial).read_metrics()
        except UserError:
            return ""  # a damaged file is said on the page
        text = ""
        if "--resume" not in stage.command:  # else some of it was in an earlier process
            loop = sum(row.seconds + row.warmup_seconds for row in metrics)
            text += f", its training loop {loop:.1f} s"
        for row in metrics[-1:]:
            text += f"; train loss {row.train_loss:.4g}, test loss {row.test_loss:.4g}"
        return text

    def _log(self, trial: str) -> Path:
        return self._logs / f"{trial}.log"


class _LastWords:
    """Passes output on, and remembers why a command failed.

    Args:
        log: Where the output goes.
    """

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._error = ""
        self._last: deque[str] = deque(maxlen=1)

    @property
    def reason(self) -> str:
        """The command's own error, otherwise the last line that says anything."""
        return self._error or "".join(self._last)

    def write(self, text: str) -> None:
        """Take a line."""
        self._log.write(text)
        line = text.strip()
        if line.startswith(_ERROR):
            self._error = line.removeprefix(_ERROR)
        elif line:
            self._last.append(line)

    def flush(self) -> None:
        """Make it readable to others."""
        self._log.flush()


class _Live:
    """The bar of what an experiment's process is doing now.

    Args:
        name: The experiment's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm[Any] | None = None
        self._shown: tuple[str, int | None] | None = None

    def __enter__(self) -> _Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, report: ProgressReport) -> None:
        """Show the newest state; for another kind of work the bar, and its ETA, begin anew."""
        if self._shown != (report.description, report.total):
            if self._bar is not None:
                self._bar.close()
            self._shown = (report.description, report.total)
            self._bar = progress_bar(
                f"{self._name}: {report.description}".rstrip(": "),
                report.total,
                unit=report.unit,
                done=report.done,
                leave=False,
            )
        bar = self._bar
        if bar is not None:
            bar.set_postfix_str(report.postfix, refresh=False)
            bar.update(report.done - bar.n)
