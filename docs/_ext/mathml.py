"""Formulas as MathML, which browsers render without a script or a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


def _converted(node: nodes.Element, *, as_block: bool) -> str:
    try:
        return str(convert(node.astext(), display="block" if as_block else "inline"))
    except Exception as error:  # each kind of mistake raises its own exception
        logging.getLogger(__name__).warning("cannot read this formula: %r", error, location=node)
        return ""


def inline(translator: HTML5Translator, node: nodes.Element) -> None:
    """Write a formula within a line."""
    translator.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.Element) -> None:
    """Write a displayed formula."""
    translator.body.append(f'<div class="math-wrapper">{_converted(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer with Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
