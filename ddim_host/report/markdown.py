"""A comparison as Markdown, to paste into documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import number
from ddim_host.report.few_steps import fronts_of
from ddim_host.report.quality import HOW_TO_READ, quality_of
from ddim_host.report.speed import HOW_SPEED_WAS_MEASURED, SPEED_COLUMNS, speed_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddim_host.report.comparison import Comparison


def as_markdown(comparison: Comparison, *, title: str, command: str) -> str:
    """Return the text and numbers of the page, results first, without pictures or curves."""
    blocks = [f"# {title}", f"Written by `{command}`"]
    if comparison.warnings:
        blocks += ["## Warnings", _items(comparison.warnings)]
    if comparison.differing:
        rows = [[difference.setting, *difference.values] for difference in comparison.differing]
        blocks += ["## Differences", _table(["setting", *_names(comparison)], rows)]
    for group in comparison.losses:
        header = ["run", "steps", "train loss", "test loss"]
        rows = [
            [run.name, str(last.step), number(last.train_loss), number(last.test_loss)]
            for run in group.runs
            for last in run.metrics[-1:]
        ]
        blocks += [f"## Last losses ({group.description})", _table(header, rows)]
    for quality in map(quality_of, comparison.quality):
        blocks += [f"## Sample quality: {quality.sampling}", HOW_TO_READ]
        for run, lines in quality.protocols:
            blocks += [f"{run}:", _items(lines)]
        for table in quality.tables:
            header = [table.rows_are, "eta", *table.columns]
            rows = [
                [row.name, f"{row.eta:g}", *(f"**{c.text}**" if c.best else c.text for c in row.cells)]
                for row in table.rows
            ]
            blocks += [table.title, _table(header, rows)]
        blocks += quality.remarks
    fronts = fronts_of(comparison)
    if fronts:
        header = ["run", "search", "S", "expected error", "error of linear timesteps", "timesteps"]
        rows = [
            [
                front.run,
                front.search,
                str(subset.steps),
                number(subset.expected_error),
                number(subset.linear_expected_error),
                ", ".join(map(str, subset.timesteps)),
            ]
            for front in fronts
            for subset in front.subsets
        ]
        blocks += ["## Optimized timesteps", _table(header, rows)]
    if comparison.throughput:
        header = ["run", *SPEED_COLUMNS]
        rows = [[speed.run.name, *speed_cells(speed)] for speed in comparison.throughput]
        blocks += ["## Training speed in steady state", HOW_SPEED_WAS_MEASURED, _table(header, rows)]
        rows = [[condition.setting, *condition.values] for condition in comparison.conditions]
        names = [speed.run.name for speed in comparison.throughput]
        blocks += ["## Measurement conditions", _table(["condition", *names], rows)]
    blocks += ["## Common settings", _items(f"{name}: {value}" for name, value in comparison.common.items())]
    return "\n\n".join(blocks) + "\n"


def _names(comparison: Comparison) -> list[str]:
    return [run.name for run in comparison.runs]


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in ruled)
