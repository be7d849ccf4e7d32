"""The `ddim-host import` command."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested
from ddim_host.cli.run import describe_network
from ddim_host.errors import UserError, printable
from ddim_host.exchange.importing import read_pipeline, write_imported
from ddim_host.exchange.source import open_pipeline
from ddim_host.run.directory import RunDirectory
from ddim_host.run.provenance import this_command

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Import the given pipeline as a run.

    Returns:
        The exit code.

    Raises:
        UserError: The pipeline does not exist or cannot be expressed as a run, or the run directory already
            exists.
    """
    run = RunDirectory(options.out)
    if run.exists():
        raise UserError(f"{run.path} already contains a run", fix="choose another --out")
    run.require_free()
    with open_pipeline(options.source, options.revision) as pipeline:
        imported = read_pipeline(pipeline, requested(options))
    facts = {
        "command": this_command(),
        "python": platform.python_version(),
        "ddim-host": version("ddim-host"),
    }
    write_imported(run, imported, facts)
    print(*describe_network(imported.experiment), sep="\n")
    if not imported.has_data:
        print(f"{'images':<17} unknown: evaluate, reconstruct and run --start-from need --data")
    print(f"wrote {printable(run.path)}")
    return 0
