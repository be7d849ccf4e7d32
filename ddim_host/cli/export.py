"""`ddim-host export`."""

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
    """Write the run that the options name as a pipeline of diffusers.

    Returns:
        The exit code.

    Raises:
        UserError: The run or the checkpoint is not available or damaged, diffusers has no such network, or
            the output exists already.
    """
    run = existing_run(options.run)
    require_new(options.out)
    experiment = assemble_trained(run, Request(options.plugin))
    exported = export_run(experiment, run, options.checkpoint, options.weights)
    write_pipeline(exported, options.out)
    print(f"wrote {printable(options.out)}: DDIMPipeline.from_pretrained opens it")
    return 0
