"""Sphinx configuration of the documentation: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from ddim_host import __version__  # noqa: E402 - found by the path above

project = "ddim-host"
version = release = __version__
language = "en"

extensions = [
    "mathml",
    "myst_parser",
    "source_role",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxarg.ext",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]
nitpicky = True
# Types from NumPy and from annotations have no page here. Links written in pages are all checked.
nitpick_ignore_regex = [("py:.*", ".*")]

default_role = "literal"
autodoc_member_order = "bysource"
add_module_names = False  # authors of plugins import from `ddim_host`, wherever a name is defined
autodoc_inherit_docstrings = False
autodoc_class_signature = "separated"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Images", "Loss", "Weights", "SamplerState")}
napoleon_use_ivar = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "ddim-host"
html_show_copyright = False
html_show_sourcelink = False
smartquotes = False


def set_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:  # noqa: ARG001 - the signature is Sphinx's
    """Declare Chinese pages as Chinese, so that browsers choose Chinese glyphs rather than Japanese ones."""
    if page.endswith(".zh-CN"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> None:
    """Register the handler with Sphinx."""
    app.connect("html-page-context", set_language)
