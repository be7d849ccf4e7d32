"""Curves as SVG that takes the colours and the fonts of the page around it."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.lines import Line2D

# Colours that are told apart by people who see few of them (Okabe and Ito), on light and on dark ground.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")

_INK = "#010203"
"""Drawn in place of the page's own text colour, which is only known where the page is shown."""

_WIDTH, _HEIGHT = 7.0, 3.6
_MOST_MARKED = 60


@dataclass(frozen=True)
class Curve:
    """A line in a plot.

    Attributes:
        label: Its name in the legend.
        x: Where.
        y: What.
        colour: Which of the colours; runs keep theirs in all plots.
        dash: Which of the line styles.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dash: int = 0


def curves_svg(name: str, curves: Sequence[Curve], *, x: str, y: str, logarithmic: bool = False) -> str:
    """Draw lines over each other.

    Args:
        name: Another one for each plot of a page: letters, digits and dashes.
        curves: The lines.
        x: What the horizontal axis is, with its unit.
        y: What the vertical axis is, with its unit.
        logarithmic: Whether the vertical axis is.

    Returns:
        An `svg` element, as wide as what it is put into; it says nothing to those who cannot see it.
    """
    # A second to import, which only those who draw should pay. No pyplot: it would look for a screen.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

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
        # The page has the glyphs: its text stays text. Here it is only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
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
        if logarithmic:
            axes.set_yscale("log")
        axes.grid(visible=True)
        legend = axes.legend(lines, [""] * len(lines), frameon=False, fontsize=9)
        for text, curve in zip(legend.get_texts(), curves, strict=True):
            # Names are not Matplotlib's markup, in which `$` begins a formula and `_` hides a label.
            text.set_parse_math(False)
            text.set_text(curve.label)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(buffer.getvalue(), name)


def _embedded(document: str, name: str) -> str:
    """The `svg` element of a document, as a part of a page: in its size, its colours and its fonts.

    Its rules of style would hold for the whole page, and its ids stand there beside those of other plots.
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
