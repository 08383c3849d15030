"""What stands in several files agrees: addresses, versions, dependencies; the README is a page."""

import contextlib
import datetime
import io
import re
import tomllib
from pathlib import Path

import pytest

import skorchless
from skorchless.estimators.base import DOCUMENTATION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
URLS = PROJECT["urls"]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BUILT = {"_build", "auto_examples", "generated"}


def name_of(requirement):
    """A package's name in the form in which all spellings of it are the same."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def texts():
    """The files that may hold an address, with what is in them."""
    own = [ROOT / folder for folder in (".ci", ".github", "docs", "skorchless")]
    paths = [*ROOT.glob("*"), *(path for folder in own for path in folder.rglob("*"))]
    for path in sorted(paths):
        built = BUILT & set(path.relative_to(ROOT).parts)
        if path.suffix in {".md", ".py", ".toml", ".cff", ".yml", ".yaml", ".rst"} and not built:
            yield path.relative_to(ROOT), path.read_text()


def test_all_addresses_are_those_that_pyproject_declares():
    own = re.compile(r"https?://[\w.-]*(?:skorchless|github\.com/skorchless)[^\s)\"'<>]*")
    found = [(path, url) for path, text in texts() for url in own.findall(text)]
    assert {path.name for path, _ in found} >= {"pyproject.toml", "README.md", "base.py", "conf.py"}
    declared = tuple(URLS.values())
    assert [(path, url) for path, url in found if not url.startswith(declared)] == []
    assert URLS["Documentation"] == DOCUMENTATION
    assert all(URLS[name].startswith(URLS["Source"]) for name in ("Issues", "Changelog"))


def test_addresses_stand_in_few_places():
    declared = (URLS["Documentation"], URLS["Source"])
    times = {str(path): sum(map(text.count, declared)) for path, text in texts()}
    several = {path for path, count in times.items() if count > 1}
    assert several <= {"pyproject.toml", "README.md", "CITATION.cff"}


def test_links_of_the_readme_are_absolute():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []


def test_links_of_the_readme_lead_to_files():
    source, pages = f"{URLS['Source']}/", URLS["Documentation"]
    missing = []
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if match := re.match(rf"{source}(?:blob|raw)/main/(.+)", link):
            missing += [] if (ROOT / match[1]).exists() else [link]
        elif match := re.match(rf"{source}actions/workflows/(\w+\.yml)", link):
            missing += [] if (ROOT / ".github/workflows" / match[1]).exists() else [link]
        elif link.startswith(pages) and link != pages:
            page = (ROOT / "docs" / link.removeprefix(pages)).with_suffix(".md")
            missing += [] if page.exists() or "auto_examples" in link else [link]
    assert missing == []


def test_the_readme_prints_what_it_shows():
    code, output = re.search(
        r"^```python\n(.*?)^```\n+^```\n(.*?)^```", README, re.M | re.S
    ).groups()
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 8
    assert "BatchedGridSearchCV" in code
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "<README.md>", "exec"), {})
    assert printed.getvalue() == output


def test_dependencies_agree():
    display = {
        "numpy": "NumPy",
        "joblib": "joblib",
        "scipy": "SciPy",
        "scikit-learn": "scikit-learn",
        "torch": "PyTorch",
    }
    assert {name_of(line) for line in PROJECT["dependencies"]} == set(display)
    for name in display.values():
        assert re.search(rf"needs Python 3\.\d+[^.]*\b{name}\b", README)
        assert re.search(rf"Runtime\s+dependencies are [^.]*\b{name}\b", CONTRIBUTING)


def test_what_the_extras_name_is_pinned():
    pins = (ROOT / "constraints.txt").read_text()
    pinned = {name_of(line) for line in pins.splitlines() if "==" in line}
    named = {name_of(line) for extra in PROJECT["optional-dependencies"].values() for line in extra}
    assert named | {name_of(line) for line in PROJECT["dependencies"]} <= pinned


def test_the_lowest_python_agrees():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    versions = [
        line.rpartition(" :: ")[2]
        for line in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", line)
    ]
    assert versions[0] == lowest
    assert versions == sorted(versions, key=lambda version: int(version.partition(".")[2]))
    for text in (README, CONTRIBUTING):
        assert f"Python {lowest} or newer" in text
    assert f"python_version = {lowest}" in (ROOT / "setup.cfg").read_text()


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    heading = re.search(r"^## \[(.+)\] - (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.search(r"^version: (\S+)", citation, re.M)[1] == skorchless.__version__ == heading[1]
    date = re.search(r"^date-released: (\S+)", citation, re.M)[1]
    assert datetime.date.fromisoformat(date)
    assert heading[2] in (date, "Unreleased")


@pytest.mark.parametrize("host", ["pypi", "anaconda", "conda-forge"])
def test_the_readme_names_no_package_index(host):
    assert host not in README.lower()
