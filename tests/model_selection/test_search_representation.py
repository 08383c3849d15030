"""What notebooks and shells show of a search."""

import pytest
import sklearn.model_selection

import skorchless
from skorchless.estimators.base import DOCUMENTATION

RATES = {"learning_rate": [0.1, 1.0]}
each_search = pytest.mark.parametrize("name", ["BatchedGridSearchCV", "BatchedRandomizedSearchCV"])


def make(package, name, estimator):
    options = {"n_iter": 2} if "Randomized" in name else {}
    return getattr(package, name)(estimator, RATES, cv=2, **options)


@each_search
def test_the_html_representation_links_to_the_documentation(classes, sgd, name):
    search = make(skorchless, name, sgd)
    for shown in (search, search.fit(*classes)):
        html = shown._repr_html_()
        for part in (name, "TorchSoftmaxClassifier"):
            assert f'href="{DOCUMENTATION}generated/skorchless.{part}.html"' in html


@each_search
def test_tab_completion_adds_the_loss_curves_to_scikit_learns_and_nothing_else(classes, sgd, name):
    ours = make(skorchless, name, sgd).fit(*classes)
    theirs = make(sklearn.model_selection, name.removeprefix("Batched"), sgd).fit(*classes)
    offered, expected = (
        {entry for entry in dir(search) if not entry.startswith("_")} for search in (ours, theirs)
    )
    assert offered - expected == {"loss_curves_", "converged_"}
    assert expected - offered == set()


@each_search
def test_every_attribute_of_its_own_is_documented(classes, sgd, name):
    search = make(skorchless, name, sgd).fit(*classes)
    attributes = [entry for entry in vars(search) if entry.endswith("_")]
    documented = type(search).__doc__
    assert "loss_curves_" in attributes
    assert [entry for entry in attributes if f"{entry}" not in documented] == []
