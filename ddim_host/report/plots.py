"""Plots on a page: curves, titles, and the numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ddim_host.evaluation.tables import number
from ddim_host.report.comparison import seconds_at, whole_epochs
from ddim_host.report.svg import Curve, Drawn, curves_svg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.report.comparison import Comparison, LossGroup

_Row = TypeVar("_Row")

_MOST_ROWS = 1000
"""Maximum number of rows of metrics per run in plots and tables, so that a page stays small."""


@dataclass(frozen=True)
class Plot:
    """A plot for the template.

    Attributes:
        title: The title.
        drawn: The drawing in each size.
        summary: A description in words, for readers who cannot see the picture.
        header: The column titles of the table of numbers.
        rows: The rows of this table; empty if the numbers are elsewhere on the page.
    """

    title: str
    drawn: tuple[Drawn, ...]
    summary: str
    header: list[str]
    rows: list[list[str]]


def plots_of(comparison: Comparison) -> list[Plot]:
    """Return the plots for a page: losses and, for several runs, also speeds.

    For a single run, losses against seconds would repeat the same curve, and the page shows the speed as
    numbers instead of as a plot of seconds per epoch.
    """
    several = len(comparison.runs) > 1
    colours = {run.name: position for position, run in enumerate(comparison.runs)}
    plots = []
    for position, group in enumerate(comparison.losses):
        of_what = f": {group.description}" if len(comparison.losses) > 1 else ""
        for against in ("steps", "seconds") if several else ("steps",):
            plots.append(_loss_plot(f"loss-{against}-{position}", group, colours, against, of_what))
    if several:
        plots += _epoch_plot(comparison, colours)
    return plots


def _epoch_plot(comparison: Comparison, colours: dict[str, int]) -> list[Plot]:
    """Return the plot of seconds per epoch, or an empty list if no run has a complete steady epoch."""
    complete = {run.name: whole_epochs(run.metrics) for run in comparison.runs}
    if not any(complete.values()):
        return []
    epochs = {name: _thinned(rows) for name, rows in complete.items()}
    curves = [
        Curve(name, [row.epoch for row in rows], [row.seconds for row in rows], colours[name])
        for name, rows in epochs.items()
        if rows
    ]
    return [
        Plot(
            "Seconds per epoch, in steady state",
            curves_svg("epochs", curves, x="epoch", y="seconds"),
            "; ".join(
                f"{name}: {number(min(row.seconds for row in rows))} to "
                f"{number(max(row.seconds for row in rows))} s"
                for name, rows in complete.items()
                if rows
            )
            + _left_out(complete.values()),
            ["run", "epoch", "seconds", "images per second"],
            [
                [name, str(row.epoch), number(row.seconds), number(row.images_per_second)]
                for name, rows in epochs.items()
                for row in rows
            ],
        )
    ]


def _loss_plot(name: str, group: LossGroup, colours: dict[str, int], against: str, of_what: str) -> Plot:
    curves, rows = [], []
    for run in group.runs:
        shown = _thinned(list(zip(run.metrics, seconds_at(run.metrics), strict=True)))
        at = [second if against == "seconds" else row.step for row, second in shown]
        for dash, half in enumerate(("train", "test")):
            values = [getattr(row, f"{half}_loss") for row, _ in shown]
            if len(colours) > 1:
                curves.append(Curve(f"{run.name}, {half}", at, values, colours[run.name], dash))
            else:
                curves.append(Curve(half, at, values, dash))
        rows += [
            [
                run.name,
                str(row.epoch),
                str(row.step),
                number(second),
                number(row.train_loss),
                number(row.test_loss),
            ]
            for row, second in shown
        ]
    axis = "seconds of training, including compilation" if against == "seconds" else "training steps"
    ends = [(run.name, run.metrics[-1]) for run in group.runs]
    last = "; ".join(
        f"{run} ends at train loss {number(row.train_loss)}, test loss {number(row.test_loss)}"
        for run, row in ends
    )
    return Plot(
        f"Loss against {against}{of_what}",
        curves_svg(name, curves, x=axis, y="loss", logarithmic=spans_decades(curves)),
        last + _left_out(run.metrics for run in group.runs),
        ["run", "epoch", "step", "seconds", "train loss", "test loss"],
        rows if against == "steps" else [],
    )


def _thinned(rows: Sequence[_Row]) -> Sequence[_Row]:
    """Return at most `_MOST_ROWS` evenly spaced rows, including the last one."""
    every = -(-len(rows) // _MOST_ROWS) or 1
    return rows[(len(rows) - 1) % every :: every]


def _left_out(metrics: Iterable[Sequence[EpochMetrics]]) -> str:
    """Return a remark if a run has more rows than are shown, and an empty string otherwise."""
    most = max(map(len, metrics))
    return f"; at most {_MOST_ROWS:,} of up to {most:,} epochs are shown" if most > _MOST_ROWS else ""


def spans_decades(curves: list[Curve]) -> bool:
    """Return True if the curves need a logarithmic axis."""
    values = [value for curve in curves for value in curve.y]
    return min(values) > 0.0 and max(values) > 5.0 * min(values)
