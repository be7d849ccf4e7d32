"""`ddim-host run`."""

from __future__ import annotations

import dataclasses
import math
import shlex
import signal
import sys
import textwrap
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested
from ddim_host.cli.output import left_out_lines, note_other_images, sampling_line, split_line, times_line
from ddim_host.errors import DivergedError, InterruptedTrainingError, UserError, printable
from ddim_host.experiment.assembly import Experiment, assemble, load_framework, unknown_images
from ddim_host.experiment.config import PART_KINDS, Config, PartConfig, Request
from ddim_host.experiment.config_file import OBSERVER, read_config_file
from ddim_host.experiment.defaults import distinguishing_parameters
from ddim_host.framework.unet import parameters
from ddim_host.plugin.parameters import format_value, shortened, written
from ddim_host.plugin.registry import Kind
from ddim_host.report.output import write_report
from ddim_host.run.checkpoints import load_progress
from ddim_host.run.directory import RunDirectory, existing_run, new_run
from ddim_host.run.execution import is_complete, run_experiment
from ddim_host.run.provenance import this_command
from ddim_host.system.failure import report_failure
from ddim_host.system.interruption import end_as_by_ctrl_c
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    import argparse

    from ddim_host.experiment.config_file import ConfigFile


def main(options: argparse.Namespace) -> int:
    """Run the experiment that the options describe.

    Returns:
        The exit code.

    Raises:
        UserError: See `assembly.assemble` and `execution.run_experiment`.
    """
    config_file = None if options.config is None else read_config_file(options.config)
    request = requested(options, config_file)
    if _is_resumed(options):
        directory: RunDirectory | None
        experiment, directory = _resumed(options, request)
        start: RunDirectory | None = directory
    else:
        start = None if options.start_from is None else existing_run(options.start_from)
        if start is not None:
            start.latest_checkpoint()  # raises where there is none
        whole = request.over(start.config.request) if start else request
        if start is not None and start.config.is_imported and Kind.DATA not in whole.parts:
            raise unknown_images()
        experiment = assemble(whole)
        experiment.sampling_plan()  # a subset or solver that does not work is an error before the training
        directory = None if options.out is None else RunDirectory(options.out)
    print(describe(experiment))
    complete = directory is not None and start is directory and is_complete(directory)
    if start is not None:
        _say_what_is_left(start, experiment.config, resumed=start is directory, complete=complete)
    if options.dry_run:
        experiment.require_device()
        return 0
    if complete:
        return 0
    if directory is None:
        with new_run(experiment.config.plugin.name, experiment.config.data.name) as directory:
            return _carry_out(experiment, directory, start, config_file)
    if start is not directory and launched().is_first:
        directory.require_free()
    return _carry_out(experiment, directory, start, config_file)


def _carry_out(
    experiment: Experiment, directory: RunDirectory, start: RunDirectory | None, config: ConfigFile | None
) -> int:
    """Run it, and say how it went, where this is the first process; the exit code."""
    is_first = launched().is_first
    end_as_by_ctrl_c(signal.SIGTERM)
    try:
        images = experiment.images
        print(split_line(images), *left_out_lines(images), sep="\n", flush=True)
        if start is not directory:  # a resumed run refuses other images
            if start is not None:
                _require_longer(start, experiment.config, experiment.config.length(len(images.train)))
                config = start.config
            if config is not None:
                note_other_images(config, images)
        done = run_experiment(experiment, directory, start=start, command=this_command())
    except DivergedError:
        return _diverged(directory)
    except InterruptedTrainingError as stop:
        return _interrupted(directory, str(stop))
    except KeyboardInterrupt:
        return _interrupted(directory, "interrupted")
    if not is_first:
        return 0
    for last in directory.read_metrics()[-1:]:
        print(f"trained {last.step} steps: train loss {last.train_loss:.4g}, test loss {last.test_loss:.4g}")
    if done.growth:
        warning = UserError(
            done.growth, fix="use a smaller --lr, or the weights of a better epoch (--checkpoint best-test)"
        )
        print(f"ddim-host: warning: {warning}", file=sys.stderr)
    print(times_line(experiment.config.num_images, done.times))
    print(f"wrote {printable(done.picture)}")
    write_report([directory.path], directory.report_path, command=this_command())
    print(f"wrote {printable(directory.report_path)}")
    return 0


def _diverged(run: RunDirectory) -> int:
    """Say that training stopped, and what is left; the exit code."""
    if not launched().is_first:
        return 1
    kept = "there was no checkpoint yet"
    if run.has_checkpoint():
        kept = f"the last whole checkpoint is {printable(run.latest_checkpoint())}"
    error = UserError(
        "a loss or a weight is no longer a finite number; training stopped",
        fix=f"use a smaller --lr; {kept}",
    )
    print(f"ddim-host: error: {error}", file=sys.stderr)
    report_failure(error)
    return 1


def _interrupted(run: RunDirectory, what: str) -> int:
    """Say how to go on; the exit code."""
    if not launched().is_first:
        return 1
    go_on = f"; go on with: ddim-host run --resume --out {shlex.quote(str(run.path))}"
    print(f"\nddim-host: {what}{printable(go_on) if run.exists() else ''}", file=sys.stderr)
    report_failure(UserError(what))
    return 1


