"""Tables of comparable scores, by run and by training seed; only ranges over seeds decide what is best."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from ddim_host.evaluation.tables import (
    SHOWN,
    Shown,
    column_title,
    mean_and_range,
    number,
    over_seeds,
    protocol_lines,
    remarks,
)
from ddim_host.report.comparison import names_of

if TYPE_CHECKING:
    from ddim_host.evaluation.tables import Table
    from ddim_host.report.comparison import QualityGroup
    from ddim_host.report.reported_run import ReportedRun

HOW_TO_READ = (
    "S is the number of timesteps that sampling visits, with one network call per timestep unless the "
    "column says otherwise. Eta 0 is deterministic; eta 1 adds as much noise as DDPM. Bold marks the best "
    "cell in a column, and every cell that shows the same number or whose range overlaps that of the best. "
    "The weights depend on the training seed, so several runs are compared only by ranges over training "
    "seeds, and a single run by ranges over sampling seeds. A column is not marked if any of its cells has "
    "only one seed."
)


@dataclass(frozen=True)
class QualityCell:
    """One number, or an empty cell.

    Attributes:
        mean: Mean over seeds; None if nothing was measured.
        text: The mean as text, with the range over seeds.
        best: True if all cells of the column have ranges and none is distinguishably better.
    """

    mean: float | None
    text: str
    best: bool


@dataclass(frozen=True)
class QualityRow:
    """Cells of one run, or of one setting over its training seeds, at one eta."""

    name: str
    eta: float
    cells: tuple[QualityCell, ...]


@dataclass(frozen=True)
class QualityTable:
    """One measure of several runs, or of several settings over training seeds.

    Attributes:
        title: The measure, and the conditions of its numbers.
        rows_are: `run` or `setting`, the heading of the name column.
        steps: The number of steps S of each column.
        calls: The network calls per image of each column.
        columns: The titles of the columns.
        rows: The rows.
    """

    title: str
    rows_are: str
    steps: tuple[int, ...]
    calls: tuple[int, ...]
    columns: tuple[str, ...]
    rows: tuple[QualityRow, ...]


@dataclass(frozen=True)
class Quality:
    """A group of comparable scores.

    Attributes:
        sampling: The timestep subset and the solver, in words.
        tables: A table for each measure over training seeds, if a setting has several; then one for each
            measure of the runs.
        protocols: The protocol of each run, as lines of text.
        remarks: Scores of real images, and caveats.
    """

    sampling: str
    tables: tuple[QualityTable, ...]
    protocols: tuple[tuple[str, list[str]], ...]
    remarks: tuple[str, ...]


def quality_of(group: QualityGroup) -> Quality:
    """Return the tables of a group of scores."""
    sampled = group.tables[0][1].scores[0].sampled
    steps = sorted({steps for _, table in group.tables for steps in table.steps})
    calls = tuple(max(table.calls(at) for _, table in group.tables) for at in steps)

    def table(shown: Shown, rows_are: str, rows: list[_Row], *, marked: bool, spread: str) -> QualityTable:
        title = _caption(group, shown, spread)
        columns = tuple(map(column_title, steps, calls))
        return QualityTable(
            title, rows_are, tuple(steps), calls, columns, _marked_rows(rows, steps, shown, marked=marked)
        )

    settings = _settings(group)
    over_training = [
        table(shown, "setting", _rows_of_settings(settings, shown), marked=True, spread=_OVER_TRAINING)
        for shown in SHOWN
        if settings
    ]
    tables = [found for _, found in group.tables]
    spread = over_seeds(tables) if any(len(found.seeds) > 1 for found in tables) else ""
    is_one_run = len({run.name for run, _ in group.tables}) == 1
    of_runs = [
        table(shown, "run", _rows_of_runs(group, shown), marked=is_one_run, spread=spread) for shown in SHOWN
    ]
    return Quality(
        sampling=f"{sampled.timestep_subset} timesteps, {sampled.solver}",
        tables=(*over_training, *of_runs),
        protocols=tuple((run.name, protocol_lines(found)) for run, found in group.tables),
        remarks=tuple(dict.fromkeys(line for found in tables for line in remarks(found))),
    )


_OVER_TRAINING = "mean (range) over training seeds"

_Settings = dict[str, dict[str, list["Table"]]]
"""The tables by the name of the setting, then by training seed."""


class _Row(NamedTuple):
    """One row before marking: the values and the text of each cell, by number of steps."""

    name: str
    eta: float
    values: dict[int, list[float]]
    texts: dict[int, str]


def _rows_of_runs(group: QualityGroup, shown: Shown) -> list[_Row]:
    """Return the rows of every run; the values of a cell are those of its sampling seeds."""
    names = names_of((run.name, table.scores[0].sampled) for run, table in group.tables)
    return [
        _Row(
            names[run.name, table.scores[0].sampled],
            eta,
            {steps: _values(table, shown, eta, steps) for steps in table.steps},
            {steps: table.cell_text(shown, eta, steps) for steps in table.steps},
        )
        for run, table in group.tables
        for eta in table.etas
    ]


def _rows_of_settings(settings: _Settings, shown: Shown) -> list[_Row]:
    """Return the rows of every setting; a value is the mean over the sampling seeds of one training seed."""
    rows = []
    for name, trainings in settings.items():
        tables = [table for of_seed in trainings.values() for table in of_seed]
        for eta in sorted({eta for table in tables for eta in table.etas}):
            row = _Row(name, eta, {}, {})
            for steps in {steps for table in tables for steps in table.steps}:
                of_seeds = (
                    [value for table in of_seed for value in _values(table, shown, eta, steps)]
                    for of_seed in trainings.values()
                )
                row.values[steps] = [fmean(values) for values in of_seeds if values]
                row.texts[steps] = mean_and_range(row.values[steps], len(trainings))
            rows.append(row)
    return rows


def _values(table: Table, shown: Shown, eta: float, steps: int) -> list[float]:
    return [shown.value(score.measures) for score in table.cell(eta, steps)]


def _started_from_weights(run: ReportedRun) -> bool:
    is_imported = any(name.startswith("imported: ") for name in run.provenance)
    return run.first_step > 0 or is_imported


def _settings(group: QualityGroup) -> _Settings:
    """Group tables by all settings but the training seed; return {} if every group has a single seed.

    Runs that started from other weights are left out: their settings do not describe their entire training.
    """
    found: dict[tuple[tuple[str, str], ...], dict[str, list[Table]]] = {}
    for run, table in group.tables:
        if _started_from_weights(run):
            continue
        sampled = table.scores[0].sampled
        setting = {name: value for name, value in run.settings.items() if name != "seed"}
        setting |= {"sampled in": sampled.plugin, "checkpoint": sampled.checkpoint}
        if sampled.checkpoint == "latest":  # the others choose their own steps
            setting["after steps"] = ", ".join(map(str, sampled.checkpoint_steps))
        of_seeds = found.setdefault(tuple(sorted(setting.items())), {})
        of_seeds.setdefault(run.settings.get("seed", "-"), []).append(table)
    if all(len(of_seeds) == 1 for of_seeds in found.values()):
        return {}
    shared = set.intersection(*map(set, found))
    names = [
        ", ".join(
            [
                *(f"{name} {value}" for name, value in setting if (name, value) not in shared),
                f"seed{'s' * (len(of_seeds) > 1)} {', '.join(of_seeds)}",
            ]
        )
        for setting, of_seeds in found.items()
    ]
    return dict(zip(names, found.values(), strict=True))


def _marked_rows(rows: list[_Row], steps: list[int], shown: Shown, *, marked: bool) -> tuple[QualityRow, ...]:
    cells: list[list[QualityCell]] = [[] for _ in rows]
    for at in steps:
        column = [row.values.get(at, []) for row in rows]
        measured = [values for values in column if values]
        have_ranges = len(measured) > 1 and all(len(values) > 1 for values in measured)
        ranked = sorted(measured, key=fmean, reverse=shown.higher_is_better)
        for row, values, line in zip(rows, column, cells, strict=True):
            best = marked and have_ranges and bool(values) and _are_indistinguishable(values, ranked[0])
            line.append(QualityCell(fmean(values) if values else None, row.texts.get(at, "-"), best))
    return tuple(QualityRow(row.name, row.eta, tuple(line)) for row, line in zip(rows, cells, strict=True))


def _are_indistinguishable(one: list[float], other: list[float]) -> bool:
    """Return True if two cells show the same mean or have overlapping ranges over seeds."""
    overlap = min(one) <= max(other) and min(other) <= max(one)
    return overlap or number(fmean(one)) == number(fmean(other))


def _caption(group: QualityGroup, shown: Shown, spread: str) -> str:
    """Return a table title: the measure, the meaning of the ranges, and the conditions of the numbers."""
    tables = [table for _, table in group.tables]
    sampled, ruler = tables[0].scores[0].sampled, tables[0].scores[0].ruler
    reference = ruler.reference
    parts = [shown.title(ruler), *([spread] if spread else [])]
    parts.append(
        f"N = {sampled.num_images:,} samples against {reference.num_images:,} real {reference.half} images"
    )
    floor = next((table.noise_floor for table in tables if table.noise_floor is not None), None)
    if floor is not None:
        value = number(shown.value(floor.measures))
        few = " (too few images; see the warnings below)" if floor.warnings else ""
        parts.append(f"the {floor.real.num_images:,} real {floor.real.half} images: {value}{few}")
    return "; ".join(parts)
