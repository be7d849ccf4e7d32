"""The page: one HTML file that needs nothing else, neither a network nor a server."""

from __future__ import annotations

import base64
import shlex
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddim_host.errors import printable
from ddim_host.evaluation.tables import number
from ddim_host.report.few_steps import front_plots, quality_plots
from ddim_host.report.plots import plots_of
from ddim_host.report.quality import HOW_TO_READ, quality_of
from ddim_host.report.speed import HOW_SPEED_WAS_MEASURED, SPEED_COLUMNS, rate_text

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison


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
        plots=plots_of(comparison),
        quality_plots=quality_plots(comparison),
        front_plots=front_plots(comparison),
        speed_columns=SPEED_COLUMNS,
        how_speed_was_measured=HOW_SPEED_WAS_MEASURED,
        how_to_read=HOW_TO_READ,
        quality=[quality_of(group) for group in comparison.quality],
    )


def _breakable(text: str) -> str:
    """A number with its range, which may stand below it where there is little room."""
    number_text, bracket, rest = text.partition(" (")
    if not bracket:
        return text
    return Markup('{} <span class="range">({}</span>').format(number_text, rest)


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
