"""The `ddim-host sweep` command."""

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
from ddim_host.evaluation.default_features import OFFLINE, offline_features
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.request import read_evaluation
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.experiment.assembly import assemble, load_framework, require_images
from ddim_host.experiment.config import Request
from ddim_host.plugin.discovery import no_framework_chosen, only_framework
from ddim_host.plugin.loading import load_plugins
from ddim_host.report.output import write_report
from ddim_host.report.summary import summary
from ddim_host.run.provenance import this_command
from ddim_host.sweep.grid import AXES, Grid, read_grid, read_value, requested, trial_name
from ddim_host.sweep.processes import CommandRunner
from ddim_host.sweep.sweeping import Sweep, claimed
from ddim_host.sweep.trial import TrialRequest
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
    """Run the requested experiments, or those already in the folder; skip finished ones.

    Returns:
        The exit code: 0 if all experiments are done or prepared.

    Raises:
        UserError: An option is not allowed, an experiment cannot be assembled, or the folder cannot be used.
    """
    if options.prepare and options.jobs > 1:
        raise UserError(
            "--jobs has no effect with --prepare",
            why="the scheduler decides how many experiments run at a time",
            fix="remove --jobs",
        )
    grid = _requested_grid(options)
    evaluation = None if grid.evaluation is None else read_evaluation(grid.evaluation, prefix="--evaluate-")
    asked = _assembled(grid, evaluation) if grid.axes else None
    if options.out is not None or options.dry_run:
        return _sweep(options, options.out or next(p for p in _folders() if not p.exists()), grid, asked)
    if asked is None:
        raise no_framework_chosen()
    with contextlib.ExitStack() as stack:
        with file_errors("cannot use the folder sweeps/", fix="choose another folder with --out"):
            folder = stack.enter_context(new_folder(_folders()))
        return _sweep(options, folder, grid, asked)


def _sweep(options: argparse.Namespace, folder: Path, grid: Grid, asked: list[TrialRequest] | None) -> int:
    """Run the experiments in a folder, and return the exit code."""
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
            trials, _ = look()  # another process may have used the folder until now
            for trial in trials:
                trial.prepare()
            if options.prepare:
                _print_jobs(sweep, trials, grid)
                return 0
            if options.jobs > 1:
                print(
                    "note: times of experiments that run at the same time are not comparable", file=sys.stderr
                )
            sweep.work(trials, jobs=options.jobs)
        except KeyboardInterrupt:
            print(f"\nddim-host: interrupted; {_how_to_continue(folder)}", file=sys.stderr)
            return 1
        return _finish(folder, *look())


@functools.cache
def _features_to_name(data: str) -> str:
    """Return the value of `evaluate --features`, or an empty string if the default can be used offline."""
    features = offline_features(data, load_plugins().registry)
    return features.name if features == OFFLINE else ""


def _requested_grid(options: argparse.Namespace) -> Grid:
    """Return the grid from the options, which override the file of `--config`.

    Raises:
        UserError: A value cannot be parsed, several frameworks are installed but none was chosen, or
            `--observer` is given without new experiments.
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
    if grid.is_imported:
        for trial in grid.trials():
            require_images(requested(trial))
    if watchers is not None and not grid.axes:
        raise UserError(
            "--observer applies to new experiments only",
            why="without parts and settings, the sweep continues the experiments in its folder",
            fix="remove --observer: each experiment keeps its original observers",
        )
    return grid


def _assembled(grid: Grid, evaluation: EvaluationRequest | None) -> list[TrialRequest]:
    """Assemble every experiment, so that mistakes are found before any training starts.

    Raises:
        UserError: An experiment cannot be assembled or evaluated; the message explains the first failure.
    """
    trials, varying = grid.trials(), grid.varying()
    asked: list[TrialRequest] = []
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
                asked.append(TrialRequest(values, varying, experiment.config))
            except UserError as error:
                failed.append((trial_name(values, varying), error))
            bar.update()
    if failed:
        (name, first), *others = failed
        raise UserError(
            f"the experiment {name} cannot be run{f' (nor can {len(others)} others)' if others else ''}",
            why=first.summary,
            notes=first.notes,
            fix=first.fix.replace("--features", "--evaluate-features"),  # the name of this command's option
        )
    return asked


def _require_evaluation(
    evaluation: EvaluationRequest, experiment: Experiment, registry: Registry, extractors: set[str]
) -> None:
    """Check each number of steps and eta, and create each extractor once, as `evaluate` will.

    Raises:
        UserError: A subset cannot be chosen, the solver does not support an eta, or the extractor is not
            available or does not accept these images.
    """
    for number, eta in itertools.product(evaluation.steps, evaluation.eta):
        experiment.sampling_plan(number, eta)
    features = evaluation.features or offline_features(experiment.config.data.name, registry)
    key = repr((features, experiment.image_shape))
    if key not in extractors:
        extractors.add(key)
        with Evaluator(features, experiment.image_shape, MeasureSettings()):
            pass


def _require_devices(trials: Sequence[Trial]) -> None:
    """Check that devices and precisions requested by name are available, in one process per framework.

    Raises:
        UserError: A device or precision is not available.
    """
    configs = [trial.asked.config for trial in trials if trial.asked is not None]
    wanted = {
        (f"{c.plugin.distribution}/{c.plugin.name}", c.device, c.precision)
        for c in configs
        if c.names_hardware
    }
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
    """Return one line per experiment, with its remaining work."""
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
    """Write the job list, and print how to use it."""
    path, number = sweep.write_jobs(trials)
    finish = ["ddim-host", "sweep", f"--out={sweep.folder}"]
    if grid.evaluation is not None:
        finish += ["--evaluate", *(f"--evaluate-{name}={value}" for name, value in grid.evaluation.items())]
    print(
        f"wrote {printable(path)}: {number} training commands, one per line, to run in any order on any "
        "machine"
    )
    print(f"{'run them':<17} e.g. with GNU parallel: parallel < {printable(shlex.quote(str(path)))}")
    print(f"{'then':<17} {printable(shlex.join(finish))}")


def _how_to_continue(folder: Path) -> str:
    return f"run the command again with --out {printable(shlex.quote(str(folder)))} to continue"


def _folders() -> Iterator[Path]:
    return (Path("sweeps") / str(number) for number in itertools.count(1))


def _finish(folder: Path, trials: Sequence[Trial], known: Sequence[Trial]) -> int:
    """Write the page of all runs in the folder, print their main numbers, and list failed experiments."""
    failed = [trial.name for trial in trials if trial.stages]
    names = {trial.name for trial in trials}
    others = [trial for trial in known if trial.begun and trial.name not in names]
    page = folder / "report.html"
    try:
        runs = [trial.path for trial in (*trials, *others)]
        comparison = write_report(runs, page, command=this_command())
        for warning in comparison.warnings:
            print(f"note: {warning}", file=sys.stderr)
        print(*summary(comparison), f"wrote {printable(page)}", sep="\n")
    except UserError as error:
        if not failed:
            raise
        print(f"note: no report was written: {error.what}", file=sys.stderr)
    if failed:
        print(
            f"ddim-host: {len(failed)} of {len(trials)} experiments failed: {', '.join(failed)}; "
            f"{_how_to_continue(folder)}",
            file=sys.stderr,
        )
    return 1 if failed else 0
