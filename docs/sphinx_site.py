"""What the site needs beyond Sphinx's own extensions, as a Sphinx extension.

- Formulas become pictures in SVG when the site is built, so they need no script and no network, and
  look the same whatever fonts there are.
- Pages draw their own pictures: ``.. plot:: generated/code/PAGE.py`` runs the page's Python.
- Inherited methods are linked to their source.
- Thumbnails of the gallery get an alternative text.
- A finished site is searched for dead links and for scripts, styles and fonts from elsewhere.
"""

import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import skorchless

logger = logging.getLogger(__name__)

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

THUMBNAIL = re.compile(r"(?P<folder>.*)images/thumb/sphx_glr_(?P<example>.*)_thumb\.png")

#: Pixels of the text that formulas are drawn for, and their size beside it.
UNIT = 16.0
SCALE = 1.1
ziamath.config.svg2 = False  # no names that several formulas of a page would share
ziamath.config.precision = 2

#: Tags that make a browser fetch something, and the attribute that says what.
FETCHED = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src"}

#: Links of a page's head that nothing is fetched for.
NOT_FETCHED = {"canonical", "search", "index", "genindex", "next", "prev", "author", "copyright"}


#: Examples that come before the others of their section, which are in alphabetical order.
FIRST = ["plot_quickstart.py", "plot_raw_table.py", "plot_loss_curves.py"]


def in_order(example):
    """Where an example stands in its section of the gallery."""
    return (FIRST.index(example), "") if example in FIRST else (len(FIRST), example)


def enlarge_text(gallery_conf, example):
    """Draw small pictures of many pixels, whose text can be read in a thumbnail."""
    plt.rcParams.update({"figure.figsize": (5.2, 3.6), "figure.dpi": 160})


def drawn(latex, inline):
    """A formula as SVG, in units of the text around it and in its colour."""
    if "\\" in convert(latex):  # what it does not know it leaves as it is
        raise ValueError(f"a formula has a command that cannot be drawn: {latex}")
    svg = ziamath.Latex(latex, size=UNIT, color="currentColor", inline=inline).svgxml()
    _, top, _, height = map(float, svg.get("viewBox").split())  # the baseline is at 0
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.get(side)) / UNIT * SCALE:.3f}em")
    svg.set("style", f"vertical-align: {-(top + height) / UNIT * SCALE:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", latex)
    return ElementTree.tostring(svg, encoding="unicode")


def inline_formula(writer, node):
    """Write a formula of a line."""
    writer.body.append(drawn(node.astext(), inline=True))
    raise nodes.SkipNode


def displayed_formula(writer, node):
    """Write a formula that stands alone."""
    writer.body.append(f'<div class="math">{drawn(node.astext(), inline=False)}</div>\n')
    raise nodes.SkipNode


def write_code(app):
    """Write the Python of each page that draws to a script, which the page's picture is made by."""
    folder = Path(app.srcdir) / "generated" / "code"
    folder.mkdir(parents=True, exist_ok=True)
    for page in Path(app.srcdir).glob("*.md"):
        text = page.read_text()
        if f".. plot:: generated/code/{page.stem}.py" in text:
            (folder / f"{page.stem}.py").write_text("\n".join(PYTHON.findall(text)))


def describe_thumbnails(app, doctree, docname):
    """Give the gallery's thumbnails the alternative text that sphinx-gallery leaves empty."""
    for image in doctree.findall(nodes.image):
        match = THUMBNAIL.fullmatch(image["uri"])
        if match and not image.get("alt"):
            title = app.env.titles[match["folder"] + match["example"]].astext()
            image["alt"] = f"Picture from the example {title!r}"


def find_module(app, module, attribute):
    """The module that viewcode has to show; for what scikit-learn defines one without its name."""
    value = importlib.import_module(module)
    for name in attribute.split("."):
        value = getattr(value, name)
    theirs = not value.__module__.startswith("skorchless")
    return "skorchless" if theirs else value.__module__


def find_source(app, module):
    """The source of a module for viewcode, which overlooks methods that a public class inherits."""
    analyzer = ModuleAnalyzer.for_module(module)
    tags = dict(analyzer.find_tags())
    for name in skorchless.__all__:
        for method, function in inspect.getmembers(getattr(skorchless, name), inspect.isfunction):
            if function.__module__ == module and function.__qualname__ in tags:
                tags.setdefault(f"{name}.{method}", tags[function.__qualname__])
    return analyzer.code, tags


class Page(HTMLParser):
    """The links of a page, what can be linked to in it, and what it fetches."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.fetched = [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and NOT_FETCHED & set((attributes.get("rel") or "").split()):
            return
        if attributes.get(FETCHED.get(tag, "")):
            self.fetched.append(attributes[FETCHED[tag]])


def check_site(app, exception):
    """Warn of links to what is not there, and of pages that need a network to be shown."""
    if exception is not None or app.builder.name != "html":
        return
    root = Path(app.outdir).resolve()
    pages = {
        path: Page(path.read_text())
        for path in root.rglob("*.html")
        if "_static" not in path.relative_to(root).parts  # the theme's templates
    }
    faults = set()
    for path, page in pages.items():
        own = path.relative_to(root)
        for link in page.links + page.fetched:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.fetched and url.scheme != "data":
                    faults.add(f"{own} fetches {link}")
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                faults.add(f"{own} links to {link}, which does not exist")
            elif target in pages and unquote(url.fragment) not in pages[target].anchors:
                faults.add(f"{own} links to {link}, where there is no such section")
    for fault in sorted(faults):
        logger.warning(fault)


def setup(app):
    app.add_html_math_renderer(
        "svg", inline_renderers=(inline_formula, None), block_renderers=(displayed_formula, None)
    )
    app.connect("builder-inited", write_code, priority=100)
    app.connect("viewcode-follow-imported", find_module)
    app.connect("viewcode-find-source", find_source)
    app.connect("doctree-resolved", describe_thumbnails)
    app.connect("build-finished", check_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
