"""The `ddim-host run` command."""

from __future__ import annotations

import dataclasses
import math
import shlex
import signal
import sys
import textwrap
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested, requested_enlargement
from ddim_host.cli.output import (
    left_out_lines,
    memorised_lines,
    note_other_images,
    sampling_line,
    split_line,
    times_line,
)
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
from ddim_host.run.directory import RunDirectory, existing_run, new_run, next_run_path
from ddim_host.run.during_training import grids_in_words
from ddim_host.run.execution import is_complete, require_stored_images, run_experiment
from ddim_host.run.provenance import this_command
from ddim_host.system.failure import report_failure
from ddim_host.system.interruption import end_as_by_ctrl_c
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.execution import Finished
    from ddim_host.run.images import Enlargement


def main(options: argparse.Namespace) -> int:
    """Run the requested experiment.

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
            start.latest_checkpoint()  # raises if the run has no checkpoint
        whole = request.over(start.config.request) if start else request
        if start is not None and start.config.is_imported and Kind.DATA not in whole.parts:
            raise unknown_images()
        experiment = assemble(whole)
        experiment.sampling_plan()  # raises before training if the subset or solver does not work
        directory = None if options.out is None else RunDirectory(options.out)
    config = experiment.config
    if options.dry_run:
        experiment.require_device()
    if directory is not None and start is not directory and launched().is_first:
        directory.require_free()
    print(describe(experiment))
    complete = directory is not None and start is directory and is_complete(directory)
    if complete and directory is not None and not options.dry_run:
        require_stored_images(directory, experiment.images)
    if start is not None:
        _print_remaining(start, config, resumed=start is directory, complete=complete)
    if options.dry_run:
        _print_folder(
            next_run_path(config.plugin.name, config.data.name) if directory is None else directory.path
        )
        if experiment.source.known is not None:
            _print_images(experiment.source.known)
        return 0
    if complete:
        return 0
    enlargement = requested_enlargement(options)
    if directory is None:
        with new_run(config.plugin.name, config.data.name) as directory:
            return _carry_out(experiment, directory, start, config_file, enlargement)
    return _carry_out(experiment, directory, start, config_file, enlargement)


def _carry_out(
    experiment: Experiment,
    directory: RunDirectory,
    start: RunDirectory | None,
    config: ConfigFile | None,
    enlargement: Enlargement,
) -> int:
    """Run the experiment, print the result in the first process, and return the exit code."""
    end_as_by_ctrl_c(signal.SIGTERM)
    _print_folder(directory.path)
    try:
        images = experiment.images
        _print_images(images)
        if start is not directory:  # for a resumed run, different images are an error
            if start is not None:
                _require_longer(start, experiment.config, experiment.config.length(len(images.train)))
                config = start.config
            if config is not None:
                note_other_images(config, images)
        with run_experiment(
            experiment,
            directory,
            start=start,
            command=this_command(),
            enlargement=enlargement,
            on_start=_print_device,
        ) as done:
            if launched().is_first:
                _report(experiment, directory, done)
    except DivergedError:
        return _diverged(directory)
    except InterruptedTrainingError as stop:
        return _interrupted(directory, str(stop))
    except KeyboardInterrupt:
        return _interrupted(directory, "interrupted")
    return 0


def _report(experiment: Experiment, directory: RunDirectory, done: Finished) -> None:
    """Print the result of a run, and write its page."""
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


def _print_images(images: TrainTest) -> None:
    """Print how many images are for training and for testing, and any warnings about them."""
    print(split_line(images), *memorised_lines(images), *left_out_lines(images), sep="\n", flush=True)


def _print_folder(path: Path) -> None:
    print(f"{'folder':<17} {printable(path)}")


def _print_device(made_with: Mapping[str, str]) -> None:
    """Print the device and the precision, with `auto` resolved."""
    print(f"{'device':<17} {made_with['device']}, precision {made_with['precision']}", flush=True)


def _diverged(run: RunDirectory) -> int:
    """Report that training diverged, name the last checkpoint, and return the exit code."""
    if not launched().is_first:
        return 1
    kept = "no checkpoint had been written"
    if run.has_checkpoint():
        kept = f"the last checkpoint is {printable(run.latest_checkpoint())}"
    error = UserError(
        "training stopped: a loss or a weight is no longer finite",
        fix=f"use a smaller --lr; {kept}",
    )
    print(f"ddim-host: error: {error}", file=sys.stderr)
    report_failure(error)
    return 1


def _interrupted(run: RunDirectory, what: str) -> int:
    """Print how to continue the run, and return the exit code."""
    if not launched().is_first:
        return 1
    go_on = f"; continue with: ddim-host run --resume --out {shlex.quote(str(run.path))}"
    print(f"\nddim-host: {what}{printable(go_on) if run.exists() else ''}", file=sys.stderr)
    if run.exists():
        page = f"ddim-host report {shlex.quote(str(run.path))}"
        print(f"note: for a page about the training so far: {printable(page)}", file=sys.stderr)
    report_failure(UserError(what))
    return 1


def describe(experiment: Experiment) -> str:
    """Describe the assembled experiment: its parts with their distributions, then its settings."""
    config = experiment.config
    lines = _part_lines("plugin", config.plugin)
    for kind in PART_KINDS:
        lines += _resolved_lines(kind, config)
    for observer in config.observer:
        lines += _part_lines(Kind.OBSERVER.words, observer)
    length = f"{config.train_steps:,} steps" if config.epochs is None else f"{config.epochs:,} epochs"
    lines += [
        f"{'images':<17} {experiment.source.description}",
        *_mirror_lines(experiment),
        *_network_lines(experiment),
        f"{'training':<17} {length} of {config.batch_size} images, lr {config.lr:g}, "
        f"EMA {config.ema_decay:g}, seed {config.seed}",
        f"{'watching':<17} {grids_in_words(config.sample_every, config.train_steps)}",
        sampling_line(experiment, config.num_images),
    ]
    return "\n".join(lines)


def _mirror_lines(experiment: Experiment) -> list[str]:
    """Return a line about random mirroring of the training images, or no lines if they are not mirrored."""
    if not experiment.source.random_flip:
        return []
    hint = "; flip=false prevents this" if "flip" in experiment.config.data.parameters else ""
    return [f"{'':<17} mirrored at random in training{hint}"]


def describe_network(experiment: Experiment) -> list[str]:
    """Return lines that describe the network and its noise schedule."""
    config = experiment.config
    kinds = (Kind.MODEL, Kind.NOISE_SCHEDULE)
    parts = [line for kind in kinds for line in _resolved_lines(kind, config)]
    return [*_part_lines("plugin", config.plugin), *parts, *_network_lines(experiment)]


def _network_lines(experiment: Experiment) -> list[str]:
    config = experiment.config
    size = sum(math.prod(parameter.shape) for parameter in parameters(experiment.unet))
    stretched = ", rescaled to end in pure noise" if config.rescale_zero_snr else ""
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
    """Describe a part and its distribution, with its parameters below, wrapped for a terminal."""
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
    """Return whether to continue the run in --out; with --config, the run need not exist yet.

    Raises:
        UserError: --resume is used without --out, or with --start-from.
    """
    if not options.resume:
        return False
    if options.out is None:
        raise UserError("--resume needs --out", fix="add --out DIR, the folder of the run to resume")
    if options.start_from is not None:
        raise UserError("--resume and --start-from are mutually exclusive", fix="remove one of them")
    return options.config is None or RunDirectory(options.out).exists()


def _resumed(options: argparse.Namespace, request: Request) -> tuple[Experiment, RunDirectory]:
    """Assemble the experiment of an existing run; options may repeat its settings but not change them.

    Raises:
        UserError: The run does not exist or was imported, or an option would change a setting.
    """
    directory = existing_run(options.out)
    if directory.config.is_imported:
        raise UserError(
            f"the run in {directory.path} was imported and has no training to resume",
            fix=f"train its network further with --start-from {directory.path}",
        )
    stored = directory.config.request
    plugins = load_framework(stored)
    # Observers do not affect a run, so a resumed run may have different ones.
    experiment = assemble(Request(watchers=request.watchers).over(stored), plugins=plugins)
    if request.plugin in (None, stored.plugin):
        asked = assemble(request.over(stored), plugins=plugins)
        changed = _differences(experiment.config, asked.config)
    else:
        changed = ["plugin"]
    if changed:
        raise UserError(
            f"--resume cannot change settings, but these differ: {', '.join(changed)}",
            why=f"they are stored in {directory.config_path}",
            fix=f"remove these options, or start a new run with --start-from {directory.path}",
        )
    return experiment, directory


def _print_remaining(start: RunDirectory, config: Config, *, resumed: bool, complete: bool) -> None:
    """Print the step at which training continues, and whether the run is complete or fully trained.

    Raises:
        UserError: A new run has fewer steps than its initial weights were trained for.
    """
    taken = _taken(start)
    length = config.train_steps
    if length is not None and not resumed:
        _require_longer(start, config, length)
    print(f"{'begins':<17} after {taken:,} steps, from the newest checkpoint of {printable(start.path)}")
    if complete:
        print(f"{'':<17} already complete (to train further: --start-from RUN --train-steps N)")
    elif length is not None and taken >= length:
        print(f"{'':<17} fully trained; sampling only (to train further: --start-from RUN --train-steps N)")


def _taken(run: RunDirectory) -> int:
    """Return the number of steps up to a run's newest checkpoint."""
    return load_progress(run.latest_checkpoint()).step if run.has_checkpoint() else 0


def _require_longer(start: RunDirectory, config: Config, length: int) -> None:
    """Check that a new run has at least as many steps as its initial weights were trained for.

    Args:
        start: The run that provides the initial weights.
        config: The configuration of the new run.
        length: Its length in steps, which depends on the number of images if it was given in epochs.

    Raises:
        UserError: The new run has fewer steps.
    """
    taken = _taken(start)
    if taken <= length:
        return
    if config.epochs is None:
        why = f"--train-steps {length} is the total, including those steps"
        fix = f"use --train-steps above {taken}, or {taken} to sample only"
    else:
        why = f"--epochs {config.epochs} is {length:,} steps, the total including those steps"
        fix = f"use more epochs, or --train-steps {taken} to sample only"
    raise UserError(f"{printable(start.path)} has already been trained for {taken:,} steps", why=why, fix=fix)


def _differences(one: Config, other: Config) -> list[str]:
    names = [field.name for field in dataclasses.fields(Config) if field.name != OBSERVER]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
