"""What the documentation shows is run here: every block of Python, every script of the gallery."""

import doctest
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import sklearn
from packaging.version import Version

import skorchless
from skorchless.estimators.memory import Memory

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *DOCS.glob("coming_from/*.md"),
        *DOCS.glob("benchmarks/*.md"),
    ]
)
SCRIPTS = sorted((DOCS / "examples").rglob("*.py"))
FENCE = re.compile(r"^```(?P<kind>\S*).*?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
#: Kinds of blocks; Python is run here, "text" is what it prints, the others are Sphinx's, commands,
#: data or plain text.
KINDS = {"python", "text", "bash", "bibtex", ""}
KINDS |= {"{toctree}", "{eval-rst}", "{include}", "{literalinclude}"}


def blocks(page, kind):
    return [match["text"] for match in FENCE.finditer(page.read_text()) if match["kind"] == kind]


def name_of(path):
    return str(path.relative_to(ROOT))


def code_and_output(page):
    """The blocks of Python of a page, each with the block of text that follows it, if one does."""
    found = []
    for match in FENCE.finditer(page.read_text()):
        if match["kind"] == "python":
            found.append((match["text"], ""))
        elif match["kind"] == "text" and found and not found[-1][1]:
            found[-1] = (found[-1][0], match["text"])
    return found


WITH_CODE = [page for page in PAGES if blocks(page, "python")]
#: Pages with code that needs packages that skorchless does not need.
EXTERNAL = {"README", "keras", "saving", "serving", "skorch"}


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder to write to, and no picture left open."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


def test_there_are_pages_and_scripts_to_run():
    assert len(WITH_CODE) >= 11
    assert len(SCRIPTS) >= 9


def test_every_block_is_of_a_kind_that_we_know():
    for page in PAGES:
        assert {match["kind"] for match in FENCE.finditer(page.read_text())} <= KINDS, page


#: Pages with code that needs a newer scikit-learn than the oldest that we support.
SINCE = {f"docs/{page}.md": "1.9" for page in ("data", "getting_started", "progress")}


# Keras asks torch's tensors for arrays in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.external if page.stem in EXTERNAL else ())
        for page in WITH_CODE
    ],
    ids=name_of,
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, somewhere, capsys):
    since = SINCE.get(name_of(page), "0")
    if Version(sklearn.__version__) < Version(since):
        pytest.skip(f"shows what scikit-learn has from version {since} on")
    namespace = {"__name__": "__main__"}
    same = doctest.OutputChecker().check_output
    for text, shown in code_and_output(page):
        exec(compile(text, f"<{name_of(page)}>", "exec"), namespace)
        printed = capsys.readouterr().out
        if shown or DOCS in page.parents:
            assert same(shown, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), printed


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_a_script_of_the_gallery_runs_and_draws(script, somewhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(plt, "show", lambda: None)
    runpy.run_path(str(script), run_name="__main__")
    assert plt.get_fignums()


def test_commands_name_what_there_is():
    for page in PAGES:
        for text in blocks(page, "bash"):
            for path in re.findall(r"\S+\.(?:py|txt)\b", text):
                assert (ROOT / path).exists(), page


def test_every_public_name_has_a_page_of_its_own():
    (listing,) = blocks(DOCS / "api.md", "{eval-rst}")
    listed = re.findall(r"^   (\w+)$", listing, re.MULTILINE)
    assert sorted(listed) == sorted(skorchless.__all__)


def test_coming_from_shows_code_before_and_after():
    pages = {page.stem: page.read_text() for page in DOCS.glob("coming_from/*.md")}
    subjects = {"loop", "skorch", "sgd", "logistic_regression", "keras", "lbfgs_probe"}
    assert set(pages) == subjects | {"index"}
    for name, text in pages.items():
        if name != "index":
            before, after = text.partition("## After")[::2]
            assert "```python" in before.partition("## Before")[2]
            assert "```python" in after


def test_the_gallery_has_each_tutorial_and_each_kind_of_data():
    subjects = [script.stem.removeprefix("plot_") for script in SCRIPTS]
    tutorials = [name.split("_")[1] for name in subjects if name.startswith("tutorial_")]
    assert tutorials == ["1", "2", "3", "4", "5"]
    assert {"grid", "probes", "raw_table", "text", "parquet", "loss_curves"} <= set(subjects)


@pytest.mark.parametrize("page", ["index", "getting_started", "progress"])
def test_a_page_that_draws_shows_the_picture_of_its_own_code(page):
    text = (DOCS / f"{page}.md").read_text()
    assert "LossCurveDisplay.from_estimator" in "".join(blocks(DOCS / f"{page}.md", "python"))
    assert text.count(f".. plot:: generated/code/{page}.py\n   :alt: ") == 1


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for tree in blocks(page, "{toctree}"):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / name).resolve() for name in names}
    inside = {page.with_suffix("") for page in PAGES if DOCS in page.parents}
    assert inside - listed == {DOCS / "index"}


