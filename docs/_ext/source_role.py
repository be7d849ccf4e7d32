"""The role `source`: a file of the repository, or something that it defines, linked to a page of its source.

`ddim_host/diffusion/ddim.py::ddim_step` names a function, `...schedule.py::NoiseSchedule.add_noise` a method.
What does not exist is a warning, which `make docs` makes an error; the line is looked up when the page is made.
"""

from __future__ import annotations

import ast
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]


def line_of(reference: str, root: Path = ROOT) -> int:
    """The line that a reference means; 1 where it means a whole file.

    Raises:
        ValueError: There is no such file, or it defines no such thing.
    """
    name, _, qualified = reference.partition("::")
    path = root / name
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    line, body = 1, ast.parse(path.read_text(encoding="utf-8")).body if qualified else []
    for part in filter(None, qualified.split(".")):
        found = next((node for node in body if part in _defined_by(node)), None)
        if found is None:
            raise ValueError(f"{name} defines no {qualified}")
        line, body = found.lineno, getattr(found, "body", [])
    return line


def _defined_by(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _page(name: str) -> str:
    return f"_source/{name}"


class SourceRole(SphinxRole):
    """What is written in the role, as code, linked to its line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the link."""
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
    """A page for every file that is referred to."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="line", wrapcode=True)
    for name in sorted(app.env.__dict__.get("ddim_sources", ())):
        text = (ROOT / name).read_text(encoding="utf-8")
        body = highlight(text, get_lexer_for_filename(name), formatter)
        yield _page(name), {"title": name, "body": f"<h1>{html.escape(name)}</h1>{body}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("source", SourceRole())
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
