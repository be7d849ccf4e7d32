"""A comparison as JSON, for other programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ddim_host.report.quality import quality_of

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison


def as_json(comparison: Comparison, *, title: str, command: str) -> str:
    """Return a comparison as JSON, without pictures; NaN (the rate if a row is all warm-up) becomes null."""
    names = [run.name for run in comparison.runs]
    document = {
        "title": title,
        "command": command,
        "warnings": comparison.warnings,
        "differing": {
            difference.setting: dict(zip(names, difference.values, strict=True))
            for difference in comparison.differing
        },
        "common": comparison.common,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "settings": run.settings,
                "first_step": run.first_step,
                "provenance": run.recorded,
                "metrics": [asdict(row) for row in run.metrics],
                "scores": [asdict(score) for score in run.scores.scores],
                "noise_floors": [asdict(floor) for floor in run.scores.noise_floors],
                "subsets": [asdict(subset) for subset in run.subsets],
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
    """Replace NaN and infinities, which JSON lacks, with None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
