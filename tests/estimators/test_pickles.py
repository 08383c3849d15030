"""Pickles that earlier versions wrote still load, predict and go on."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import skorchless

FILES = sorted((Path(__file__).parents[1] / "pickles").glob("*.pickle"))
each_version = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_this_version_has_its_pickles():
    assert skorchless.__version__ in [path.stem for path in FILES]


@each_version
def test_the_models_of_a_version_predict_what_they_did(path):
    content = pickle.loads(path.read_bytes())
    assert len(content["predictions"]) >= 6
    for name, predictions in content["predictions"].items():
        found = content["models"][name].predict(content["X"])
        if predictions.dtype.kind == "f":
            assert_allclose(found, predictions, rtol=1e-12)
        else:
            assert_array_equal(found, predictions)


@each_version
def test_the_models_of_a_version_may_be_fitted_on(path):
    content = pickle.loads(path.read_bytes())
    X, models = content["X"], content["models"]
    begun = models["begun by partial_fit"]
    passes = begun.n_iter_
    assert begun.partial_fit(X, content["y"]).n_iter_ == passes + 1
    for model in models.values():
        fresh = clone(model).fit(X, content["y"] > 0)
        assert np.isfinite(fresh.predict(X)).all()
