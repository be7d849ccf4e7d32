"""The page: one HTML file that needs nothing else, neither a network nor a server."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddim_host.errors import printable
from ddim_host.evaluation.tables import number
from ddim_host.report.comparison import seconds_at, whole_epochs
from ddim_host.report.plots import Curve, curves_svg
from ddim_host.report.quality import HOW_TO_READ, quality_of
from ddim_host.report.speed import HOW_SPEED_WAS_MEASURED, SPEED_COLUMNS, rate_text

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison, LossGroup

__all__ = ["render_page"]


@dataclass(frozen=True)
class Figure:
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


def render_page(comparison: Comparison, *, title: str, command: str) -> str:
    """The page as text.

    Args:
        comparison: What to show.
        title: Its heading.
        command: How it was made.
    """
    environment = Environment(
        loader=PackageLoader("ddim_host.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["png"] = _data_address
    environment.filters["breakable"] = _breakable
    environment.filters["rate"] = rate_text
    environment.filters["printable"] = printable
    environment.filters["shell"] = lambda path: printable(shlex.quote(str(path)))
    return environment.get_template("page.html").render(
        comparison=comparison,
        title=title,
        command=command,
        figures=_figures(comparison),
        speed_columns=SPEED_COLUMNS,
        how_speed_was_measured=HOW_SPEED_WAS_MEASURED,
        how_to_read=HOW_TO_READ,
        quality=[quality_of(group) for group in comparison.quality],
    )


def _figures(comparison: Comparison) -> list[Figure]:
    colours = {run.name: position for position, run in enumerate(comparison.runs)}
    figures = []
    for position, group in enumerate(comparison.losses):
        of_what = f": {group.description}" if len(comparison.losses) > 1 else ""
        figures += [
            _loss_figure(f"loss-steps-{position}", group, colours, against="steps", of_what=of_what),
            _loss_figure(f"loss-seconds-{position}", group, colours, against="seconds", of_what=of_what),
        ]
    epochs = {run.name: whole_epochs(run.metrics) for run in comparison.runs}
    if any(epochs.values()):
        curves = [
            Curve(name, [row.epoch for row in rows], [row.seconds for row in rows], colours[name])
            for name, rows in epochs.items()
            if rows
        ]
        figures.append(
            Figure(
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
    return figures


def _loss_figure(
    name: str, group: LossGroup, colours: dict[str, int], *, against: str, of_what: str
) -> Figure:
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
    return Figure(
        f"Loss against {against}{of_what}",
        curves_svg(name, curves, x=axis, y="loss", logarithmic=_spans_decades(curves)),
        last,
        ["run", "epoch", "step", "seconds", "train loss", "test loss"],
        rows if against == "seconds" else [],
        rows_title="The numbers of both figures",
    )


def _spans_decades(curves: list[Curve]) -> bool:
    values = [value for curve in curves for value in curve.y]
    return min(values) > 0.0 and max(values) > 5.0 * min(values)


def _breakable(text: str) -> str:
    """A number with its range, which may stand below it where there is little room."""
    number_text, bracket, rest = text.partition(" (")
    if not bracket:
        return text
    return Markup('{} <span class="range">({}</span>').format(number_text, rest)


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
