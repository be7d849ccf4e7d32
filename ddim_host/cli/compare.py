"""The `ddim-host compare` command."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.report.output import write_report
from ddim_host.report.summary import summary
from ddim_host.run.directory import RunDirectory, existing_run
from ddim_host.run.provenance import this_command
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    import argparse

_CONTENTS = {
    ".html": "html",
    ".htm": "html",
    ".md": "md",
    ".markdown": "md",
    ".json": "json",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".apng", ".webp", ".svg", ".pdf", ".csv"), ""),
}
"""The format that each suffix promises; empty if the command cannot write it."""


def main(options: argparse.Namespace) -> int:
    """Compare the given runs on one page.

    Returns:
        The exit code.

    Raises:
        UserError: A run does not exist or is repeated, none can be read, or the output already exists, has
            the suffix of another format or cannot be written.
    """
    [(path, times)] = Counter(os.path.realpath(path) for path in options.runs).most_common(1)
    if times > 1:
        raise UserError(f"{printable(path)} is given more than once", fix="pass each folder only once")
    for path in options.runs:
        if not RunDirectory(path).exists() and not path.exists():
            existing_run(path)  # a mistyped path raises before anything is replaced
    out: Path = options.out or Path(f"comparison.{options.format}")
    contents = _CONTENTS.get(out.suffix.lower(), options.format)
    if contents != options.format:
        other = f", or use --format {contents}" if contents else ""
        raise UserError(
            f"--out {printable(out)} has the suffix of another format than {options.format}",
            fix=f"use --out {printable(shlex.quote(str(out.with_suffix(f'.{options.format}'))))}{other}",
        )
    with file_errors(f"cannot write {out}"):  # for example, if its name is too long
        taken = out.exists()
    if taken and not options.force:
        raise UserError(f"{out} already exists", fix="choose another --out, or add --force to replace it")
    comparison = write_report(options.runs, out, command=this_command(), kind=options.format)
    for warning in comparison.warnings:
        print(f"note: {warning}", file=sys.stderr)
    place = "" if options.out else f" in the current folder, {printable(Path.cwd())}"
    print(*summary(comparison), f"wrote {printable(out)}{place}", sep="\n")
    return 0
