"""What notebooks and shells show of an estimator."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import sklearn
from packaging.version import Version

import skorchless
from skorchless.estimators.base import DOCUMENTATION

#: What scikit-learn's base classes bring along.
INHERITED = {"get_params", "set_params", "get_metadata_routing"}
REQUESTS = {"set_fit_request", "set_partial_fit_request", "set_score_request"}
METHODS = {"fit", "partial_fit", "predict", "score", "to_sklearn", "to_torch"}
CLASSIFIER = {"decision_function", "predict_proba", "predict_log_proba"}


@pytest.mark.parametrize("fitted", [False, True])
def test_the_html_representation_links_to_the_documentation(Estimator, data, fitted):
    model = Estimator().fit(*data) if fitted else Estimator()
    html = model._repr_html_()
    assert f'href="{DOCUMENTATION}generated/skorchless.{Estimator.__name__}.html"' in html
    assert f"Documentation for {Estimator.__name__}" in html
    assert ("Not fitted" in html) == (not fitted)


def test_the_link_is_the_one_that_the_package_names():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION


def test_the_plain_representation_names_what_was_changed(Estimator):
    assert repr(Estimator()) == f"{Estimator.__name__}()"
    assert repr(Estimator(alpha=0.5)) == f"{Estimator.__name__}(alpha=0.5)"


def test_tab_completion_shows_parameters_methods_and_nothing_else(Estimator, data):
    X, y = data
    model = Estimator()
    offered = {name for name in dir(model) if not name.startswith("_")}
    expected = METHODS | INHERITED | REQUESTS | set(model.get_params())
    if "Softmax" in Estimator.__name__:
        expected |= CLASSIFIER
    if Version(sklearn.__version__) >= Version("1.9"):
        expected |= {"set_callbacks"}  # below, the estimators lack it
    assert offered == expected
    model.fit(X, y, X_val=X, y_val=y).partial_fit(X, y)
    added = {name for name in dir(model) if not name.startswith("_")} - offered
    assert all(re.fullmatch(r"[a-z_]+[a-z]_", name) for name in added)
    assert {name for name in added if f"\n{name} : " not in inspect.getdoc(Estimator)} == set()


def test_tab_completion_of_the_package_shows_what_is_public():
    assert dir(skorchless) == sorted([*skorchless.__all__, "__version__"])
