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
    settings = run.settings
    facts = [
        Fact(
            "Network",
            f"{_short(run.num_parameters)} parameters" if run.num_parameters else settings.get("model", "-"),
            f"{settings.get('model', '')} in {run.framework}, on {settings.get('data', '-')}",
        ),
        Fact("Training", training_time(speed) if speed else "-", _trained(run)),
    ]
    if run.metrics:
        last = run.metrics[-1]
        facts.append(Fact("Test loss", number(last.test_loss), f"train loss {number(last.train_loss)}"))
    tables = tables_of(run.scores)
    if tables:
        best = max(map(_rank, tables))
        ranked = [table for table in tables if _rank(table) == best]
        ruler = ranked[0].scores[0].ruler
        comparable = [table for table in ranked if table.scores[0].ruler == ruler]
        facts.append(_distance(run, min(comparable, key=lambda table: lowest_cell(table)[1])))
    return facts


def training_time(speed: Throughput) -> str:
    """Return the duration of the training loop, and its first step if there was training before it."""
    text = duration(speed.total_seconds)
    return f"{text} from step {speed.run.first_step:,}" if speed.run.first_step else text


def _trained(run: ReportedRun) -> str:
    """Describe how much the run was trained."""
    if not run.metrics:
        return str(run.training or "")
    steps = run.metrics[-1].step - run.first_step
    return f"{steps:,} steps of {run.settings.get('batch_size', '-')} images"


def _rank(table: Table) -> tuple[int, int, bool, int]:
    """Return how well a table's protocol represents the run; distances of other ones are not comparable.

    The newest weights come first, then averaged ones, then the most precise distances, from the most images.
    """
    sampled = table.scores[0].sampled
    steps = sampled.checkpoint_steps
    return max(steps), -len(steps), sampled.weights == "ema", sampled.num_images


def _distance(run: ReportedRun, table: Table) -> Fact:
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
    if sampled.weights != "ema":
        how += f", {sampled.weights} weights"
    if run.metrics and sampled.checkpoint_steps != (run.metrics[-1].step,):
        how += f", weights of step {', '.join(f'{step:,}' for step in sampled.checkpoint_steps)}"
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
