"""The main numbers of several runs, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import SHOWN, number, tables_of
from ddim_host.report.headline import duration, lowest_cell

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison
    from ddim_host.report.reported_run import ReportedRun

_RUN, _TRAINING, _LOSS = "run", "training", "test loss"


def summary(comparison: Comparison) -> list[str]:
    """Return the lines of a table with one row per run, or no lines for runs without results.

    Distances of different protocols have different columns.
    """
    seconds = {speed.run.name: speed.total_seconds for speed in comparison.throughput}
    rows = [_row(run, seconds.get(run.name)) for run in comparison.runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if columns == [_RUN]:
        return []
    cells = [columns, *([row.get(name, "-") for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _row(run: ReportedRun, seconds: float | None) -> dict[str, str]:
    """Return the cells of a run, by column."""
    row = {_RUN: run.name}
    if seconds is not None:
        row |= {_TRAINING: duration(seconds), _LOSS: number(run.metrics[-1].test_loss)}
    for table in tables_of(run.scores):
        (eta, steps), value, _ = lowest_cell(table)
        first = table.scores[0]
        ruler = first.ruler
        column = f"{SHOWN[0].name(ruler)}, {first.sampled.num_images:,} images, {ruler.features.name}"
        row[column] = f"{number(value)} ({steps} steps, eta {eta:g})"
    return row
