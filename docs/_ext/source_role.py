"""Links from the documentation to source files and to the objects that they define.

[`ddim_host/diffusion/ddim.py::ddim_step`](../ddim_host/diffusion/ddim.py) names a function,
`...schedule.py::NoiseSchedule.add_noise` a method. Plain Markdown readers follow the link to the
file. A missing file or name is a warning, which `make docs` turns into an error. Lines are looked up when the
pages are built.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from docs._ext.source_lines import ROOT, line_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx


def _page(name: str) -> str:
    return f"_source/{name}"


class SourceRole(SphinxRole):
    """Role that shows its text as code, linked to its line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Create the link."""
        name = self.text.partition("::")[0]
        literal = nodes.literal(self.text, self.text)
        try:
            line = line_of(self.text)
        except ValueError as error:
            logging.getLogger(__name__).warning("%s", error, location=self.get_location())
            return [literal], []
        known: set[str] = self.env.__dict__.setdefault("ddim_sources", set())
        known.add(name)
        up = "../" * self.env.docname.count("/")
        link = nodes.reference("", "", literal, internal=True, refuri=f"{up}{_page(name)}.html#line-{line}")
        return [link], []


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for every referenced file."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="line", wrapcode=True)
    for name in sorted(app.env.__dict__.get("ddim_sources", ())):
        text = (ROOT / name).read_text(encoding="utf-8")
        lexed_as = "notebook.json" if name.endswith(".ipynb") else name
        body = highlight(text, get_lexer_for_filename(lexed_as), formatter)
        yield _page(name), {"title": name, "body": f"<h1>{html.escape(name)}</h1>{body}"}, "page.html"


def read_links(app: Sphinx, page: str, source: list[str]) -> None:  # noqa: ARG001 - the signature is Sphinx's
    """Turn links to files into roles; Sphinx alone would copy the files."""
    source[0] = re.sub(r"\[`([^`]+)`\]\(\.\./[^)]+\)", r"{source}`\1`", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role with Sphinx."""
    app.add_role("source", SourceRole())
    app.connect("source-read", read_links)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
