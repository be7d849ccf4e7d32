"""`ddim-host compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.report.output import write_report
from ddim_host.run.directory import RunDirectory, existing_run
from ddim_host.run.provenance import this_command
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Put the runs that the options name side by side.

    Returns:
        The exit code.

    Raises:
        UserError: One does not exist, none of them can be read, or the output exists already or cannot be
            written.
    """
    for path in options.runs:
        if not RunDirectory(path).exists() and not path.exists():
            existing_run(path)  # raises: what is mistyped should be known before a page is replaced
    out: Path = options.out or Path(f"comparison.{options.format}")
    with file_errors(f"cannot write {out}"):  # its name may be too long, for one
        taken = out.exists()
    if taken and not options.force:
        raise UserError(f"{out} exists already", fix="choose another --out, or add --force to replace it")
    for warning in write_report(options.runs, out, command=this_command(), kind=options.format):
        print(f"note: {warning}", file=sys.stderr)
    place = "" if options.out else f" into the current folder, {printable(Path.cwd())}"
    print(f"wrote {printable(out)}{place}")
    return 0
