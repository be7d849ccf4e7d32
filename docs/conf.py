"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from ddim_host import __version__  # noqa: E402 - found by the path above

project = "ddim-host"
version = release = __version__
language = "en"

extensions = ["sphinxarg.ext", "myst_parser", "source_role", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]
nitpicky = True

html_theme = "furo"
html_title = "ddim-host"
html_show_copyright = False
html_show_sourcelink = False
smartquotes = False
