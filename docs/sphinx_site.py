"""What the site needs beyond Sphinx's own extensions, as a Sphinx extension.

- Formulas become MathML when the site is built, so they need no script and no network.
- Pages draw their own pictures: ``.. plot:: generated/code/PAGE.py`` runs the page's Python.
- A finished site is searched for dead links and for scripts, styles and fonts from elsewhere.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: Tags that make a browser fetch something, and the attribute that says what.
FETCHED = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src"}

#: Links of a page's head that nothing is fetched for.
NOT_FETCHED = {"canonical", "search", "index", "genindex", "next", "prev", "author", "copyright"}


#: Examples that come before the others of their section, which are in alphabetical order.
FIRST = ["plot_quickstart.py", "plot_raw_table.py", "plot_loss_curves.py"]


def in_order(example):
    """Where an example stands in its section of the gallery."""
    return (FIRST.index(example), "") if example in FIRST else (len(FIRST), example)


def inline_formula(writer, node):
    """Write a formula of a line."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed_formula(writer, node):
    """Write a formula that stands alone."""
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def write_code(app):
    """Write the Python of each page that draws to a script, which the page's picture is made by."""
    folder = Path(app.srcdir) / "generated" / "code"
    folder.mkdir(parents=True, exist_ok=True)
    for page in Path(app.srcdir).glob("*.md"):
        text = page.read_text()
        if f".. plot:: generated/code/{page.stem}.py" in text:
            (folder / f"{page.stem}.py").write_text("\n".join(PYTHON.findall(text)))


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
        "mathml", inline_renderers=(inline_formula, None), block_renderers=(displayed_formula, None)
    )
    app.connect("builder-inited", write_code, priority=100)
    app.connect("build-finished", check_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
