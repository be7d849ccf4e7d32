"""A comparison as Markdown, for people who write, and as JSON, for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ddim_host.evaluation.tables import number
from ddim_host.report.quality import HOW_TO_READ, quality_of
from ddim_host.report.speed import HOW_SPEED_WAS_MEASURED, SPEED_COLUMNS, rate_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddim_host.report.comparison import Comparison

__all__ = ["as_json", "as_markdown"]


def as_markdown(comparison: Comparison, *, title: str, command: str) -> str:
    """What the page says in words and numbers; pictures and curves are only there."""
    blocks = [f"# {title}", f"Made with `{command}`"]
    if comparison.warnings:
        blocks += ["## What cannot be compared, or read", _items(comparison.warnings)]
    if comparison.differing:
        rows = [[difference.setting, *difference.values] for difference in comparison.differing]
        blocks += ["## What differs", _table(["setting", *_names(comparison)], rows)]
    blocks += ["## What is the same", _items(f"{name}: {value}" for name, value in comparison.common.items())]
    if comparison.throughput:
        rows = [[condition.setting, *condition.values] for condition in comparison.conditions]
        names = [speed.run.name for speed in comparison.throughput]
        blocks += ["## Conditions of measurement", _table(["condition", *names], rows)]
        header = ["run", *SPEED_COLUMNS]
        rows = [
            [
                speed.run.name,
                rate_text(speed),
                number(speed.seconds_per_epoch),
                number(speed.warmup_seconds),
                number(speed.total_seconds),
                number(speed.peak_memory_bytes / 1e6),
            ]
            for speed in comparison.throughput
        ]
        blocks += ["## Speed of training, in steady state", HOW_SPEED_WAS_MEASURED, _table(header, rows)]
    for group in comparison.losses:
        header = ["run", "steps", "train loss", "test loss"]
        rows = [
            [run.name, str(last.step), number(last.train_loss), number(last.test_loss)]
            for run in group.runs
            for last in run.metrics[-1:]
        ]
        blocks += [f"## Last losses ({group.description})", _table(header, rows)]
    for quality in map(quality_of, comparison.quality):
        blocks += ["## Sample quality", HOW_TO_READ]
        for run, lines in quality.protocols:
            blocks += [f"{run}:", _items(lines)]
        for table in quality.tables:
            header = ["run", "eta", *(f"S = {steps}" for steps in table.steps)]
            rows = [
                [row.run, f"{row.eta:g}", *(f"**{c.text}**" if c.best else c.text for c in row.cells)]
                for row in table.rows
            ]
            blocks += [table.title, _table(header, rows)]
        blocks += quality.remarks
    return "\n\n".join(blocks) + "\n"


def as_json(comparison: Comparison, *, title: str, command: str) -> str:
    """Everything but the pictures; null where a number is none, as the rate of a row that only warmed up."""
    document = {
        "title": title,
        "command": command,
        "warnings": comparison.warnings,
        "differing": {
            difference.setting: dict(zip(_names(comparison), difference.values, strict=True))
            for difference in comparison.differing
        },
        "common": comparison.common,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "settings": run.settings,
                "provenance": run.provenance,
                "metrics": [asdict(row) for row in run.metrics],
                "scores": [asdict(score) for score in run.scores.scores],
                "noise_floors": [asdict(floor) for floor in run.scores.noise_floors],
            }
            for run in comparison.runs
        ],
        "conditions": {
            condition.setting: dict(
                zip((speed.run.name for speed in comparison.throughput), condition.values, strict=True)
            )
            for condition in comparison.conditions
        },
        "throughput": {
            speed.run.name: {
                "images_per_second": speed.images_per_second,
                "range_over_epochs": speed.range_over_epochs,
                "seconds_per_epoch": speed.seconds_per_epoch,
                "warmup_seconds": speed.warmup_seconds,
                "total_seconds": speed.total_seconds,
                "peak_memory_bytes": speed.peak_memory_bytes,
            }
            for speed in comparison.throughput
        },
        "comparable_losses": [[run.name for run in group.runs] for group in comparison.losses],
        "quality": [asdict(quality_of(group)) for group in comparison.quality],
        "grids": [
            {
                "protocol": grids.grids[0][1].record,
                "runs": [run.name for run, _ in grids.grids],
                "differences_from_the_first": [
                    None if difference is None else asdict(difference) for difference in grids.differences
                ],
            }
            for grids in comparison.grids
        ],
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON does not have: null stands in their place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _names(comparison: Comparison) -> list[str]:
    return [run.name for run in comparison.runs]


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in ruled)
