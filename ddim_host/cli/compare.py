"""`ddim-host compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.files import printable, write_text
from ddim_host.report.collected import collect
from ddim_host.report.comparison import compare
from ddim_host.report.documents import as_json, as_markdown
from ddim_host.report.page import render_page

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ddim_host.report.collected import ReportedRun

__all__ = ["main"]

_RENDERED = {"html": render_page, "md": as_markdown, "json": as_json}


def main(options: argparse.Namespace) -> int:
    """Put the runs that the options name side by side.

    Returns:
        The exit code.

    Raises:
        UserError: None of the runs can be read, or the output exists already or cannot be written.
    """
    path: Path = options.out or Path(f"comparison.{options.format}")
    if path.exists() and not options.force:
        raise UserError(f"{path} exists already", fix="choose another --out, or add --force to replace it")
    runs, unreadable = _collected(options.runs)
    if not runs:
        raise UserError("none of these runs can be read", why="; ".join(unreadable))
    comparison = compare(runs, unreadable)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    command = shlex.join(["ddim-host", *sys.argv[1:]])
    text = _RENDERED[options.format](comparison, title=title, command=command)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}", why=str(error.strerror or error)) from None
    for warning in comparison.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(f"wrote {printable(path)}")
    return 0


def _collected(paths: Sequence[Path]) -> tuple[list[ReportedRun], list[str]]:
    """The runs that can be read, and what is wrong with the others."""
    runs, unreadable = [], []
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            runs.append(collect(path, name))
        except UserError as error:
            unreadable.append(f"{error.what}: {error.why}" if error.why else error.what)
    return runs, unreadable


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    absolute = [path.absolute() for path in paths]
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in absolute]
        if len(set(names)) == len(set(absolute)) or depth > max(len(path.parts) for path in absolute):
            return [printable(name) for name in names]
        depth += 1
