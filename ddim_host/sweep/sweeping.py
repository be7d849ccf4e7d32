"""The experiments in the folder of a sweep, and their remaining work."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import time
import tomllib
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from tqdm import tqdm

from ddim_host.errors import UserError, printable
from ddim_host.experiment.config_file import write_config
from ddim_host.sweep.grid import trial_name
from ddim_host.sweep.processes import PROGRAM, CommandRunner
from ddim_host.sweep.trial import Stage, Trial, identity
from ddim_host.system.failure import read_failure
from ddim_host.system.files import file_errors, is_leftover, locked, natural_key, write_bytes
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import Any

    from ddim_host.sweep.trial import StageName, TrialRequest

_DONE = {"run": "trained", "evaluate": "evaluated"}
_REFRESH_SECONDS = 1.0


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create the folder of a sweep if it is missing, and lock it for this process.

    Raises:
        UserError: Another process has locked it, or it cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            with file_errors(f"cannot use {folder}", passing=BlockingIOError):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder, wait=False))
        except BlockingIOError:
            raise UserError(
                f"another process is running the sweep in {folder}",
                fix="wait for it to finish, or choose another --out",
            ) from None
        yield


class Sweep:
    """The experiments in one folder.

    Args:
        folder: The folder; it need not exist yet.
        evaluation: Options for `evaluate`; None for no evaluation.
        features: Returns the `--features` for a data set, or an empty string for the default; called only if
            `evaluation` does not specify them.
    """

    def __init__(
        self,
        folder: Path,
        evaluation: Mapping[str, str] | None = None,
        features: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.folder = folder.absolute()
        self._evaluation = evaluation
        self._features = features
        self._runner = CommandRunner()
        self._running: dict[str, StageName] = {}

    def trials(self) -> list[Trial]:
        """Return the experiments in the folder, sorted by name, with numbers in numeric order.

        Raises:
            UserError: The folder cannot be read, or is not the folder of a sweep.
        """
        with file_errors(f"cannot use {self.folder}"):
            try:
                entries = [path for path in self.folder.iterdir() if not is_leftover(path)]
            except FileNotFoundError:
                return []
            paths = [path for path in entries if (path / "trial.toml").exists()]
        if entries and not paths:
            raise UserError(f"{self.folder} exists, but is not a sweep folder", fix="choose another --out")
        return [self._trial(path) for path in sorted(paths, key=lambda path: natural_key(path.name))]

    def plan(self, asked: Sequence[TrialRequest], known: Sequence[Trial]) -> list[Trial]:
        """Find the folder of each experiment: an existing one, whatever its name, or a new one.

        Args:
            asked: The requested experiments.
            known: The result of `trials`.
        """
        configs = {trial.name: trial.identity for trial in known}
        found = {_key(config): trial for trial in known if (config := trial.identity) is not None}
        plan: dict[str, Trial] = {}
        for one in asked:
            config = identity(tomllib.loads(write_config(one.config)))
            trial = found.get(_key(config))
            if trial is None:
                name = self._new_name(one, config, configs)
                trial = found[_key(config)] = self._trial(self.folder / name, one)
                configs[name] = config
            plan[trial.name] = trial  # once, even if two requests resolve to the same experiment
        return list(plan.values())

    def write_jobs(self, trials: Sequence[Trial]) -> tuple[Path, int]:
        """Write the remaining training commands, one per line.

        The commands can run in any order, from any folder and on any machine.

        Returns:
            The file, and the number of commands.

        Raises:
            UserError: The file cannot be written.
        """
        path = self.folder / "jobs.txt"
        jobs = [shlex.join((*PROGRAM, *one.stages["run"])) for one in trials if "run" in one.stages]
        if "\n" in "".join(jobs):
            raise UserError(
                f"cannot write {path}", why="a path in it contains a line break", fix="choose another --out"
            )
        with file_errors(f"cannot write {path}"):
            write_bytes(path, os.fsencode("".join(f"{job}\n" for job in jobs)))
        return path, len(jobs)

    def work(self, trials: Sequence[Trial], *, jobs: int = 1) -> None:
        """Run the remaining commands of all experiments; a failed one does not stop the others.

        Args:
            trials: The experiments, in existing folders.
            jobs: Number of experiments to run at a time. With more than one, times are not comparable.

        Raises:
            KeyboardInterrupt: The user interrupted the sweep; all processes have been told to terminate.
        """
        waiting = [trial for trial in trials if trial.stages]
        with (
            ThreadPoolExecutor(jobs) as pool,
            progress_bar("sweep", len(waiting), unit="experiment", leave=False) as bar,
        ):
            try:
                self._show({pool.submit(self._do, trial) for trial in waiting}, len(waiting), bar)
            except BaseException:
                self._runner.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _trial(self, path: Path, asked: TrialRequest | None = None) -> Trial:
        return Trial(path, self._evaluation, asked, self._features)

    def _new_name(
        self, asked: TrialRequest, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any] | None]
    ) -> str:
        """Return a name that is not yet used in the folder."""
        name = trial_name(asked.values, asked.varying)
        other = others.get(name)
        if other is not None:
            # An earlier sweep used this name, with another value on an axis that did not vary there.
            changed = {axis for axis in asked.values if config.get(axis) != other.get(axis)}
            name = trial_name(asked.values, asked.varying | changed)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(one for one in names if one not in others and not (self.folder / one).exists())

    def _show(self, pending: set[Future[None]], total: int, bar: tqdm[Any]) -> None:
        """Wait for the experiments; show progress, running commands, and the estimated time left."""
        bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        started = measured = time.monotonic()
        shown: object = None
        while pending:
            running = ", ".join(f"{name}: {stage}" for name, stage in self._running.copy().items())
            left = "?"
            if bar.n:  # from the mean time of finished experiments
                seconds = (measured - started) / bar.n * (total - bar.n) - (time.monotonic() - measured)
                left = tqdm.format_interval(max(0.0, seconds))
            bar.set_postfix_str(f"{left} left; {running}", refresh=False)
            if sys.stderr.isatty() or shown != (bar.n, running):  # a log has one line per change
                bar.refresh()
                shown = (bar.n, running)
            done, pending = wait(pending, timeout=_REFRESH_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                bar.n += 1
                measured = time.monotonic()

    def _do(self, trial: Trial) -> None:
        """Run the commands of an experiment until one fails, and print the outcome of each."""
        for name, command in trial.stages.items():
            self._running[trial.name] = name
            try:
                with file_errors(f"cannot run `{name}`"):
                    stage = self._call(trial, command)
                if stage is None:
                    return  # the sweep was stopped
                tqdm.write(printable(_outcome(trial, name, stage)))
                trial.record(name, stage)
            except UserError as error:
                tqdm.write(printable(f"{trial.name}: {error.summary}"))
                return
            finally:
                del self._running[trial.name]
            if stage.exit_code:
                return

    def _call(self, trial: Trial, command: tuple[str, ...]) -> Stage | None:
        """Run a command and append its output to the log; return None if the sweep was stopped."""
        trial.failure_path.unlink(missing_ok=True)
        started = time.perf_counter()
        with trial.log_path.open("a", encoding="utf-8", errors="surrogateescape") as log:
            print("$", shlex.join(("ddim-host", *command)), file=log, flush=True)
            code = self._runner.run(command, log, trial.failure_path)
        return None if code is None else Stage(command, code, time.perf_counter() - started)


def _outcome(trial: Trial, name: StageName, stage: Stage) -> str:
    """Describe the outcome of a command in one line."""
    if stage.exit_code == 0:
        text = f"{trial.name}: {_DONE[name]} in {stage.seconds:.1f} s"
        return text + (_training(trial) if name == "run" else "")
    if stage.exit_code < 0:
        names = {one.value: one.name for one in signal.Signals}
        ending = f"was killed by {names.get(-stage.exit_code, f'signal {-stage.exit_code}')}"
    else:
        failure = read_failure(trial.failure_path) or UserError("no reason was recorded")
        trial.failure_path.unlink(missing_ok=True)
        ending = f"failed with exit code {stage.exit_code}: {failure.summary}"
    return f"{trial.name}: `{name}` {ending}; log: {trial.log_path}"


def _training(trial: Trial) -> str:
    """Describe the time spent in the training loop, and the last losses."""
    try:
        metrics = trial.run.read_metrics()
    except UserError:
        return ""  # the page reports a damaged file
    text = ""
    if not trial.begun:  # otherwise an earlier process did part of the training
        loop = sum(row.seconds + row.warmup_seconds for row in metrics)
        text += f", including {loop:.1f} s in the training loop"
    for row in metrics[-1:]:
        text += f"; train loss {row.train_loss:.4g}, test loss {row.test_loss:.4g}"
    return text


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)
