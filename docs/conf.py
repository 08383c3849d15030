"""Configuration of the documentation: ``sphinx-build -W docs docs/_build``."""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib
from docutils import nodes

from skorchless import __version__

matplotlib.use("Agg")
warnings.filterwarnings("error", module="skorchless")
os.environ["SCIPY_ARRAY_API"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # for the extension sphinx_site

project = "skorchless"
author = "The skorchless developers"
copyright = "The skorchless developers, BSD-3-Clause"
version = release = __version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_site",
]
exclude_patterns = ["_build", "_templates", "examples", "generated/backreferences"]
templates_path = ["_templates"]
root_doc = "index"

# Text.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# Programming interface.
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_typehints = "none"  # docstrings say more
toc_object_entries_show_parents = "hide"

# Pictures.
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 160)]
plot_rcparams = {"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True}
plot_apply_rcparams = True
#: Pages write files, such as a pickled model.
_scratch = tempfile.TemporaryDirectory()
plot_working_directory = _scratch.name

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "subsection_order": ["examples/tutorials", "examples/searches", "examples/scale"],
    "within_subsection_order": "sphinx_site.in_order",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skorchless",),
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib", "sphinx_site.enlarge_text"),
    "thumbnail_size": (560, 390),
    "capture_repr": ("_repr_html_",),
    "abort_on_example_error": True,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
    "min_reported_time": 1e6,
    "write_computation_times": False,
}

# Looks.
html_theme = "pydata_sphinx_theme"
html_title = f"skorchless {__version__}"
html_static_path = ["_static"]
html_css_files = ["skorchless.css"]
html_show_sourcelink = False
html_baseurl = "https://skorchless.readthedocs.io/en/stable/"
html_math_renderer = "svg"
html_theme_options = {
    "logo": {"text": "skorchless"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {name: [] for name in ("index", "install", "getting_started", "faq")}

#: The address of the documentation does not exist yet.
linkcheck_ignore = [html_baseurl]

#: Where other packages document their names. Written down rather than looked up, as intersphinx
#: would, so that the documentation builds without a network.
ELSEWHERE = {
    "sklearn": "https://scikit-learn.org/stable/modules/generated/{}.html",
    "torch": "https://docs.pytorch.org/docs/stable/generated/{}.html",
    "matplotlib": "https://matplotlib.org/stable/api/_as_gen/{}.html",
    "term": "https://scikit-learn.org/stable/glossary.html#term-{}",
    "ref": "https://scikit-learn.org/stable/{}.html",
}


def link_elsewhere(app, env, node, content):
    """Link what this documentation lacks: names of other packages, scikit-learn's glossary."""
    target = node["reftarget"]
    kind = node["reftype"] if node["refdomain"] == "std" else target.partition(".")[0]
    if kind in ELSEWHERE:
        return nodes.reference("", "", content, refuri=ELSEWHERE[kind].format(target))


def setup(app):
    app.connect("missing-reference", link_elsewhere)
