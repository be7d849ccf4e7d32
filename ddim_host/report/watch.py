"""A page that follows a run during training, rewritten whenever the run changes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from ddim_host.report.output import write_report
from ddim_host.run.real_images import FOLDER
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddim_host.run.directory import RunDirectory

RELOAD_SECONDS = 5
"""Seconds between reloads, and minimum time between writing two pages, which takes a second of CPU time."""


def watch(run: RunDirectory, *, command: str, wrote: Callable[[], None]) -> tuple[str, ...]:
    """Rewrite the page of a run until the run has ended.

    During the run, the page reloads itself. The last page does not, even after an interruption.

    Args:
        run: The run.
        command: The command line, shown to the reader.
        wrote: Called each time the page has been written.

    Returns:
        The warnings of the last page.

    Raises:
        UserError: The run cannot be read, or the page cannot be written.
    """
    seen: frozenset[tuple[str, int]] | None = None
    try:
        while run.is_in_training():
            files = frozenset(_files(run))
            if files != seen:
                seen = files
                write_report([run.path], run.report_path, command=command, refresh=RELOAD_SECONDS)
                wrote()
            time.sleep(RELOAD_SECONDS)
    finally:
        last = write_report([run.path], run.report_path, command=command)
    return last.warnings


def _files(run: RunDirectory) -> Iterator[tuple[str, int]]:
    """Yield the name and modification time of each file that the page shows."""
    samples = run.samples_path
    folders = (run.path, samples, samples / "during-training", samples / FOLDER, run.checkpoints_path)
    with file_errors(f"cannot read {run.path}"):
        for folder in folders:
            for path in _listed(folder):
                if path != run.report_path:
                    with contextlib.suppress(FileNotFoundError):  # a checkpoint replaced meanwhile
                        yield str(path), path.stat().st_mtime_ns


def _listed(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