def test_the_pictures_of_the_benchmarks_are_those_of_their_tables(tmp_path):
    draw = [sys.executable, "docs/benchmarks/plots.py", str(tmp_path)]
    subprocess.run(draw, cwd=ROOT, check=True, timeout=300, env=os.environ | {"MPLBACKEND": "Agg"})
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (DOCS / "benchmarks").glob("*.svg")}
    assert drawn.keys() == kept.keys()
    words = "run 'python docs/benchmarks/plots.py' after a change of the tables"
    assert all(drawn[name] == kept[name] for name in drawn), words


def test_the_types_that_skops_has_to_trust_are_listed():
    page = (DOCS / "saving.md").read_text()
    public = {getattr(skorchless, name) for name in skorchless.__all__}
    for trusted in (public | {Memory}) - {skorchless.LossCurveDisplay}:
        assert f"| `{trusted.__module__}.{trusted.__name__}` |" in page


def formulas():
    """Every formula of the pages and of the public docstrings."""
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for match in re.finditer(r"\$\$(.+?)\$\$|(?<!\$)\$([^$`]+?)\$(?!\$)", text, re.DOTALL):
            yield match[1] or match[2]
    for name in skorchless.__all__:
        text = inspect.getdoc(getattr(skorchless, name))
        yield from re.findall(r":math:`(.+?)`", text)
        yield from re.findall(r"^\.\. math:: (.+?)\n\n", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def sphinx_site(monkeypatch):
    """The site's own Sphinx extension, where what documentation needs is installed."""
    pytest.importorskip("ziamath")
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("sphinx_site")


def test_formulas_can_be_drawn_without_a_network(sphinx_site):
    found = list(formulas())
    assert len(found) > 50
    for formula in found:
        assert "<path" in sphinx_site.drawn(formula, inline=True)
    with pytest.raises(ValueError, match="cannot be drawn"):
        sphinx_site.drawn("\\nonesuch{x}", inline=True)


def test_the_version_to_cite_is_this_one():
    assert f"version = {{{skorchless.__version__}}}" in (DOCS / "citing.md").read_text()


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<h1 id="top">A</h1><a href="#top"></a><a href="b.html#end"></a>', None),
        ('<a href="https://example.org"></a><img src="data:image/png;base64,">', None),
        ('<a href="c.html"></a>', "a.html links to c.html, which does not exist"),
        ('<a href="b.html#no"></a>', "a.html links to b.html#no, where there is no such section"),
        ('<script src="https://example.org/x.js"></script>', "a.html fetches https://example.org"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "a.html fetches //example.org"),
    ],
)
def test_dead_links_and_fetched_files_are_found(html, fault, sphinx_site, tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<p id="end"></p>')
    found = []
    monkeypatch.setattr(sphinx_site, "logger", SimpleNamespace(warning=found.append))
    app = SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=tmp_path)
    sphinx_site.check_site(app, None)
    assert len(found) == (fault is not None)
    assert all(message.startswith(fault) for message in found)


def test_the_quickstart_comes_first_in_the_gallery(sphinx_site):
    names = [script.name for script in (DOCS / "examples").glob("*.py")]
    assert min(names, key=sphinx_site.in_order) == "plot_quickstart.py"
    for section in ("tutorials", "searches", "scale"):
        assert (DOCS / "examples" / section / "GALLERY_HEADER.rst").exists()


def test_code_on_the_site_is_14_pixels_or_more():
    style = (DOCS / "_static" / "skorchless.css").read_text()
    sizes = re.findall(r"pre \{\n  font-size: ([\d.]+)rem;", style)
    assert sizes and all(16 * float(size) >= 14 for size in sizes)
