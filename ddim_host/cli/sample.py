"""The `ddim-host sample` command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested, requested_enlargement
from ddim_host.cli.output import sampling_line, times_line, used_line
from ddim_host.errors import UserError, printable
from ddim_host.run.directory import existing_run
from ddim_host.run.drawing import Drawing, draw
from ddim_host.run.exports import export_images, is_animated, require_new
from ddim_host.run.trained import assemble_trained, load_denoiser, observed_command
from ddim_host.system.launch import launched
from ddim_host.system.limits import MAX_IMAGES

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.directory import RunDirectory

_LAYOUTS = {
    "samples": "",
    "interpolation": ": row r goes from sample 2r of this seed to sample 2r + 1",
    "trajectory": ": row r is sample r of this seed, from the first step to the last",
}
_DEFAULT_ROWS, _DEFAULT_ANIMATED = 8, 16
_DEFAULT_COLUMNS = 10


def main(options: argparse.Namespace) -> int:
    """Sample from the given run.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run or the checkpoint is missing or damaged, or the
            output already exists.
    """
    run = existing_run(options.run)
    request = requested(options)
    experiment = assemble_trained(run, request, options.checkpoint, options.weights)
    experiment.sampling_plan()  # raises before weights are read if the subset or solver does not work
    config = experiment.config
    drawing = Drawing(config.num_images)
    moves = options.out is not None and is_animated(options.out)
    rows = _DEFAULT_ANIMATED if moves else _DEFAULT_ROWS
    if "num_images" in request.settings:
        rows = config.num_images
    if options.interpolate is not None:
        drawing = Drawing(rows, options.interpolate, "interpolation")
        if config.eta > 0.0:
            raise UserError(
                "--interpolate needs deterministic sampling",
                why=f"eta is {config.eta:g}, so each step adds noise",
                fix="add --eta 0",
            )
    elif options.show_trajectory is not None:
        columns = options.show_trajectory or (config.steps if moves else _DEFAULT_COLUMNS)
        drawing = Drawing(rows, min(columns, config.steps), "trajectory")
    if drawing.num_images > MAX_IMAGES:
        raise UserError(
            f"{drawing.num_images:,} images are too many",
            why=f"at most {MAX_IMAGES:,} can be drawn at a time",
        )
    taken = run.new_samples_path(drawing.kind) if options.out is None else contextlib.nullcontext(options.out)
    with taken as path:
        if launched().is_first:
            require_new(path)
        _draw(experiment, run, drawing, path, options)
    return 0


def _draw(
    experiment: Experiment, run: RunDirectory, drawing: Drawing, path: Path, options: argparse.Namespace
) -> None:
    """Load the weights, sample, write the images, and print the result."""
    columns = None if drawing.kind == "samples" else drawing.columns
    export = export_images(
        path,
        num_images=drawing.num_images,
        image_shape=experiment.image_shape,
        columns=columns,
        enlargement=requested_enlargement(options),
    )
    denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
    print(used_line(run.path, experiment.config.plugin.name, used))
    print(sampling_line(experiment, drawing.num_sampled))
    with experiment.observers.watching(observed_command("sample", run, experiment, denoiser, used)):
        times = draw(experiment, denoiser, used, drawing, export)
    print(times_line(drawing.num_sampled, times))
    layout = f": {drawing.columns} frames" if is_animated(path) else _LAYOUTS[drawing.kind]
    print(f"wrote {printable(path)}{layout}")
