"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

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
# Types of NumPy and of annotations have no page here to lead to; links that the pages write are all checked.
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
