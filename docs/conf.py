"""How Sphinx builds these pages: ``make docs``. What is generated is made by ``docs/building``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is not our warning

import dsf  # noqa: E402

project = "dsf-toolkit"
author = copyright = "The dsf developers"
version = release = dsf.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docs.building.mathml",
    "docs.building.docstrings",
    "docs.building.generated",
    "docs.building.live",
    "docs.building.navigation",
]
exclude_patterns = ["_build", "images/*.py", "building"]
nitpicky = True
# Shapes and other libraries' types: these pages are built without a network, so they link nowhere.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!dsf\.).*"),
    (r"py:.*", r"dsf\.(\w+\.)*[a-z_]+\.\w+"),  # where a type lives inside its subpackage
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run every notebook, and make docs runs them for these pages
nb_execution_timeout = 280
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # such as that loops are compiled; the tests look at it
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # widgets would be fetched
# Their picture stands in their place.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # an annotation is not markup: its stars would be
copybutton_prompt_text = ">>> "

smartquotes_action = "qe"  # two hyphens are an option of a command, and no dash

html_theme = "furo"
html_title = "dsf"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]
html_copy_source = False
html_show_sphinx = False
