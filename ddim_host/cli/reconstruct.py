"""The `ddim-host reconstruct` command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.cli.options import requested, requested_enlargement
from ddim_host.cli.output import left_out_lines, used_line
from ddim_host.errors import UserError, printable
from ddim_host.evaluation.paper import is_cifar10
from ddim_host.experiment.settings import read_list
from ddim_host.run.directory import existing_run
from ddim_host.run.exports import export_images, require_new
from ddim_host.run.images import to_uint8
from ddim_host.run.reconstruction import PAPER_ERRORS, reconstruct, squared_errors
from ddim_host.run.trained import assemble_trained, load_denoiser, note_other_images, record_of
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import Images
    from ddim_host.run.directory import RunDirectory
    from ddim_host.run.sampling import Denoiser

_PICTURED = 8


def main(options: argparse.Namespace) -> int:
    """Encode and decode test images with the given run.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run, its data or the checkpoint is missing or damaged,
            or the output already exists.
    """
    run = existing_run(options.run)
    wanted = None if options.steps_list is None else read_list("steps", options.steps_list, origin="--steps")
    experiment = assemble_trained(run, requested(options), options.checkpoint, options.weights)
    config = experiment.config
    most = config.num_train_timesteps
    numbers = wanted or [steps for steps in PAPER_ERRORS if steps <= most] or [most]
    subsets = [experiment.timesteps(steps) for steps in numbers]
    _ = experiment.source  # raises before any work if there are no images
    taken = (
        run.new_samples_path("reconstruction") if options.out is None else contextlib.nullcontext(options.out)
    )
    with taken as path:
        if path.suffix.lower() != ".png":
            raise UserError(f"--out must be a PNG file, not {path}", fix="use a name such as x.png")
        require_new(path)
        _reconstruct_all(experiment, run, subsets, path, options)
    return 0


def _reconstruct_all(
    experiment: Experiment,
    run: RunDirectory,
    subsets: Sequence[NDArray[np.int64]],
    path: Path,
    options: argparse.Namespace,
) -> None:
    """Load the weights, encode and decode with each subset, print the errors, and draw some images."""
    config = experiment.config
    data = experiment.images
    note_other_images(run.config, data)
    test = data.test
    chosen = np.unique(np.linspace(0, len(test) - 1, min(options.images, len(test))).astype(np.int64))
    denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
    print(used_line(run.path, config.plugin.name, used), *left_out_lines(data), sep="\n")
    batches = -(-len(chosen) // config.batch_size)
    # Evenly spaced, because the images may be sorted by class.
    pictured = np.unique(np.linspace(0, len(chosen) - 1, min(_PICTURED, len(chosen))).astype(np.int64))
    columns = 1 + len(subsets)
    exporting = export_images(
        path,
        num_images=len(pictured) * columns,
        image_shape=experiment.image_shape,
        columns=columns,
        enlargement=requested_enlargement(options),
    )
    rows, pictures = [], [test[chosen[pictured]]]
    print(
        f"{'images':<17} {len(chosen):,} of the {len(test):,} test images of "
        f"{printable(experiment.data_choice)}\n"
        f"{'MSE':<17} mean squared error per dimension, pixels in [0, 1]; decoded without clipping"
    )
    # The paper's errors are for CIFAR-10.
    paper = PAPER_ERRORS if is_cifar10(config.data.name) else {}
    print(f"{'steps':>6}  {'MSE':>10}{'  DDIM paper' if paper else ''}")
    with progress_bar("reconstructing", batches * sum(2 * len(s) for s in subsets), unit="call") as bar:
        for subset in subsets:
            errors, shown = _reconstructed(
                experiment, denoiser, subset, test[chosen], pictured=pictured, on_call=bar.update
            )
            row = {"steps": len(subset), "mse": float(errors.mean()), "timesteps": subset.tolist()}
            rows.append(row)
            pictures.append(shown)
            bar.clear()
            beside = f"  {paper.get(len(subset), '-'):>10}" if paper else ""
            print(f"{len(subset):>6}  {row['mse']:>10.2e}{beside}", flush=True)
    table = np.stack(pictures, axis=1)
    grid = table.reshape(-1, *table.shape[2:])
    with exporting as export:
        export.add(grid)
        export.finish(
            {
                "num_images": len(chosen),
                "images": f"test half of {experiment.data_choice}",
                "images_sha256": data.fingerprint.test_sha256,
                **record_of(experiment, denoiser, used),
                "rows": len(table),
                "pictured": chosen[pictured].tolist(),
                "columns": ["original", *(f"{row['steps']} steps" for row in rows)],
                "unit": "mean squared error per dimension, pixels in [0, 1]",
                "errors": rows,
            }
        )
    steps = ", ".join(str(row["steps"]) for row in rows)
    print(f"wrote {printable(path)}: {len(table)} of the images; columns: original, then {steps} steps")


def _reconstructed(
    experiment: Experiment,
    denoiser: Denoiser,
    subset: NDArray[np.int64],
    images: Images,
    *,
    pictured: NDArray[np.int64],
    on_call: Callable[[], object],
) -> tuple[NDArray[np.float64], Images]:
    """Return the error of every image, and the reconstructions of those in `pictured`."""
    errors, shown = [], []
    size = experiment.config.batch_size
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        decoded = reconstruct(denoiser, experiment.schedule, subset, batch, on_call=on_call)
        errors.append(squared_errors(batch, decoded))
        here = pictured[(pictured >= start) & (pictured < start + size)] - start
        shown.append(to_uint8(decoded[here]))
    return np.concatenate(errors), np.concatenate(shown)
