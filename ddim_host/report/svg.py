"""Curves as SVG in the colours and fonts of the surrounding page."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.lines import Line2D

# Distinguishable for colour-blind readers (Okabe and Ito), on light and dark backgrounds.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")

_INK = "#010203"
"""Placeholder for the page's text colour, which the browser determines."""

_SIZES = {"large": (6.0, 3.2), "small": (4.3, 3.2)}
"""Widths and heights in inches; the small size keeps text legible on phones, where a large plot shrinks."""

_LEGEND_WIDTHS = {"large": 64, "small": 40}
"""Maximum characters per line of the legend, which should not be wider than the axes."""

_DOTS = 72.0
"""SVG units per inch."""
_MOST_MARKED = 60
_MOST_POINTS = 300
"""Maximum number of points per curve that respond to the pointer."""


@dataclass(frozen=True)
class Curve:
    """A line in a plot.

    Attributes:
        label: The name in the legend.
        x: Horizontal coordinates.
        y: Vertical coordinates.
        colour: Index of the colour; a run has the same colour in all plots.
        dash: Index of the line style.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dash: int = 0


@dataclass(frozen=True)
class Drawn:
    """A plot drawn in one size.

    Attributes:
        size: `large`, or `small` for narrow windows.
        svg: An `svg` element as wide as its container, hidden from screen readers.
        curves: The label and points of each curve: x and y in units of the picture, and the values.
        axes: The names of both axes.
    """

    size: str
    svg: str
    curves: list[dict[str, Any]]
    axes: tuple[str, str]


def curves_svg(
    name: str, curves: Sequence[Curve], *, x: str, y: str, logarithmic: bool = False
) -> tuple[Drawn, ...]:
    """Draw curves in one plot, once for each size; the page shows the drawing that fits the window.

    Args:
        name: A name that is unique on the page, with only letters, digits and dashes.
        curves: The lines.
        x: Name and unit of the horizontal axis.
        y: Name and unit of the vertical axis.
        logarithmic: Make the vertical axis logarithmic.
    """
    return tuple(_drawn(f"{name}-{size}", size, curves, x, y, logarithmic=logarithmic) for size in _SIZES)


def _drawn(name: str, size: str, curves: Sequence[Curve], x: str, y: str, *, logarithmic: bool) -> Drawn:
    # Importing Matplotlib takes a second. pyplot would also look for a display.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ddim-host",
        "font.family": "sans-serif",
        "font.size": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys((f"{what}.color" for what in ("text", "xtick", "ytick", "grid")), _INK),
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor"), _INK),
        "grid.alpha": 0.15,
    }
    with rc_context(style), warnings.catch_warnings():
        # The text is drawn by the browser, which has the glyphs; Matplotlib only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=_SIZES[size], layout="constrained")
        axes = figure.add_subplot()
        lines: list[Line2D] = []
        for curve in curves:
            lines += axes.plot(
                curve.x,
                curve.y,
                color=_COLOURS[curve.colour % len(_COLOURS)],
                linestyle=_DASHES[curve.dash % len(_DASHES)],
                linewidth=1.6,
                marker="." if len(curve.x) <= _MOST_MARKED else None,
                markersize=4,
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if all(isinstance(value, int) for curve in curves for value in curve.x):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # no half epochs
        if logarithmic:
            axes.set_yscale("log")
        axes.grid(visible=True)
        legend = axes.legend(lines, [""] * len(lines), frameon=False, fontsize=9)
        legend.set_in_layout(False)  # a long legend would leave no room for the axes
        for text, curve in zip(legend.get_texts(), curves, strict=True):
            # Show names literally: Matplotlib starts a formula at `$` and hides labels that begin with `_`.
            text.set_parse_math(False)
            text.set_text(textwrap.fill(curve.label, _LEGEND_WIDTHS[size]))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        transform = axes.transData.transform
        points = [_points(curve, transform, figure.bbox.height, figure.dpi) for curve in curves]
    return Drawn(size, _embedded(buffer.getvalue(), name), points, (x, y))


def _points(curve: Curve, transform: Callable[[Any], Any], height: float, dpi: float) -> dict[str, Any]:
    """Return the points of a curve in units of the picture, and their values."""
    every = -(-len(curve.x) // _MOST_POINTS)
    values = [(float(a), float(b)) for a, b in zip(curve.x, curve.y, strict=True)]
    kept = [pair for pair in values[::-1][::every][::-1] if math.isfinite(pair[1])]
    points = []
    for (a, b), (across, up) in zip(kept, transform(kept) if kept else [], strict=True):
        left, top = across / dpi * _DOTS, (height - up) / dpi * _DOTS
        points.append([round(float(left), 1), round(float(top), 1), float(f"{a:.6g}"), float(f"{b:.4g}")])
    return {"label": curve.label, "points": points}


def _embedded(document: str, name: str) -> str:
    """Return the `svg` element of a document with the size, colours and fonts of the page.

    Style rules are removed because they would apply to the whole page; ids are made unique.
    """
    svg = document[document.index("<svg") :].strip()
    for pattern, replacement in (
        (r' (?:width|height)="[^"]*pt"', ""),
        (r"<metadata>.*?</metadata>|<style.*?</style>", ""),
        (r"font-family: [^;\"]*", "font-family: inherit"),
        (r'\bid="', f'id="{name}-'),
        (r"url\(#", f"url(#{name}-"),
        (r'href="#', f'href="#{name}-'),
        (_INK, "currentColor"),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return svg.replace("<svg ", '<svg aria-hidden="true" stroke-linejoin="round" ', 1)
