"""The `ddim-host export` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.exchange.exporting import export_run, write_pipeline
from ddim_host.experiment.config import Request
from ddim_host.run.directory import existing_run
from ddim_host.run.exports import require_new
from ddim_host.run.trained import assemble_trained

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Export the given run as a diffusers pipeline.

    Returns:
        The exit code.

    Raises:
        UserError: The run or the checkpoint is missing or damaged, diffusers has no equivalent network,
            or the output already exists.
    """
    run = existing_run(options.run)
    require_new(options.out)
    experiment = assemble_trained(run, Request(options.plugin))
    exported = export_run(experiment, run, options.checkpoint, options.weights)
    write_pipeline(exported, options.out)
    print(f"wrote {printable(options.out)}: open it with DDIMPipeline.from_pretrained")
    return 0
