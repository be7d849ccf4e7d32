"""The experiments of a sweep, one after the other: trained, evaluated, and written down."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

from tqdm import tqdm

from ddim_host.errors import UserError
from ddim_host.files import locked, printable
from ddim_host.progress import progress_bar
from ddim_host.runs import RunDirectory
from ddim_host.sweep.grid import trial_name
from ddim_host.sweep.journal import Journal, Stage
from ddim_host.sweep.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from ddim_host.progress import ProgressReport
    from ddim_host.sweep.grid import Grid
    from ddim_host.sweep.journal import Trial

__all__ = ["StageName", "Sweep", "Todo", "claimed"]

StageName: TypeAlias = Literal["run", "evaluate"]

_DONE = {"run": "trained", "evaluate": "evaluated"}
_JOURNAL = "sweep.json"


@dataclass(frozen=True)
class Todo:
    """An experiment, and what is left to do for it.

    Attributes:
        trial: The experiment.
        stages: The commands to call, in this order; none where it is done.
    """

    trial: Trial
    stages: dict[StageName, tuple[str, ...]]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes the folder of a sweep where it does not exist; no other process may claim it meanwhile.

    Raises:
        UserError: Another process has it, or it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=False):
            yield
    except BlockingIOError:
        raise UserError(
            f"another process runs the sweep in {folder}", fix="wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"cannot use {folder}", why=str(error.strerror or error)) from None


class Sweep:
    """The experiments in one folder, which holds a folder for each run, their logs and the journal.

    Args:
        folder: The folder; it need not exist yet.

    Raises:
        UserError: It holds something else, or its journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal = Journal.read(folder / _JOURNAL)
        if not self._journal.trials and folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and holds no sweep", fix="choose another --out")
        self._processes = Processes()
        self._lock = Lock()

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
            trial = self._journal.trial(options, trial_name(options, varying), taken)
            todo.append(Todo(trial, self._stages(trial, grid.evaluation)))
        return todo

    def check(self, todo: list[Todo]) -> None:
        """Assemble every experiment that is to be trained, so that a mistake is known before the first one.

        Raises:
            UserError: Some cannot be assembled; the reason for the first is told.
        """
        training = [one for one in todo if "run" in one.stages]
        failed: list[tuple[str, str]] = []
        with progress_bar("checking", len(training), unit="experiment", leave=False) as bar:
            for one in training:
                output = io.StringIO()
                code = self._processes.run([*one.stages["run"], "--dry-run"], output, lambda _: None)
                if code:
                    failed.append((one.trial.name, output.getvalue()))
                bar.update()
        if failed:
            name, said = failed[0]
            others = f" (and {len(failed) - 1} others)" if len(failed) > 1 else ""
            reason = said.strip().removeprefix("ddim-host: error: ")
            raise UserError(f"the experiment {name}{others} cannot be run", why=reason)

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
                self._processes.stop()
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
            command = ("evaluate", str(path), *(f"--{name}={value}" for name, value in evaluation.items()))
            known = trial.evaluate
            if stages or known is None or known.exit_code != 0 or known.command != command:
                stages["evaluate"] = command
        return stages

    def _do(self, todo: Todo) -> None:
        trial = todo.trial
        log_path = self.folder / "logs" / f"{trial.name}.log"
        log_path.parent.mkdir(exist_ok=True)
        for name, command in todo.stages.items():
            started = time.perf_counter()
            with log_path.open("a", encoding="utf-8") as log, _Live(trial.name) as live:
                code = self._processes.run(command, log, live.show)
            if code is None:
                return  # everything was stopped
            stage = Stage(command, code, time.perf_counter() - started)
            trial = replace(trial, run=stage) if name == "run" else replace(trial, evaluate=stage)
            with self._lock:
                self._journal.write(trial)
            self._say(trial.name, name, stage, log_path)
            if code:
                return

    def _say(self, trial: str, name: StageName, stage: Stage, log: Path) -> None:
        text = f"{trial}: {_DONE[name]} in {stage.seconds:.1f} s"
        if stage.exit_code:
            last = next(reversed(log.read_text(encoding="utf-8").split("ddim-host: error: ")), "").strip()
            reason = last.splitlines()[0] if last else "it said nothing"
            text = f"{trial}: `{name}` failed with exit code {stage.exit_code}: {reason}; all of it: {log}"
        elif name == "run":
            for row in RunDirectory(self.folder / trial).read_metrics()[-1:]:
                text += f", train loss {row.train_loss:.5f}, test loss {row.test_loss:.5f}"
        tqdm.write(printable(text))


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
