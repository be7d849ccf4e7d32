"""`ddim-host sweep`."""

from __future__ import annotations

import argparse
import itertools
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ddim_host.cli.options import add_evaluate_options, read_list, requested
from ddim_host.errors import UserError, printable
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.defaults import default_features
from ddim_host.plugin.discovery import no_framework_chosen
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind
from ddim_host.report.output import write_report
from ddim_host.run.provenance import this_command
from ddim_host.sweep.grid import AXES, EVALUATION_OPTIONS, Grid, read_grid
from ddim_host.sweep.sweeping import Sweep, claimed
from ddim_host.system.interruption import end_as_by_ctrl_c
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.sweep.sweeping import Todo

__all__ = ["main"]


def main(options: argparse.Namespace) -> int:
    """Run the experiments that the options describe, as far as they are not done.

    Returns:
        The exit code: 0 where all of them are done.

    Raises:
        UserError: An option is not allowed, an experiment cannot be assembled, or the folder cannot be used.
    """
    grid = _asked(options)
    folder = options.out or _next_folder()
    sweep = Sweep(folder)
    todo = sweep.plan(grid)
    print(_overview(folder, todo))
    _check(todo, grid.evaluation)
    if options.dry_run:
        return 0
    if options.jobs > 1:
        print("note: the times of experiments that run at the same time cannot be compared", file=sys.stderr)
    end_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    with claimed(folder, new=options.out is None):
        sweep = Sweep(folder)  # another process may have had it until now
        try:
            sweep.work(sweep.plan(grid), jobs=options.jobs)
        except KeyboardInterrupt:
            print(f"\nddim-host: interrupted; {_how_to_go_on(folder)}", file=sys.stderr)
            return 1
        return _finish(sweep, folder, grid)


def _asked(options: argparse.Namespace) -> Grid:
    """The grid of the options, on top of the file that `--config` names."""
    given = vars(options)
    axes = {name: tuple(values) for name in AXES if (values := given.get(name)) is not None}
    evaluation = {
        name: value for name in EVALUATION_OPTIONS if (value := given[f"evaluate_{name}"]) is not None
    }
    grid = Grid(axes, evaluation if evaluation or options.evaluate else None)
    if options.config is not None:
        grid = grid.over(read_grid(options.config))
    if "plugin" not in grid.axes:
        raise no_framework_chosen()
    return grid


def _check(todo: list[Todo], evaluation: Mapping[str, str] | None) -> None:
    """Assemble every new experiment, so that a mistake is known before the first one is trained.

    One that was begun is left to itself: what is wrong with its files must not hold up the others.

    Raises:
        UserError: Some cannot be assembled, or evaluated; the reason for the first is told.
    """
    steps = _evaluated_steps(evaluation)
    features = _Features(evaluation)
    failed: list[tuple[str, UserError]] = []
    with progress_bar("checking", len(todo), unit="experiment", leave=False) as bar:
        for one in todo:
            if "run" in one.stages and not one.begun:
                try:
                    experiment = assemble(requested(argparse.Namespace(**one.trial.options)))
                    experiment.timesteps()
                    for number in steps:
                        experiment.timesteps(number)
                    features.require(experiment)
                except UserError as error:
                    failed.append((one.trial.name, error))
            bar.update()
    if failed:
        name, first = failed[0]
        others = f" (nor can {len(failed) - 1} others)" if len(failed) > 1 else ""
        why = f"{first.what}; {first.why}" if first.why else first.what
        fix = first.fix.replace("--features", "--evaluate-features")  # as the option is called here
        raise UserError(f"the experiment {name} cannot be run{others}", why=why, notes=first.notes, fix=fix)


def _evaluated_steps(evaluation: Mapping[str, str] | None) -> tuple[int, ...]:
    """Read the options of `evaluate` as it will read them.

    Raises:
        UserError: One of them is not allowed.
    """
    if evaluation is None:
        return ()
    parser = _EvaluateParser(prog="ddim-host", allow_abbrev=False)
    add_evaluate_options(parser)
    options = parser.parse_args(["RUN", *(f"--{name}={value}" for name, value in evaluation.items())])
    for name in ("eta", "seed"):
        text = getattr(options, f"{name}_list")
        if text is not None:
            read_list(name, text)
    if options.features is not None:
        load_plugins().registry.find(Kind.FEATURES, parse_choice(options.features))
    return read_list("steps", options.steps_list)


class _Features:
    """Makes each feature extractor that will be needed once, as `evaluate` will: it may be a download.

    Args:
        evaluation: Options of `evaluate`; None where nothing is to be evaluated.
    """

    def __init__(self, evaluation: Mapping[str, str] | None) -> None:
        self._wanted = evaluation is not None
        self._named = (evaluation or {}).get("features")
        self._outcomes: dict[tuple[object, ...], UserError | None] = {}

    def require(self, experiment: Experiment) -> None:
        """Make sure that the features of an experiment's images can be had.

        Raises:
            UserError: They cannot.
        """
        if not self._wanted:
            return
        name = self._named or default_features(experiment.config.data.name)
        shape = experiment.source.image_shape
        if (name, shape) not in self._outcomes:
            self._outcomes[name, shape] = None
            try:
                with Evaluator(parse_choice(name), shape, MeasureSettings()):
                    pass
            except UserError as error:
                self._outcomes[name, shape] = error
        outcome = self._outcomes[name, shape]
        if outcome is not None:
            raise outcome


class _EvaluateParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("an option of the evaluation is not allowed", why=message)


def _overview(folder: Path, todo: list[Todo]) -> str:
    """What is there, and what will be done."""
    done = sum(not one.stages for one in todo)
    width = max(len(one.trial.name) for one in todo)
    lines = [f"{len(todo)} experiments in {printable(folder)}, {done} of them done"]
    lines += [
        f"  {printable(one.trial.name):<{width}}  {', then '.join(one.stages) or 'done'}"
        + (", resumed" if one.begun else "")
        for one in todo
    ]
    return "\n".join(lines)


def _how_to_go_on(folder: Path) -> str:
    return f"the same command with --out {printable(shlex.quote(str(folder)))} goes on"


def _next_folder() -> Path:
    return next(path for n in itertools.count(1) if not (path := Path("sweeps") / str(n)).exists())


def _finish(sweep: Sweep, folder: Path, grid: Grid) -> int:
    """Write the page of all runs, and say what failed."""
    todo = sweep.plan(grid)
    failed = [one.trial.name for one in todo if one.stages]
    runs = [sweep.folder / trial.name for trial in sweep.trials]
    page = folder / "report.html"
    try:
        for warning in write_report(runs, page, command=this_command()):
            print(f"note: {warning}", file=sys.stderr)
        print(f"wrote {printable(page)}")
    except UserError as error:
        if not failed:
            raise
        print(f"note: no report: {error.what}", file=sys.stderr)
    if failed:
        print(
            f"ddim-host: {len(failed)} of {len(todo)} experiments failed: {', '.join(failed)}; "
            f"{_how_to_go_on(folder)}",
            file=sys.stderr,
        )
    return 1 if failed else 0
