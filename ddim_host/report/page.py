"""The report page: one HTML file that needs no network and no server."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddim_host.errors import printable
from ddim_host.report.comparison import unfinished
from ddim_host.report.few_steps import front_plots, quality_plots
from ddim_host.report.films import denoising, learning
from ddim_host.report.gallery import grid_picture, main_grid, real_wall, time_of, title_of, walls
from ddim_host.report.headline import Fact, headline
from ddim_host.report.next_commands import next_commands
from ddim_host.report.pictures import Captioned, PictureBudget
from ddim_host.report.plots import plots_of
from ddim_host.report.quality import HOW_TO_READ, quality_of
from ddim_host.report.speed import HOW_SPEED_WAS_MEASURED, SPEED_COLUMNS, speed_cells

if TYPE_CHECKING:
    from ddim_host.report.comparison import Comparison
    from ddim_host.report.reported_run import ReportedRun

_MOST_PICTURE_BYTES = 1_300_000
"""Maximum size of the pictures in a page of at most 2 MB; the rest is for curves and tables."""


def render_page(comparison: Comparison, *, title: str, command: str, refresh: int | None = None) -> str:
    """Return the page as HTML.

    Args:
        comparison: The contents.
        title: The heading.
        command: The command that writes the page.
        refresh: Seconds between reloads of the page, which then says that its runs are in training; None for
            a page that does not change.
    """
    environment = Environment(
        loader=PackageLoader("ddim_host.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["speed_cells"] = speed_cells
    environment.filters["printable"] = printable
    environment.filters["shell"] = lambda path: printable(shlex.quote(str(path)))
    speeds = {speed.run.name: speed for speed in comparison.throughput}
    awaited = [line for run in comparison.runs if (line := unfinished(run))] if refresh else []
    run = comparison.runs[0] if len(comparison.runs) == 1 else None
    budget = PictureBudget(_MOST_PICTURE_BYTES)
    pictures = _of_one_run(comparison, run, budget) if run else {"walls": walls(comparison, budget)}
    speed_facts = [
        Fact(name, cell, "")
        for speed in comparison.throughput[:1]
        for name, cell in zip(SPEED_COLUMNS, speed_cells(speed), strict=True)
    ]
    return environment.get_template("page.html").render(
        comparison=comparison,
        title=title,
        command=command,
        refresh=refresh,
        live_line="; ".join(_live_line(run) for run in comparison.runs),
        warnings=[warning for warning in comparison.warnings if warning not in awaited],
        run=run,
        headlines=[(run.name, headline(run, speeds.get(run.name))) for run in comparison.runs],
        plots=plots_of(comparison),
        quality_plots=quality_plots(comparison),
        front_plots=front_plots(comparison),
        throughput=comparison.throughput,
        speed_columns=SPEED_COLUMNS,
        speed_facts=speed_facts,
        how_speed_was_measured=HOW_SPEED_WAS_MEASURED,
        how_to_read=HOW_TO_READ,
        quality=[quality_of(group) for group in comparison.quality],
        num_refused=budget.num_refused,
        **pictures,
    )


def _of_one_run(comparison: Comparison, run: ReportedRun, budget: PictureBudget) -> dict[str, Any]:
    """Return the contents of a page about one run, embedding pictures in order of priority."""
    grid = main_grid(run)
    picture = grid_picture(run, grid, budget) if grid else None
    main = Captioned(picture, title_of(grid) + time_of(grid)) if grid and picture else None
    real = real_wall(run, budget)
    films = [film] if (film := learning(run, budget)) else []
    without = [grid] if grid else []
    if along := denoising(run, budget):
        films.append(along[0])
        without.append(along[1])
    return {
        "main": main,
        "real": real,
        "films": films,
        "walls": walls(comparison, budget, without=without),
        "next_commands": next_commands(run),
    }


def _live_line(run: ReportedRun) -> str:
    """Describe the training progress of a run."""
    return f"In training: {run.training}." if run.training else "In training."


def _breakable(text: str) -> str:
    """Mark up a number with a range, so that a line can break before the range."""
    number_text, bracket, rest = text.partition(" (")
    if not bracket:
        return text
    return Markup('{} <span class="range">({}</span>').format(number_text, rest)
