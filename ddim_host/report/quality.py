"""Comparable scores of several runs, as tables with the best of each column marked."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import (
    SHOWN,
    Shown,
    column_title,
    number,
    over_seeds,
    protocol_lines,
    remarks,
)

if TYPE_CHECKING:
    from ddim_host.evaluation.tables import Table
    from ddim_host.report.comparison import QualityGroup

HOW_TO_READ = (
    "S is the number of timesteps that sampling visits, with a call of the network for each unless the "
    "column says otherwise. Eta 0 is deterministic, eta 1 adds as much noise as DDPM. Marked is the best of "
    "each column, and with it whatever cannot be told from it: what prints the same, or has a range over "
    "seeds that overlaps with its range."
)


@dataclass(frozen=True)
class QualityCell:
    """One number, or none.

    Attributes:
        mean: Over the seeds; None where nothing was measured.
        text: The same for people, with the range over the seeds.
        best: Whether no cell of its column can be told to be better.
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
        title: What it is, and what its numbers depend on.
        steps: S of each column.
        calls: The network calls for an image in each column.
        columns: The titles of the columns.
        rows: The rows.
    """

    title: str
    steps: tuple[int, ...]
    calls: tuple[int, ...]
    columns: tuple[str, ...]
    rows: tuple[QualityRow, ...]


@dataclass(frozen=True)
class Quality:
    """Scores that are comparable.

    Attributes:
        sampling: The timestep subset and the solver, in words.
        tables: A table for each measure.
        protocols: How they were taken, by run.
        remarks: Noise floors and doubts.
    """

    sampling: str
    tables: tuple[QualityTable, ...]
    protocols: tuple[tuple[str, list[str]], ...]
    remarks: tuple[str, ...]


def quality_of(group: QualityGroup) -> Quality:
    """The tables of a group of scores."""
    sampled = group.tables[0][1].scores[0].sampled
    return Quality(
        sampling=f"{sampled.timestep_subset} timesteps, {sampled.solver}",
        tables=tuple(_table(group, shown) for shown in SHOWN),
        protocols=tuple((run.name, protocol_lines(table)) for run, table in group.tables),
        remarks=tuple(dict.fromkeys(line for _, table in group.tables for line in remarks(table))),
    )


def _table(group: QualityGroup, shown: Shown) -> QualityTable:
    steps = sorted({steps for _, table in group.tables for steps in table.steps})

    def values(table: Table, eta: float, at: int) -> list[float]:
        return [shown.value(score.measures) for score in table.cell(eta, at)]

    best = {}
    for at in steps:
        column = [found for _, t in group.tables for eta in t.etas if (found := values(t, eta, at))]
        best[at] = (max if shown.higher_is_better else min)(column, key=fmean)
    rows = []
    for run, table in group.tables:
        for eta in table.etas:
            cells = []
            for at in steps:
                found = values(table, eta, at)
                cells.append(
                    QualityCell(
                        fmean(found) if found else None,
                        table.cell_text(shown, eta, at),
                        best=bool(found) and _cannot_be_told_apart(found, best[at]),
                    )
                )
            rows.append(QualityRow(run.name, eta, tuple(cells)))
    calls = tuple(max(table.calls(at) for _, table in group.tables) for at in steps)
    columns = tuple(map(column_title, steps, calls))
    return QualityTable(_caption(group, shown), tuple(steps), calls, columns, tuple(rows))


def _cannot_be_told_apart(one: list[float], other: list[float]) -> bool:
    """Whether two cells print the same mean, or have ranges over seeds that overlap."""
    overlap = min(one) <= max(other) and min(other) <= max(one)
    return overlap or number(fmean(one)) == number(fmean(other))


def _caption(group: QualityGroup, shown: Shown) -> str:
    """What a table shows, and what its numbers depend on."""
    tables = [table for _, table in group.tables]
    sampled, ruler = tables[0].scores[0].sampled, tables[0].scores[0].ruler
    reference = ruler.reference
    said = [shown.title(ruler)]
    if any(len(table.seeds) > 1 for table in tables):
        said.append(over_seeds(tables))
    said.append(
        f"N = {sampled.num_images:,} samples against {reference.num_images:,} real {reference.half} images"
    )
    floor = next((table.noise_floor for table in tables if table.noise_floor is not None), None)
    if floor is not None:
        value = number(shown.value(floor.measures))
        said.append(f"noise floor {value}, of N = {floor.real.num_images:,} real {floor.real.half} images")
    return "; ".join(said)
