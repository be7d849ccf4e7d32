"""`ddim-host sweep`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shlex
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.cli.options import evaluation_options, requested_watchers
from ddim_host.errors import UserError, printable
from ddim_host.evaluation.default_features import OFFLINE, features_at_hand
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.request import read_evaluation
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.experiment.assembly import assemble, load_framework
from ddim_host.experiment.config import Request
from ddim_host.plugin.discovery import no_framework_chosen, only_framework
from ddim_host.plugin.loading import load_plugins
from ddim_host.report.output import write_report
from ddim_host.run.provenance import this_command
from ddim_host.sweep.grid import AXES, Grid, read_grid, read_value, requested, trial_name
from ddim_host.sweep.processes import CommandRunner
from ddim_host.sweep.sweeping import Sweep, claimed
from ddim_host.sweep.trial import Asked
from ddim_host.system.failure import read_failure
from ddim_host.system.files import file_errors, new_folder
from ddim_host.system.interruption import end_as_by_ctrl_c
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ddim_host.evaluation.request import EvaluationRequest
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.registry import Registry
    from ddim_host.sweep.trial import Trial


def main(options: argparse.Namespace) -> int:
    """Run the experiments that the options describe, or that the folder holds, as far as they are not done.

    Returns:
        The exit code: 0 if all of them are done, or prepared.

    Raises:
        UserError: An option is not allowed, an experiment cannot be assembled, or the folder cannot be used.
    """
    grid = _asked_grid(options)
    evaluation = None if grid.evaluation is None else read_evaluation(grid.evaluation, prefix="--evaluate-")
    asked = _assembled(grid, evaluation) if grid.axes else None
    if options.out is not None or options.dry_run:
        return _sweep(options, options.out or next(p for p in _folders() if not p.exists()), grid, asked)
    if asked is None:
        raise no_framework_chosen()
    with contextlib.ExitStack() as stack:
        with file_errors("cannot use the folder sweeps/", fix="choose another place with --out"):
            folder = stack.enter_context(new_folder(_folders()))
        return _sweep(options, folder, grid, asked)


def _sweep(options: argparse.Namespace, folder: Path, grid: Grid, asked: list[Asked] | None) -> int:
    """Run the experiments in a folder; the exit code."""
    sweep = Sweep(folder, grid.evaluation, _features_to_name)

    def look() -> tuple[list[Trial], list[Trial]]:
        known = sweep.trials()
        return known if asked is None else sweep.plan(asked, known), known

    trials, known = look()
    if not trials:
        raise no_framework_chosen()
    for trial in known:
        if trial.identity is None:
            print(f"note: {printable(trial.config_path)} is damaged", file=sys.stderr)
    print(_overview(folder, trials), flush=True)
    if options.dry_run:
        _require_devices(trials)
        return 0
    end_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    with claimed(folder):
        try:
            trials, _ = look()  # another process may have had the folder until now
            for trial in trials:
                trial.prepare()
            if options.prepare:
                _print_jobs(sweep, trials, grid)
                return 0
            if options.jobs > 1:
                print("note: the times of experiments that run together cannot be compared", file=sys.stderr)
            sweep.work(trials, jobs=options.jobs)
        except KeyboardInterrupt:
            print(f"\nddim-host: interrupted; {_how_to_go_on(folder)}", file=sys.stderr)
            return 1
        return _finish(folder, *look())


@functools.cache
def _features_to_name(data: str) -> str:
    """Return the features that `evaluate` has to be told for a data set; none if its own are at hand."""
    features = features_at_hand(data, load_plugins().registry)
    return features.name if features == OFFLINE else ""


def _asked_grid(options: argparse.Namespace) -> Grid:
    """Return the grid of the options, on top of the file that `--config` names.

    Raises:
        UserError: A value cannot be read, no framework was chosen among several, or nothing is there to
            observe.
    """
    given = vars(options)
    axes = {name: tuple(read_value(name, text) for text in given[name]) for name in AXES if given[name]}
    evaluation = evaluation_options(options)
    watchers = requested_watchers(options)
    grid = Grid(axes, evaluation if evaluation or options.evaluate else None, watchers)
    if options.config is not None:
        grid = grid.over(read_grid(options.config))
    if grid.axes and "plugin" not in grid.axes:
        grid = replace(grid, axes={**grid.axes, "plugin": (only_framework(),)})
    if watchers is not None and not grid.axes:
        raise UserError(
            "--observer is for new experiments",
            why="without parts and settings the sweep goes on with those that its folder holds",
            fix="leave it out: each experiment keeps the observers that it began with",
        )
    return grid


def _assembled(grid: Grid, evaluation: EvaluationRequest | None) -> list[Asked]:
    """Assemble every experiment, so that a mistake is known before the first one is trained.

    Raises:
        UserError: Some cannot be assembled, or evaluated; the reason for the first is told.
    """
    trials, varying = grid.trials(), grid.varying()
    asked: list[Asked] = []
    failed: list[tuple[str, UserError]] = []
    framework, plugins = None, None
    extractors: set[str] = set()
    with progress_bar("checking", len(trials), unit="experiment", leave=False) as bar:
        for values in trials:
            try:
                request = Request(watchers=grid.watchers).over(requested(values))
                if plugins is None or request.plugin != framework:
                    framework, plugins = request.plugin, load_framework(request)
                experiment = assemble(request, plugins=plugins)
                experiment.sampling_plan()
                if evaluation is not None:
                    _require_evaluation(evaluation, experiment, plugins.registry, extractors)
                asked.append(Asked(values, varying, experiment.config))
            except UserError as error:
                failed.append((trial_name(values, varying), error))
            bar.update()
    if failed:
        (name, first), *others = failed
        raise UserError(
            f"the experiment {name} cannot be run{f' (nor can {len(others)} others)' if others else ''}",
            why=first.summary,
            notes=first.notes,
            fix=first.fix.replace("--features", "--evaluate-features"),  # as the option is called here
        )
    return asked


def _require_evaluation(
    evaluation: EvaluationRequest, experiment: Experiment, registry: Registry, extractors: set[str]
) -> None:
    """Try each number of steps and eta, and make each extractor once, as `evaluate` will.

    Raises:
        UserError: There is no such subset, the solver does not work with some eta, or the extractor is not
            available or not made for these images.
    """
    for number, eta in itertools.product(evaluation.steps, evaluation.eta):
        experiment.sampling_plan(number, eta)
    features = evaluation.features or features_at_hand(experiment.config.data.name, registry)
    key = repr((features, experiment.image_shape))
    if key not in extractors:
        extractors.add(key)
        with Evaluator(features, experiment.image_shape, MeasureSettings()):
            pass


def _require_devices(trials: Sequence[Trial]) -> None:
    """Make sure that the frameworks have the devices and precisions that experiments ask for by name.

    Each framework is asked in a process of its own.

    Raises:
        UserError: One of them lacks something.
    """
    configs = [trial.asked.config for trial in trials if trial.asked is not None]
    wanted = {(c.plugin.name, c.device, c.precision) for c in configs if c.names_hardware}
    with tempfile.TemporaryDirectory() as folder:
        failure, log = Path(folder, "failure.json"), Path(folder, "log")
        for plugin, device, precision in sorted(wanted):
            options = (f"--plugin={plugin}", f"--device={device}", f"--precision={precision}")
            with log.open("w", encoding="utf-8") as output:
                code = CommandRunner().run(("run", *options, "--dry-run"), output, failure)
            if code:
                printed = printable(log.read_text(encoding="utf-8", errors="replace")[-500:])
                raise read_failure(failure) or UserError(f"{plugin} cannot use {device}", why=printed)


def _overview(folder: Path, trials: Sequence[Trial]) -> str:
    """Return a line for each experiment: what is left to do for it."""
    done = sum(not trial.stages for trial in trials)
    width = max(len(trial.name) for trial in trials)
    lines = [f"{len(trials)} experiments in {printable(folder)}, {done} of them done"]
    lines += [
        f"  {printable(trial.name):<{width}}  {', then '.join(trial.stages) or 'done'}"
        + (", resumed" if trial.begun and "run" in trial.stages else "")
        for trial in trials
    ]
    return "\n".join(lines)


def _print_jobs(sweep: Sweep, trials: Sequence[Trial], grid: Grid) -> None:
    """Write the jobs, and say what to do with them."""
    path, number = sweep.write_jobs(trials)
    finish = ["ddim-host", "sweep", f"--out={sweep.folder}"]
    if grid.evaluation is not None:
        finish += ["--evaluate", *(f"--evaluate-{name}={value}" for name, value in grid.evaluation.items())]
    print(f"wrote {printable(path)}: {number} trainings, a command a line, for any order and any machine;")
    print(f"{'run them':<17} e.g. with GNU parallel: parallel < {printable(shlex.quote(str(path)))}")
    print(f"{'then':<17} {printable(shlex.join(finish))}")


def _how_to_go_on(folder: Path) -> str:
    return f"the same command with --out {printable(shlex.quote(str(folder)))} goes on"


def _folders() -> Iterator[Path]:
    return (Path("sweeps") / str(number) for number in itertools.count(1))


def _finish(folder: Path, trials: Sequence[Trial], known: Sequence[Trial]) -> int:
    """Write the page of all runs in the folder, and say which of these experiments failed."""
    failed = [trial.name for trial in trials if trial.stages]
    names = {trial.name for trial in trials}
    others = [trial for trial in known if trial.begun and trial.name not in names]
    page = folder / "report.html"
    try:
        runs = [trial.path for trial in (*trials, *others)]
        for warning in write_report(runs, page, command=this_command()):
            print(f"note: {warning}", file=sys.stderr)
        print(f"wrote {printable(page)}")
    except UserError as error:
        if not failed:
            raise
        print(f"note: no report: {error.what}", file=sys.stderr)
    if failed:
        print(
            f"ddim-host: {len(failed)} of {len(trials)} experiments failed: {', '.join(failed)}; "
            f"{_how_to_go_on(folder)}",
            file=sys.stderr,
        )
    return 1 if failed else 0