def describe(experiment: Experiment) -> str:
    """What was assembled, part by part, with who provides it."""
    config = experiment.config
    lines = _part_lines("plugin", config.plugin)
    for kind in PART_KINDS:
        lines += _resolved_lines(kind, config)
    for observer in config.observer:
        lines += _part_lines(Kind.OBSERVER.words, observer)
    length = f"{config.train_steps:,} steps" if config.epochs is None else f"{config.epochs:,} epochs"
    lines += [
        f"{'images':<17} {experiment.source.description}",
        *_network_lines(experiment),
        f"{'training':<17} {length} of {config.batch_size} images, lr {config.lr:g}, "
        f"EMA {config.ema_decay:g}, seed {config.seed}",
        sampling_line(experiment, config.num_images),
    ]
    return "\n".join(lines)


def describe_network(experiment: Experiment) -> list[str]:
    """The network and the noise that it knows, line by line."""
    config = experiment.config
    kinds = (Kind.MODEL, Kind.NOISE_SCHEDULE)
    parts = [line for kind in kinds for line in _resolved_lines(kind, config)]
    return [*_part_lines("plugin", config.plugin), *parts, *_network_lines(experiment)]


def _network_lines(experiment: Experiment) -> list[str]:
    config = experiment.config
    size = sum(math.prod(parameter.shape) for parameter in parameters(experiment.unet))
    stretched = ", stretched to end in pure noise" if config.rescale_zero_snr else ""
    return [
        f"{'network':<17} {size:,} parameters, predicts {config.prediction_type}, device {config.device}, "
        f"precision {config.precision}",
        f"{'timesteps':<17} {config.num_train_timesteps:,}{stretched}",
    ]


def _resolved_lines(kind: Kind, config: Config) -> list[str]:
    part = config.part(kind)
    if kind is Kind.MODEL:
        part = dataclasses.replace(part, parameters=distinguishing_parameters(part.parameters))
    return _part_lines(kind.words, part)


def _part_lines(title: str, part: PartConfig) -> list[str]:
    """A part and its distribution, and below them its parameters, as wide as a terminal."""
    settings = [
        f"{written(name)}={shortened(format_value(value), 100)}" for name, value in part.parameters.items()
    ]
    indent = " " * 18
    below = textwrap.wrap(
        "  ".join(settings),
        width=100,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"{title:<17} {part.name} ({part.distribution} {part.version})", *below]


def _is_resumed(options: argparse.Namespace) -> bool:
    """Return whether to go on with the run in --out: with --config there need not be one yet.

    Raises:
        UserError: --resume has no --out, or is given with --start-from.
    """
    if not options.resume:
        return False
    if options.out is None:
        raise UserError("--resume needs to know which run", fix="add --out DIR")
    if options.start_from is not None:
        raise UserError("--resume and --start-from exclude each other", fix="give one of them")
    return options.config is None or RunDirectory(options.out).exists()


def _resumed(options: argparse.Namespace, request: Request) -> tuple[Experiment, RunDirectory]:
    """The experiment of an existing run; options may repeat its settings, but not change them."""
    directory = existing_run(options.out)
    if directory.config.is_imported:
        raise UserError(
            f"the run in {directory.path} was imported, and there is no training of it to resume",
            fix=f"train its network on with --start-from {directory.path}",
        )
    stored = directory.config.request
    plugins = load_framework(stored)
    # Observers change nothing in a run, so the rest of it may have others.
    experiment = assemble(Request(watchers=request.watchers).over(stored), plugins=plugins)
    if request.plugin in (None, stored.plugin):
        asked = assemble(request.over(stored), plugins=plugins)
        changed = _differences(experiment.config, asked.config)
    else:
        changed = ["plugin"]
    if changed:
        raise UserError(
            f"a resumed run keeps its settings, but these differ: {', '.join(changed)}",
            why=f"they are stored in {directory.config_path}",
            fix=f"leave these options out, or begin another run with --start-from {directory.path}",
        )
    return experiment, directory


def _say_what_is_left(start: RunDirectory, config: Config, *, resumed: bool, complete: bool) -> None:
    """Say where a run goes on, and where there is little or nothing left to do.

    Raises:
        UserError: A new run would have fewer steps than the weights that it begins with.
    """
    taken = _taken(start)
    length = config.train_steps
    if length is not None and not resumed:
        _require_longer(start, config, length)
    print(f"{'begins':<17} after {taken:,} steps, with the newest checkpoint of {printable(start.path)}")
    if complete:
        print(f"{'':<17} nothing is left to do (more: --start-from RUN --train-steps N)")
    elif length is not None and taken >= length:
        print(f"{'':<17} nothing is left to train; it only samples (more: --start-from RUN --train-steps N)")


def _taken(run: RunDirectory) -> int:
    """The steps that a run has taken up to its newest checkpoint."""
    return load_progress(run.latest_checkpoint()).step if run.has_checkpoint() else 0


def _require_longer(start: RunDirectory, config: Config, length: int) -> None:
    """Make sure that a new run has no fewer steps than the weights that it begins with.

    Args:
        start: Whose weights these are.
        config: The new run.
        length: Its length in steps, which in epochs depends on the number of images.

    Raises:
        UserError: It has fewer.
    """
    taken = _taken(start)
    if taken <= length:
        return
    if config.epochs is None:
        why = f"--train-steps {length} is a total, which counts them"
        fix = f"use more than {taken}, or {taken} to sample only"
    else:
        why = f"--epochs {config.epochs} is {length:,} steps, a total which counts them"
        fix = f"use more epochs, or --train-steps {taken} to sample only"
    raise UserError(f"{printable(start.path)} has already taken {taken:,} steps", why=why, fix=fix)


def _differences(one: Config, other: Config) -> list[str]:
    names = [field.name for field in dataclasses.fields(Config) if field.name != OBSERVER]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
