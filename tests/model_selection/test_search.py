"""The searches in GridSearchCV's place."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpydoc.docscrape import NumpyDocString
from scipy.stats import loguniform
from searches import SGD, assert_same, make_classes, search_both
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GroupKFold,
    PredefinedSplit,
    RandomizedSearchCV,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

RATES = {"learning_rate": [0.01, 0.1, 1.0]}


def test_the_constructors_are_scikit_learns():
    ours = BatchedGridSearchCV(TorchSoftmaxClassifier(), {})
    theirs = sklearn.model_selection.GridSearchCV(TorchSoftmaxClassifier(), {})
    assert set(ours.get_params(deep=False)) == set(theirs.get_params(deep=False))
    assert isinstance(ours, sklearn.model_selection.GridSearchCV)
    assert issubclass(BatchedRandomizedSearchCV, RandomizedSearchCV)


def described(Search):
    """What the docstring says of each parameter and attribute, and its notes."""
    text = inspect.getdoc(Search).replace("RandomizedSearchCV", "GridSearchCV")
    sections = NumpyDocString(text)
    items = [*sections["Parameters"], *sections["Attributes"]]
    return {item.name: " ".join(item.desc).split() for item in items}, sections["Notes"]


def test_both_docstrings_say_the_same_of_what_they_share():
    (ours, notes), (theirs, other_notes) = map(
        described, (BatchedGridSearchCV, BatchedRandomizedSearchCV)
    )
    assert {"cv", "refit", "loss_curves_", "estimator"} < set(ours) & set(theirs)
    assert all(ours[name] == theirs[name] for name in set(ours) & set(theirs))
    assert notes == other_notes


def test_randomized_search_draws_the_same_candidates(classes, sgd):
    options = {"n_iter": 5, "random_state": 3, "cv": 3}
    space = {"learning_rate": loguniform(1e-3, 1), "alpha": [0.0, 0.1]}
    theirs = RandomizedSearchCV(sgd, space, **options).fit(*classes)
    ours = BatchedRandomizedSearchCV(sgd, space, **options).fit(*classes)
    assert_same(ours, theirs, atol=1e-12)


def test_a_list_of_grids_with_what_does_not_stack(classes, sgd):
    grid = [
        {"learning_rate": [0.1, 0.5], "batch_size": [8, None]},
        {"optimizer": ["adam"], "learning_rate": [0.01]},
        {
            "optimizer": ["auto"],
            "learning_rate": ["auto"],
            "batch_size": ["auto"],
            "tol": [1e-9],
            "max_iter": [1000],
        },
    ]
    assert_same(*search_both(sgd, grid, *classes, cv=3), atol=1e-6)


def test_several_workers_find_the_same(classes, sgd):
    alone = BatchedGridSearchCV(sgd, RATES, cv=3).fit(*classes)
    shared = BatchedGridSearchCV(sgd, RATES, cv=3, n_jobs=2).fit(*classes)
    assert_same(shared, alone, atol=1e-12)


def test_loss_curves_are_those_of_single_fits(classes, sgd):
    X, y = classes
    splits = [(np.arange(60), np.arange(60, 90)), (np.arange(30, 90), np.arange(30))]
    search = BatchedGridSearchCV(sgd, RATES, cv=splits).fit(X, y)
    assert [len(curves) for curves in search.loss_curves_] == [2, 2, 2]
    for rate, curves in zip(RATES["learning_rate"], search.loss_curves_, strict=True):
        for (train, _), curve in zip(splits, curves, strict=True):
            single = clone(sgd).set_params(learning_rate=rate).fit(X[train], y[train])
            assert_allclose(curve, single.loss_curve_, rtol=1e-12)


def test_the_best_is_refitted_as_usual(classes, sgd):
    X, y = classes
    search = BatchedGridSearchCV(sgd, RATES).fit(X, y)
    wanted = clone(sgd).set_params(**search.best_params_).fit(X, y)
    assert np.array_equal(search.best_estimator_.coef_, wanted.coef_)
    assert np.array_equal(search.predict(X), wanted.predict(X))
    assert search.score(X, y) == wanted.score(X, y)
    assert search.refit_time_ > 0
    assert list(search.classes_) == [0, 1, 2]


@pytest.mark.parametrize("refit", [False, "neg_log_loss", lambda results: 1])
def test_refit(classes, sgd, refit):
    options = {"scoring": ["accuracy", "neg_log_loss"], "refit": refit, "cv": 3}
    ours, theirs = search_both(sgd, RATES, *classes, **options)
    assert hasattr(ours, "best_estimator_") == hasattr(theirs, "best_estimator_")
    assert getattr(ours, "best_index_", None) == getattr(theirs, "best_index_", None)


def test_several_metrics_need_a_choice(classes, sgd):
    with pytest.raises(ValueError, match="refit must be set to a scorer key"):
        BatchedGridSearchCV(sgd, RATES, scoring=["accuracy", "f1_macro"]).fit(*classes)


def test_a_scorer_of_ones_own_sees_the_whole_estimator(classes, sgd):
    X, y = classes
    seen = []

    def scorer(estimator, X, y):
        seen.append(estimator)
        return {"share": estimator.score(X, y), "size": float(abs(estimator[-1].coef_).sum())}

    pipeline = make_pipeline(StandardScaler(), sgd)
    grid = {"torchsoftmaxclassifier__learning_rate": [0.1, 0.5]}
    options = {"scoring": scorer, "refit": "share", "cv": 2}
    assert_same(*search_both(pipeline, grid, X, y, **options), atol=1e-12)
    assert {type(estimator) for estimator in seen} == {Pipeline}
    rates = [estimator[-1].learning_rate for estimator in seen[-4:]]
    assert rates == [0.1, 0.5, 0.1, 0.5]


def test_groups_reach_the_splitter(classes, sgd):
    groups = np.arange(90) % 5
    ours, theirs = search_both(sgd, RATES, *classes, {"groups": groups}, cv=GroupKFold(5))
    assert_same(ours, theirs, atol=1e-12)


def test_sample_weights_are_routed(classes, sgd):
    X, y = classes
    weight = np.random.default_rng(0).uniform(0.1, 3, len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        model = clone(sgd).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        ours, theirs = search_both(model, RATES, X, y, {"sample_weight": weight}, cv=3)
    assert_same(ours, theirs, atol=1e-12)
    plain = BatchedGridSearchCV(sgd, RATES, cv=3).fit(X, y)
    assert not np.allclose(
        plain.cv_results_["mean_test_score"], ours.cv_results_["mean_test_score"], atol=1e-6
    )


def test_validation_rows_are_passed_on(classes, sgd):
    X, y = classes
    model = clone(sgd).set_params(early_stopping=True, max_iter=50, tol=1e-3)
    rows = make_classes(n=33, seed=5)
    ours, theirs = search_both(model, RATES, X, y, {"X_val": rows[0], "y_val": rows[1]}, cv=2)
    assert_same(ours, theirs, atol=1e-12)


# What goes wrong.


def test_a_diverged_candidate_leaves_the_others_alone(numbers):
    X, y = numbers
    model = TorchLinearRegressor(**{**SGD, "max_iter": 200})
    grid = {"learning_rate": [0.01, 1e6, 0.05]}
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 9") as caught:
        search = BatchedGridSearchCV(model, grid, cv=3, error_score=-7.0).fit(X, y)
    assert "The loss became infinite or NaN" in str(caught[0].message)
    assert search.cv_results_["split1_test_score"][1] == -7.0
    alone = BatchedGridSearchCV(model, {"learning_rate": [0.01, 0.05]}, cv=3).fit(X, y)
    for key in ("split0_test_score", "split2_test_score"):
        assert_allclose(search.cv_results_[key][[0, 2]], alone.cv_results_[key], rtol=1e-12)
    assert all(np.isfinite(curve).all() for curve in search.loss_curves_[1])


def test_an_error_is_raised_if_wanted(numbers):
    model = TorchLinearRegressor(**{**SGD, "max_iter": 200})
    search = BatchedGridSearchCV(model, {"learning_rate": [0.01, 1e6]}, error_score="raise")
    with pytest.raises(ValueError, match="The loss became infinite or NaN"):
        search.fit(*numbers)


def test_a_parameter_that_makes_no_sense_fails_alone(classes, sgd):
    grid = {"alpha": [-1.0, 0.0]}
    with (
        pytest.warns(FitFailedWarning, match="'alpha' parameter of TorchSoftmaxClassifier"),
        pytest.warns(UserWarning, match="non-finite"),
    ):
        search = BatchedGridSearchCV(sgd, grid, cv=2).fit(*classes)
    assert np.isnan(search.cv_results_["mean_test_score"][0])
    assert search.best_params_ == {"alpha": 0.0}


def test_all_fits_fail(classes, sgd):
    X, y = classes
    X = X.copy()
    X[:, 0] = np.nan
    with pytest.raises(ValueError, match="All the 6 fits failed"):
        BatchedGridSearchCV(sgd, RATES, cv=2).fit(X, y)


def test_scoring_that_fails_is_scored_as_error(classes, sgd):
    X, y = classes
    y = np.where(np.arange(90) < 30, 0, y)
    splits = [(np.arange(90), np.arange(30))]  # one class, for which there is no log loss
    with pytest.warns(UserWarning) as caught:
        search = BatchedGridSearchCV(sgd, RATES, cv=splits, scoring="neg_log_loss").fit(X, y)
    assert any("Scoring failed" in str(warning.message) for warning in caught)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    "other", [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())]
)
def test_other_estimators_are_sent_to_grid_search(classes, other):
    with pytest.raises(TypeError, match="Use scikit-learn's GridSearchCV"):
        BatchedGridSearchCV(other, {}).fit(*classes)
    with pytest.raises(TypeError, match="Use scikit-learn's RandomizedSearchCV"):
        BatchedRandomizedSearchCV(other, {}, n_iter=1).fit(*classes)


def test_a_candidate_of_another_kind_is_refused(classes, sgd):
    pipeline = Pipeline([("clf", sgd)])
    with pytest.raises(TypeError, match="LogisticRegression"):
        BatchedGridSearchCV(pipeline, {"clf": [sgd, LogisticRegression()]}).fit(*classes)


def test_distributed_is_refused(classes, sgd):
    with pytest.raises(NotImplementedError, match="distributed=True"):
        BatchedGridSearchCV(clone(sgd).set_params(distributed=True), RATES).fit(*classes)


def test_one_warning_for_all_that_did_not_converge(numbers):
    model = TorchLinearRegressor(optimizer="sgd", max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="3 of 3 candidates") as caught:
        BatchedGridSearchCV(model, {"learning_rate": [1e-5, 1e-4, 1e-3]}, refit=False).fit(*numbers)
    assert len(caught) == 1


def test_interrupts_end_the_search(classes, sgd, monkeypatch):
    from skorchless.optimizers import SGD as rule

    def interrupted(self, weights, value):
        raise KeyboardInterrupt

    monkeypatch.setattr(rule, "end_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        BatchedGridSearchCV(sgd, RATES).fit(*classes)


# As an estimator among others.


def test_pickles_clones_and_shows_itself(classes, sgd):
    search = BatchedGridSearchCV(sgd, RATES).fit(*classes)
    again = pickle.loads(pickle.dumps(search))
    assert np.array_equal(again.predict(classes[0]), search.predict(classes[0]))
    assert "BatchedGridSearchCV" in search._repr_html_()
    assert "best_estimator_" in search._repr_html_()
    with pytest.raises(NotFittedError):
        clone(search).predict(classes[0])


def test_works_inside_cross_validation(classes, sgd):
    ours = cross_val_score(BatchedGridSearchCV(sgd, RATES, cv=2), *classes, cv=2)
    theirs = cross_val_score(sklearn.model_selection.GridSearchCV(sgd, RATES, cv=2), *classes, cv=2)
    assert_allclose(ours, theirs, rtol=1e-12)


def test_names_of_features(classes, sgd):
    pandas = pytest.importorskip("pandas")
    X, y = classes
    frame = pandas.DataFrame(X, columns=list("abcd"))
    search = BatchedGridSearchCV(sgd, RATES, cv=2).fit(frame, pandas.Series(y))
    assert list(search.feature_names_in_) == list("abcd")
    assert search.n_features_in_ == 4


def test_random_states_are_those_of_grid_search(classes):
    model = TorchSoftmaxClassifier(**{**SGD, "random_state": np.random.RandomState(5)})
    assert_same(*search_both(model, RATES, *classes, cv=2), atol=1e-12)


def test_torch_rows(classes, sgd):
    import torch

    X, y = classes
    ours = BatchedGridSearchCV(sgd, RATES, cv=2).fit(torch.from_numpy(X), y)
    plain = BatchedGridSearchCV(sgd, RATES, cv=2).fit(X, y)
    assert_same(ours, plain, atol=1e-12)


# Pipelines.


class CountingScaler(TransformerMixin, BaseEstimator):
    fits = 0

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, X, y=None):
        type(self).fits += 1
        self.scaler_ = StandardScaler().fit(X)
        return self

    def transform(self, X):
        return self.scaler_.transform(X) + self.shift


@pytest.fixture
def counter():
    CountingScaler.fits = 0
    return CountingScaler


def test_a_hundred_candidates_fit_the_scaler_once_a_fold(classes, sgd, counter):
    pipeline = Pipeline([("scale", counter()), ("clf", sgd)])
    grid = {
        "clf__learning_rate": np.logspace(-3, 0, 25).tolist(),
        "clf__alpha": [0.0, 0.1],
        "clf__batch_size": [8, 32],
    }
    search = BatchedGridSearchCV(pipeline, grid, cv=5, refit=False).fit(*classes)
    assert len(search.cv_results_["params"]) == 100
    assert counter.fits == 5


def test_settings_of_transformers_make_groups_that_share_what_is_before_them(classes, sgd, counter):
    pipeline = Pipeline([("scale", counter()), ("poly", PolynomialFeatures()), ("clf", sgd)])
    grid = {"poly__degree": [1, 2], "clf__alpha": [0.0, 0.1]}
    ours, theirs = search_both(pipeline, grid, *classes, cv=3, refit=False)
    assert_same(ours, theirs, atol=1e-12)
    counter.fits = 0
    BatchedGridSearchCV(pipeline, grid, cv=3, refit=False).fit(*classes)
    assert counter.fits == 3


def test_nested_pipelines_passthrough_and_set_output(classes, sgd):
    pytest.importorskip("pandas")
    inner = Pipeline([("scale", StandardScaler()), ("clf", sgd)])
    outer = Pipeline([("poly", PolynomialFeatures(1, include_bias=False)), ("last", inner)])
    outer.set_output(transform="pandas")
    grid = {
        "last__scale": ["passthrough", StandardScaler(with_mean=False)],
        "last__clf__learning_rate": [0.1, 0.5],
    }
    ours, theirs = search_both(outer, grid, *classes, cv=2, return_train_score=True)
    assert_same(ours, theirs, atol=1e-12)


def test_a_pipelines_own_memory_is_used_and_kept(classes, sgd, counter, tmp_path):
    pipeline = Pipeline([("scale", counter()), ("clf", sgd)], memory=str(tmp_path))
    grid = {"clf__alpha": [0.0, 0.1]}
    for _ in range(2):
        search = BatchedGridSearchCV(pipeline, grid, cv=3, refit=False).fit(*classes)
    assert counter.fits == 3
    assert search.estimator.memory == str(tmp_path)


def test_nothing_is_warned_about_otherwise(classes, sgd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BatchedGridSearchCV(sgd, RATES).fit(*classes)


@pytest.mark.parametrize("scikit_learn_cannot_read", ["gradient", "bfloat16"])
def test_targets_may_be_tensors_that_numpy_cannot_read(scikit_learn_cannot_read):
    X, y = make_classes()
    rows, target = torch.from_numpy(X), torch.from_numpy(y).to(torch.bfloat16)
    if scikit_learn_cannot_read == "gradient":
        target = torch.from_numpy(y).double().requires_grad_()
    wanted = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
    found = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1, 1.0]}, cv=2)
    found.fit(rows, target)
    assert found.best_score_ == pytest.approx(wanted.best_score_)


@pytest.mark.parametrize("kind", ["array", torch.float16, torch.bfloat16], ids=str)
def test_penalties_of_features_in_half_precision_on_a_validation_part(kind):
    X, y = make_classes(n=300, d=8, k=4)
    half = torch.from_numpy(X).to(torch.float16 if kind == "array" else kind)
    split = PredefinedSplit(np.where(np.arange(300) < 240, -1, 0))
    searches = [
        BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": np.logspace(-5, 0, 4)}, cv=split)
        for _ in range(2)
    ]
    found = searches[0].fit(half.numpy() if kind == "array" else half, y)
    wanted = searches[1].fit(half.float(), y)
    assert found.best_estimator_.coef_.dtype == np.float32
    for key in ("mean_test_score", "param_alpha"):
        assert_array_equal(found.cv_results_[key], wanted.cv_results_[key])
    assert_array_equal(found.best_estimator_.coef_, wanted.best_estimator_.coef_)
