"""The main numbers, at the top of the page of a run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import SHOWN, number, tables_of

if TYPE_CHECKING:
    from ddim_host.evaluation.tables import Table
    from ddim_host.report.comparison import Throughput
    from ddim_host.report.reported_run import ReportedRun

_TOO_FEW = " (too few; see the warnings)"
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Fact:
    """A number with its name.

    Attributes:
        name: The name of the quantity.
        value: The number, with its unit.
        note: Conditions or details; may be empty.
    """

    name: str
    value: str
    note: str


def headline(run: ReportedRun, speed: Throughput | None) -> list[Fact]:
    """Return the main facts of a run: network, training time, loss and sample distance.

    Args:
        run: The run.
        speed: The run's training speed; None before its first row of metrics.
    """
    settings, trained = run.settings, run.training
    facts = [
        Fact(
            "Network",
            f"{_short(run.num_parameters)} parameters" if run.num_parameters else settings.get("model", "-"),
            f"{settings.get('model', '')} in {run.framework}, on {settings.get('data', '-')}",
        ),
        Fact(
            "Training",
            duration(speed.total_seconds) if speed else "-",
            f"{run.metrics[-1].step:,} steps of {settings.get('batch_size', '-')} images"
            if run.metrics
            else (str(trained) if trained else ""),
        ),
    ]
    if run.metrics:
        last = run.metrics[-1]
        facts.append(Fact("Test loss", number(last.test_loss), f"train loss {number(last.train_loss)}"))
    tables = tables_of(run.scores)
    if tables:
        # Distances of different protocols are not comparable; the one with the most images is the most
        # precise.
        most = max(table.scores[0].sampled.num_images for table in tables)
        precise = [table for table in tables if table.scores[0].sampled.num_images == most]
        ruler = precise[0].scores[0].ruler
        comparable = [table for table in precise if table.scores[0].ruler == ruler]
        facts.append(_distance(min(comparable, key=lambda table: lowest_cell(table)[1])))
    return facts


def _distance(table: Table) -> Fact:
    """Return the lowest distance in a table."""
    shown = SHOWN[0]
    (eta, steps), mean, values = lowest_cell(table)
    ruler, sampled = table.scores[0].ruler, table.scores[0].sampled
    few = _TOO_FEW if any(score.warnings for score in table.cell(eta, steps)) else ""
    spread = ""
    if len(values) > 1:
        spread = f"{number(min(values))} to {number(max(values))} over {len(values)} seeds; "
    floor = table.noise_floor
    real = ""
    if floor:
        value = number(shown.value(floor.measures))
        real = f"; real {floor.real.half} images: {value}{_TOO_FEW if floor.warnings else ''}"
    solver = "" if sampled.solver == "ddim" else f" of {sampled.solver}"
    how = f"{steps} steps{solver}, eta {eta:g}, {sampled.num_images:,} images{few}, {ruler.features.name}"
    note = f"{spread}lowest with {how}{real}"
    return Fact(shown.name(ruler), number(mean), note)


def lowest_cell(table: Table) -> tuple[tuple[float, int], float, list[float]]:
    """Return the eta and S with the lowest mean distance over seeds, that mean, and each seed's distance."""
    measured = {
        (eta, steps): [SHOWN[0].value(score.measures) for score in scores]
        for eta in table.etas
        for steps in table.steps
        if (scores := table.cell(eta, steps))
    }
    means = {cell: fmean(values) for cell, values in measured.items()}
    lowest = min(means, key=means.__getitem__)
    return lowest, means[lowest], measured[lowest]


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit."""
    if seconds < 2 * _MINUTE:
        return f"{number(seconds)} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def _short(count: int) -> str:
    """Format a number of parameters in thousands or millions."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} thousand" if count >= 1000 else str(count)
    return f"{count / 1e6:.1f} million"
