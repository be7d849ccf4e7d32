"""The main numbers of several runs, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import SHOWN, number
from ddim_host.experiment.config import clip_in_words
from ddim_host.report.headline import lowest_cell, training_time

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison, QualityGroup

_RUN, _TRAINING, _LOSS = "run", "training", "test loss"


def summary(comparison: Comparison) -> list[str]:
    """Return the lines of a table with one row per run, or no lines for runs without results.

    Each group of comparable scores has a column with the lowest distance of each run.
    """
    columns: dict[str, dict[str, str]] = {_RUN: {run.name: run.name for run in comparison.runs}}
    speeds = comparison.throughput
    if speeds:
        columns[_TRAINING] = {speed.run.name: training_time(speed) for speed in speeds}
        columns[_LOSS] = {speed.run.name: number(speed.run.metrics[-1].test_loss) for speed in speeds}
    titles = _titles(comparison.quality)
    columns |= {title: _distances(group) for title, group in zip(titles, comparison.quality, strict=True)}
    if len(columns) == 1:
        return []
    names = [run.name for run in comparison.runs]
    cells = [[title, *(column.get(name, "-") for name in names)] for title, column in columns.items()]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in cells]
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def _distances(group: QualityGroup) -> dict[str, str]:
    """Return the lowest distance of each run, by its name."""
    lowest: dict[str, tuple[float, str]] = {}
    for run, table in group.tables:
        (eta, steps), value, _ = lowest_cell(table)
        if run.name not in lowest or value < lowest[run.name][0]:
            lowest[run.name] = value, f"{number(value)} ({steps} steps, eta {eta:g})"
    return {name: text for name, (_, text) in lowest.items()}


def _titles(groups: tuple[QualityGroup, ...]) -> list[str]:
    """Return distinct titles: the measure and its conditions, and those that differ between the groups."""
    conditions = [_conditions(group) for group in groups]
    shared = set.intersection(*map(set, conditions)) if conditions else set()
    titles = []
    for position, (group, own) in enumerate(zip(groups, conditions, strict=True), start=1):
        first = group.tables[0][1].scores[0]
        parts = [
            SHOWN[0].name(first.ruler),
            f"{first.sampled.num_images:,} images",
            first.ruler.features.name,
            *(condition for condition in own if condition not in shared),
        ]
        title = ", ".join(parts)
        titles.append(title if title not in titles else f"{title} [{position}]")
    return titles


def _conditions(group: QualityGroup) -> list[str]:
    """Return what else a score depends on, in words."""
    score = group.tables[0][1].scores[0]
    sampled, reference = score.sampled, score.ruler.reference
    return [
        f"{sampled.timestep_subset} timesteps",
        sampled.solver,
        clip_in_words(sampled.clip),
        f"{sampled.weights} weights",
        f"against {reference.num_images:,} {reference.half} images",
    ]
