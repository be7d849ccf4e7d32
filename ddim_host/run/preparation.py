"""Checks before training, the same for `ddim-host run` and for `ddim_host.notebook.train`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble, load_framework, require_images
from ddim_host.experiment.config import Config, Request
from ddim_host.experiment.config_file import OBSERVER
from ddim_host.run.trained import note_other_images, other_images
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import TrainTest
    from ddim_host.plugin.discovery import Plugin
    from ddim_host.run.directory import RunDirectory


def assemble_run(request: Request, run: RunDirectory | None, start: RunDirectory | None) -> Experiment:
    """Assemble the experiment of a run, and check everything that needs no decoded images.

    Args:
        request: The user's choices. A resumed run keeps its settings, so they may only repeat these; only the
            observers may differ, because they do not affect the run.
        run: The run directory; None if it will be chosen later.
        start: The run whose settings and newest checkpoint the run starts from, as in
            `execution.run_experiment`: `run` itself to resume it.

    Raises:
        UserError: The experiment does not work (see `assembly.assemble`, `Experiment.sampling_plan`), the run
            directory is not free, or the run cannot start from the other one.
    """
    if start is not None and start is run:
        experiment = _resumed(request, start)
    else:
        if run is not None and launched().is_first:
            run.require_free()
        experiment = assemble(request if start is None else _over_start(request, start))
    experiment.sampling_plan()  # raises before training if the subset or solver does not work
    length = experiment.config.train_steps
    if start is not None and start is not run and length is not None:
        _require_longer(start, experiment.config, length)
    return experiment


def check_images(experiment: Experiment, run: RunDirectory, start: RunDirectory | None) -> None:
    """Decode the images of a run, and check everything that depends on them.

    Print a note if a new run starts from a run with other images.

    Args:
        experiment: The experiment.
        run: The run directory.
        start: The run that the run starts from, as in `assemble_run`.

    Raises:
        UserError: A resumed run would use different images, or a new run has fewer steps than its initial
            weights were trained for.
    """
    images = experiment.images
    if start is run:
        require_stored_images(run, images)
    elif start is not None:
        _require_longer(start, experiment.config, experiment.config.length(len(images.train)))
        note_other_images(start.config, images)


def require_stored_images(run: RunDirectory, images: TrainTest) -> None:
    """Check that a resumed run uses the images that it started with.

    Raises:
        UserError: The images are different.
    """
    why = other_images(run.config, images)
    if why:
        raise UserError(
            f"these are not the images that the run in {run.path} started with",
            why=why,
            fix=f"restore the original images, or start a new run with --start-from {run.quoted}",
        )


def _resumed(request: Request, run: RunDirectory) -> Experiment:
    """Assemble the experiment of an existing run.

    Raises:
        UserError: The run was imported, or the request would change a setting.
    """
    if run.config.is_imported:
        raise UserError(
            f"the run in {run.path} was imported and has no training to resume",
            fix=f"train its network further with --start-from {run.quoted}",
        )
    stored = run.config.request
    plugins = load_framework(stored)
    experiment = assemble(Request(watchers=request.watchers).over(stored), plugins=plugins)
    changed: list[str] = []
    if request.plugin is not None and not cast("Plugin", plugins.framework).is_selected_by(request.plugin):
        changed = ["plugin"]
    elif request.parts or request.settings:
        asked = assemble(request.over(stored), plugins=plugins)
        changed = _differences(experiment.config, asked.config)
    if changed:
        raise UserError(
            f"--resume cannot change settings, but these differ: {', '.join(changed)}",
            why=f"they are stored in {run.config_path}",
            fix=f"remove these options, or start a new run with --start-from {run.quoted}",
        )
    return experiment


def _over_start(request: Request, start: RunDirectory) -> Request:
    """Return the request for a new run that starts from another one.

    Raises:
        UserError: The other run has no checkpoint, or its images are unknown and the request has none.
    """
    start.latest_checkpoint()  # raises if the run has no checkpoint
    whole = request.over(start.config.request)
    if start.config.is_imported:
        require_images(whole)
    return whole


def _require_longer(start: RunDirectory, config: Config, length: int) -> None:
    """Check that a new run has at least as many steps as its initial weights were trained for.

    Args:
        start: The run that provides the initial weights.
        config: The configuration of the new run.
        length: Its length in steps, which depends on the number of images if it was given in epochs.

    Raises:
        UserError: The new run has fewer steps.
    """
    taken = start.trained_steps()
    if taken <= length:
        return
    if config.epochs is None:
        why = f"--train-steps {length} is the total, including those steps"
        fix = f"use --train-steps above {taken}, or {taken} to sample only"
    else:
        why = f"--epochs {config.epochs} is {length:,} steps, the total including those steps"
        fix = f"use more epochs, or --train-steps {taken} to sample only"
    raise UserError(f"{start.path} has already been trained for {taken:,} steps", why=why, fix=fix)


def _differences(one: Config, other: Config) -> list[str]:
    names = [field.name for field in dataclasses.fields(Config) if field.name != OBSERVER]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
