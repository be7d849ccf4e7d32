"""Write reports on run directories to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from ddim_host.errors import UserError, printable
from ddim_host.report.comparison import compare
from ddim_host.report.json_document import as_json
from ddim_host.report.markdown import as_markdown
from ddim_host.report.page import render_page
from ddim_host.report.reported_run import read_reported_run
from ddim_host.system.files import file_errors, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddim_host.report.comparison import Comparison
    from ddim_host.report.reported_run import ReportedRun

ReportFormat: TypeAlias = Literal["html", "md", "json"]

_RENDERED = {"md": as_markdown, "json": as_json}


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    command: str,
    kind: ReportFormat = "html",
    refresh: int | None = None,
) -> Comparison:
    """Write a report on one or more runs, replacing the file.

    Args:
        paths: The run directories.
        out: The file to write.
        command: The command line, shown to the reader.
        kind: The format of the report.
        refresh: Seconds between reloads of a page whose runs are in training; None for a page that does not
            change.

    Returns:
        The contents of the report.

    Raises:
        UserError: None of the runs can be read, or the file cannot be written.
    """
    runs, unreadable = _collected(paths)
    if not runs:
        raise UserError("none of these runs can be read", why="; ".join(unreadable))
    comparison = compare(runs, unreadable)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    if kind == "html":
        text = render_page(comparison, title=title, command=command, refresh=refresh)
    else:
        text = _RENDERED[kind](comparison, title=title, command=command)
    with file_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    return comparison


def _collected(paths: Sequence[Path]) -> tuple[list[ReportedRun], list[str]]:
    """Return the readable runs, and the reason for each unreadable one."""
    runs, unreadable = [], []
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            runs.append(read_reported_run(path, name))
        except UserError as error:
            unreadable.append(f"{error.what}: {error.why}" if error.why else error.what)
    return runs, unreadable


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings that distinguish the paths."""
    absolute = [path.absolute() for path in paths]
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in absolute]
        if len(set(names)) == len(set(absolute)) or depth > max(len(path.parts) for path in absolute):
            return [printable(name) for name in names]
        depth += 1
