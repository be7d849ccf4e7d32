"""Comparable scores of several runs, as tables with the best of each column marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import SHOWN, Shown, protocol_lines, remarks

if TYPE_CHECKING:
    from ddim_host.report.comparison import QualityGroup

__all__ = ["Quality", "QualityCell", "QualityRow", "QualityTable", "quality_of"]


@dataclass(frozen=True)
class QualityCell:
    """One number, or none.

    Attributes:
        mean: Over the seeds; None where nothing was measured.
        text: The same for people, with the range over the seeds.
        best: Whether no mean in its column is better.
    """

    mean: float | None
    text: str
    best: bool


@dataclass(frozen=True)
class QualityRow:
    """One run at one eta."""

    run: str
    eta: float
    cells: tuple[QualityCell, ...]


@dataclass(frozen=True)
class QualityTable:
    """One measure of several runs.

    Attributes:
        title: What it is.
        steps: The columns.
        rows: The rows.
    """

    title: str
    steps: tuple[int, ...]
    rows: tuple[QualityRow, ...]


@dataclass(frozen=True)
class Quality:
    """Scores that are comparable.

    Attributes:
        tables: A table for each measure.
        protocols: How they were taken, by run.
        remarks: Noise floors and doubts.
    """

    tables: tuple[QualityTable, ...]
    protocols: tuple[tuple[str, list[str]], ...]
    remarks: tuple[str, ...]


def quality_of(group: QualityGroup) -> Quality:
    """The tables of a group of scores."""
    return Quality(
        tables=tuple(_table(group, shown) for shown in SHOWN),
        protocols=tuple((run.name, protocol_lines(table)) for run, table in group.tables),
        remarks=tuple(dict.fromkeys(line for _, table in group.tables for line in remarks(table))),
    )


def _table(group: QualityGroup, shown: Shown) -> QualityTable:
    steps = sorted({steps for _, table in group.tables for steps in table.steps})
    choose = max if shown.higher_is_better else min
    cells = [(s, table.cell(eta, s)) for _, table in group.tables for eta in table.etas for s in table.steps]
    best = {s: choose(shown.mean(cell) for at, cell in cells if at == s and cell) for s in steps}
    rows = []
    for run, table in group.tables:
        for eta in table.etas:
            means = [shown.mean(cell) if (cell := table.cell(eta, s)) else None for s in steps]
            row = tuple(
                QualityCell(mean, table.cell_text(shown, eta, s), best=mean == best[s])
                for s, mean in zip(steps, means, strict=True)
            )
            rows.append(QualityRow(run.name, eta, row))
    ruler = group.tables[0][1].scores[0].ruler
    return QualityTable(shown.title(ruler), tuple(steps), tuple(rows))
