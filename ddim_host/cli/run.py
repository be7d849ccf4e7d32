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
from ddim_host.cli.output import left_out_lines, memorised_lines, sampling_line, split_line, times_line
from ddim_host.errors import DivergedError, InterruptedTrainingError, UserError, printable
from ddim_host.experiment.assembly import require_images
from ddim_host.experiment.config import PART_KINDS
from ddim_host.experiment.config_file import read_config_file
from ddim_host.experiment.defaults import distinguishing_parameters
from ddim_host.framework.unet import parameters
from ddim_host.plugin.parameters import format_value, shortened, written
from ddim_host.plugin.registry import Kind
from ddim_host.report.output import write_report
from ddim_host.run.directory import RunDirectory, existing_run, new_run, next_run_path
from ddim_host.run.during_training import grids_in_words
from ddim_host.run.execution import is_complete, run_experiment
from ddim_host.run.preparation import assemble_run, require_stored_images
from ddim_host.run.provenance import this_command
from ddim_host.run.trained import note_other_images
from ddim_host.system.failure import report_failure
from ddim_host.system.interruption import end_as_by_ctrl_c
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.experiment.config import Config, PartConfig
    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.execution import Finished
    from ddim_host.run.images import Enlargement


def main(options: argparse.Namespace) -> int:
    """Run the requested experiment.

    Returns:
        The exit code.

    Raises:
        UserError: See `preparation.assemble_run` and `execution.run_experiment`.
    """
    config_file = None if options.config is None else read_config_file(options.config)
    request = requested(options, config_file)
    directory = None if options.out is None else RunDirectory(options.out)
    if _is_resumed(options):
        directory = existing_run(options.out)
        start: RunDirectory | None = directory
    else:
        start = None if options.start_from is None else existing_run(options.start_from)
    if start is None and config_file is not None and config_file.is_imported:
        require_images(request)
    experiment = assemble_run(request, directory, start)
    config = experiment.config
    if options.dry_run:
        experiment.require_device()
    print(describe(experiment))
    complete = False
    if start is not None:
        complete = start is directory and is_complete(start)
        if complete and not options.dry_run:
            require_stored_images(start, experiment.images)
        _print_remaining(start, config.train_steps, complete=complete)
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
        if config is not None and start is None:  # otherwise they are compared with those of that run
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


def _print_remaining(start: RunDirectory, length: int | None, *, complete: bool) -> None:
    """Print the step at which training continues, and whether the run is complete or fully trained."""
    taken = start.trained_steps()
    print(f"{'begins':<17} after {taken:,} steps, from the newest checkpoint of {printable(start.path)}")
    if complete:
        print(f"{'':<17} already complete (to train further: --start-from RUN --train-steps N)")
    elif length is not None and taken >= length:
        print(f"{'':<17} fully trained; sampling only (to train further: --start-from RUN --train-steps N)")
