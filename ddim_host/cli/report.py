"""The `ddim-host report` command."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.report.output import write_report
from ddim_host.report.watch import watch
from ddim_host.run.directory import existing_run
from ddim_host.run.provenance import this_command
from ddim_host.system.interruption import end_as_by_ctrl_c

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Write the page of the given run, once or repeatedly until the run ends.

    Returns:
        The exit code.

    Raises:
        UserError: The run does not exist or cannot be read, or the page cannot be written.
    """
    run = existing_run(options.run)
    page = printable(run.report_path)
    if not options.watch:
        warnings = write_report([run.path], run.report_path, command=this_command()).warnings
    else:
        end_as_by_ctrl_c(signal.SIGTERM)
        line = f"wrote {page}: open it in a browser; it is updated until the run ends or you press Ctrl-C"
        first = iter([line])
        try:
            warnings = watch(run, command=this_command(), wrote=lambda: _say(next(first, "")))
        except KeyboardInterrupt:
            print(f"\nstopped watching; {page} will no longer be updated")
            return 0
    for warning in warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(f"wrote {page}")
    return 0


def _say(line: str) -> None:
    if line:
        print(line, flush=True)
