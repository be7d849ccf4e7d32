"""`ddim-host sample`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested
from ddim_host.cli.output import sampling_line, times_line, used_line
from ddim_host.errors import UserError, printable
from ddim_host.experiment.config_file import config_document
from ddim_host.plugin.observation import ObservedRun
from ddim_host.run.directory import existing_run
from ddim_host.run.drawing import Drawing, draw
from ddim_host.run.exports import export_images, require_new
from ddim_host.run.provenance import provenance, this_command
from ddim_host.run.trained import assemble_trained, load_denoiser
from ddim_host.system.launch import launched
from ddim_host.system.limits import MAX_IMAGES

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.directory import RunDirectory

_LAYOUTS = {
    "samples": "",
    "interpolation": ": row r goes from sample 2 r of this seed to sample 2 r + 1",
    "trajectory": ": row r is sample r of this seed, from the first step to the last",
}
_DEFAULT_ROWS = 8


def main(options: argparse.Namespace) -> int:
    """Sample from the trained run that the options name.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run or the checkpoint is not available or damaged, or the
            output exists already.
    """
    run = existing_run(options.run)
    request = requested(options)
    experiment = assemble_trained(run, request, options.checkpoint, options.weights)
    experiment.sampling_plan()  # a subset or solver that does not work is an error before weights are read
    config = experiment.config
    drawing = Drawing(config.num_images)
    rows = config.num_images if "num_images" in request.settings else _DEFAULT_ROWS
    if options.interpolate is not None:
        drawing = Drawing(rows, options.interpolate, "interpolation")
        if config.eta > 0.0:
            raise UserError(
                "images can only be interpolated where the noise alone decides them",
                why=f"eta is {config.eta:g}",
                fix="add --eta 0",
            )
    elif options.show_trajectory is not None:
        drawing = Drawing(rows, min(options.show_trajectory, config.steps), "trajectory")
    if drawing.num_images > MAX_IMAGES:
        raise UserError(
            f"{drawing.num_images:,} images are too many", why=f"at most {MAX_IMAGES:,} are drawn at a time"
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
    """Load the weights, sample, write, and say so."""
    columns = None if drawing.kind == "samples" else drawing.columns
    export = export_images(path, num_images=drawing.num_images, columns=columns)
    denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
    config = experiment.config
    print(used_line(run.path, config.plugin.name, used))
    print(sampling_line(experiment, drawing.num_sampled))
    made_with = provenance(config.plugin.name, denoiser.model, this_command())
    observed = ObservedRun(run.path, "sample", config_document(config), made_with, max(used.steps))
    with experiment.observers.watching(observed):
        times = draw(experiment, denoiser, used, drawing, export)
    print(times_line(drawing.num_sampled, times))
    print(f"wrote {printable(path)}{_LAYOUTS[drawing.kind]}")
