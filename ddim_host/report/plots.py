"""The plots of a page: which curves, under which titles, with the numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import number
from ddim_host.report.comparison import seconds_at, whole_epochs
from ddim_host.report.svg import Curve, curves_svg

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison, LossGroup


@dataclass(frozen=True)
class Plot:
    """A plot as the template shows it.

    Attributes:
        title: What it shows.
        svg: The picture.
        summary: The same in words, for those who cannot see it.
        header: The columns of the numbers behind it.
        rows: The numbers; none where they stand below another figure.
        rows_title: What they are.
    """

    title: str
    svg: str
    summary: str
    header: list[str]
    rows: list[list[str]]
    rows_title: str = "The numbers"


def plots_of(comparison: Comparison) -> list[Plot]:
    """Return the plots of a page: losses against steps and seconds, seconds against epochs."""
    colours = {run.name: position for position, run in enumerate(comparison.runs)}
    plots = []
    for position, group in enumerate(comparison.losses):
        of_what = f": {group.description}" if len(comparison.losses) > 1 else ""
        plots += [
            _loss_plot(f"loss-steps-{position}", group, colours, against="steps", of_what=of_what),
            _loss_plot(f"loss-seconds-{position}", group, colours, against="seconds", of_what=of_what),
        ]
    epochs = {run.name: whole_epochs(run.metrics) for run in comparison.runs}
    if any(epochs.values()):
        curves = [
            Curve(name, [row.epoch for row in rows], [row.seconds for row in rows], colours[name])
            for name, rows in epochs.items()
            if rows
        ]
        plots.append(
            Plot(
                "Seconds per epoch, in steady state",
                curves_svg("epochs", curves, x="epoch", y="seconds"),
                "; ".join(f"{c.label}: {number(min(c.y))} to {number(max(c.y))} s" for c in curves),
                ["run", "epoch", "seconds", "images per second"],
                [
                    [name, str(row.epoch), number(row.seconds), number(row.images_per_second)]
                    for name, rows in epochs.items()
                    for row in rows
                ],
            )
        )
    return plots


def _loss_plot(name: str, group: LossGroup, colours: dict[str, int], *, against: str, of_what: str) -> Plot:
    curves, rows = [], []
    for run in group.runs:
        seconds = seconds_at(run.metrics)
        at = seconds if against == "seconds" else [row.step for row in run.metrics]
        for dash, half in enumerate(("train", "test")):
            values = [getattr(row, f"{half}_loss") for row in run.metrics]
            curves.append(Curve(f"{run.name}, {half}", at, values, colours[run.name], dash))
        rows += [
            [
                run.name,
                str(row.epoch),
                str(row.step),
                number(second),
                number(row.train_loss),
                number(row.test_loss),
            ]
            for row, second in zip(run.metrics, seconds, strict=True)
        ]
    axis = "seconds of training, compilation included" if against == "seconds" else "training steps"
    ends = [(run.name, run.metrics[-1]) for run in group.runs]
    last = "; ".join(
        f"{run} ends at train {number(row.train_loss)}, test {number(row.test_loss)}" for run, row in ends
    )
    return Plot(
        f"Loss against {against}{of_what}",
        curves_svg(name, curves, x=axis, y="loss", logarithmic=spans_decades(curves)),
        last,
        ["run", "epoch", "step", "seconds", "train loss", "test loss"],
        rows if against == "seconds" else [],
        rows_title="The numbers of both figures",
    )


def spans_decades(curves: list[Curve]) -> bool:
    """Say whether curves belong on a logarithmic axis."""
    values = [value for curve in curves for value in curve.y]
    return min(values) > 0.0 and max(values) > 5.0 * min(values)
