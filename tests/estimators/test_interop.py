"""Searches, pipelines, routing, servers: the estimators among scikit-learn's other parts."""

import contextlib
import io
import multiprocessing
import threading
from multiprocessing.pool import ThreadPool

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectFromModel
from sklearn.inspection import permutation_importance
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

SGD = {"optimizer": "sgd", "max_iter": 20, "tol": None, "random_state": 0}
#: Accuracy does not tell small coefficients from large ones.
SCORING = {TorchLinearRegressor: "r2", TorchSoftmaxClassifier: "neg_log_loss"}


def test_a_grid_search_over_learning_rates_in_two_processes(Estimator, data):
    model = make_pipeline(StandardScaler(), Estimator(**SGD))
    grid = {f"{Estimator.__name__.lower()}__learning_rate": [1e-5, 0.1]}
    scoring = SCORING[Estimator]
    alone = GridSearchCV(model, grid, scoring=scoring, cv=3).fit(*data)
    apart = GridSearchCV(model, grid, scoring=scoring, cv=3, n_jobs=2).fit(*data)
    assert apart.best_params_ == {next(iter(grid)): 0.1}
    assert_array_equal(apart.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
def test_a_search_that_diverges_in_one_candidate_finds_another(Estimator, data):
    X, y = data
    search = GridSearchCV(Estimator(alpha=1.0, **SGD), {"learning_rate": [1e300, 0.1]}, cv=3)
    with pytest.warns(FitFailedWarning, match="StandardScaler"):
        search.fit(X, y)
    assert search.best_params_ == {"learning_rate": 0.1}


def test_a_halving_search(Estimator, make_data):
    X, y = make_data(n=300)
    search = HalvingGridSearchCV(
        Estimator(**SGD),
        {"learning_rate": [1e-6, 1e-5, 0.1]},
        scoring=SCORING[Estimator],
        cv=3,
        random_state=0,
    ).fit(X, y)
    assert search.best_params_ == {"learning_rate": 0.1}


def test_a_halving_search_over_passes(Estimator, make_data):
    X, y = make_data(n=300)
    search = HalvingGridSearchCV(
        Estimator(optimizer="sgd", tol=None, random_state=0),
        {"learning_rate": [1e-6, 1e-5, 0.1]},
        resource="max_iter",
        max_resources=18,
        scoring=SCORING[Estimator],
        cv=3,
        random_state=0,
    ).fit(X, y)
    assert search.best_estimator_.max_iter == search.best_estimator_.n_iter_ == 18
    assert search.best_params_["learning_rate"] == 0.1


def test_cross_validation(Estimator, data):
    scores = cross_val_score(Estimator(), *data, cv=5)
    assert scores.shape == (5,)
    assert (scores > 0.5).all()


def test_a_learning_curve(Estimator, data):
    sizes, _, scores = learning_curve(Estimator(), *data, cv=3, shuffle=True, random_state=0)
    assert scores.shape == (len(sizes), 3)
    assert np.isfinite(scores).all()


def test_permutation_importance(Estimator, data):
    X, y = data
    X = np.column_stack([X, np.zeros(len(X))])
    model = Estimator().fit(X, y)
    importances = permutation_importance(model, X, y, random_state=0).importances_mean
    assert importances[-1] == 0 < importances[:-1].max()


def test_columns_without_weight_are_dropped_by_selection(Estimator, data):
    X, y = data
    X = np.column_stack([X, np.zeros(len(X))])
    select = SelectFromModel(Estimator(alpha=0.01, l1_ratio=1.0), threshold=1e-10).fit(X, y)
    assert not select.get_support()[-1]
    assert select.get_support().any()


def test_a_transformed_target(data):
    X = np.random.default_rng(0).normal(size=(90, 4))
    y = np.exp(X @ [1.0, -1.0, 0.5, 0.0])
    model = TransformedTargetRegressor(TorchLinearRegressor(), func=np.log, inverse_func=np.exp)
    assert_allclose(model.fit(X, y).predict(X), y, rtol=1e-8)


def test_one_model_for_each_class():
    X = np.random.default_rng(0).normal(size=(90, 4))
    y = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)
    model = OneVsRestClassifier(TorchSoftmaxClassifier()).fit(X, y)
    assert len(model.estimators_) == 3
    assert model.score(X, y) > 0.9


@config_context(enable_metadata_routing=True)
def test_weights_are_routed_through_a_pipeline(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 3.0
    routed = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False),
        Estimator().set_fit_request(sample_weight=True),
    ).fit(X, y, sample_weight=weight)
    direct = Estimator().fit(StandardScaler().fit_transform(X), y, weight)
    assert_array_equal(routed[-1].coef_, direct.coef_)
    assert (routed[-1].coef_ != Estimator().fit(StandardScaler().fit_transform(X), y).coef_).any()


@config_context(enable_metadata_routing=True)
def test_weights_are_routed_through_cross_validation(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 3.0
    model = Estimator().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    folds = cross_validate(
        model,
        X,
        y,
        cv=2,
        params={"sample_weight": weight},
        return_estimator=True,
        return_indices=True,
    )
    for fold, score, train, test in zip(
        folds["estimator"],
        folds["test_score"],
        folds["indices"]["train"],
        folds["indices"]["test"],
        strict=True,
    ):
        direct = Estimator().fit(X[train], y[train], weight[train])
        assert_array_equal(fold.coef_, direct.coef_)
        assert score == direct.score(X[test], y[test], weight[test])


@config_context(enable_metadata_routing=True)
def test_weights_are_routed_through_a_search(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 3.0
    model = Estimator().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
    search = GridSearchCV(model, {"alpha": [0.1]}, cv=2).fit(X, y, sample_weight=weight)
    direct = Estimator(alpha=0.1).fit(X, y, weight)
    assert_array_equal(search.best_estimator_.coef_, direct.coef_)


@config_context(enable_metadata_routing=True)
def test_a_pipeline_transforms_the_validation_data(Estimator, make_data):
    X, y = make_data(n=120)
    X = 100 * X + 7
    X_train, y_train, X_val, y_val = X[:80], y[:80], X[80:], y[80:]
    model = Estimator(early_stopping=True, learning_rate=0.05, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(),
        model.set_fit_request(X_val=True, y_val=True, sample_weight_val=True),
        transform_input=["X_val"],
    )
    weight = np.arange(1.0, 41)
    validation = {"y_val": y_val, "sample_weight_val": weight}
    pipeline.fit(X_train, y_train, X_val=X_val, **validation)

    scaler = StandardScaler().fit(X_train)
    direct = Estimator(early_stopping=True, learning_rate=0.05, random_state=0)
    direct.fit(scaler.transform(X_train), y_train, X_val=scaler.transform(X_val), **validation)
    assert_array_equal(pipeline[-1].validation_loss_curve_, direct.validation_loss_curve_)
    assert_array_equal(pipeline[-1].coef_, direct.coef_)


def test_a_start_goes_through_a_pipeline(Estimator, data):
    X, y = data
    start = np.full_like(Estimator().fit(X, y).coef_, 0.5)
    name = Estimator.__name__.lower()
    sgd = {**SGD, "learning_rate": 0.1}
    pipeline = make_pipeline(StandardScaler(), Estimator(**sgd))
    pipeline.fit(X, y, **{f"{name}__coef_init": start})
    direct = Estimator(**sgd).fit(StandardScaler().fit_transform(X), y, coef_init=start)
    assert_array_equal(pipeline[-1].coef_, direct.coef_)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_server_that_forks_after_fit_predicts(Estimator, make_data):
    """Torch's threads do not survive a fork: a prediction that needed them would hang."""
    X, y = make_data(n=20_000, d=60)
    (torch.ones(2000, 2000) @ torch.ones(2000, 2000)).sum()
    model = Estimator().fit(X, y)
    expected = model.predict(X)
    fork = multiprocessing.get_context("fork")
    answer, question = fork.Pipe(duplex=False)
    server = fork.Process(target=lambda: question.send(model.predict(X)), daemon=True)
    server.start()
    assert answer.poll(timeout=300)
    assert_array_equal(answer.recv(), expected)
    server.join(timeout=300)
    assert server.exitcode == 0


def test_fits_in_threads_are_the_fits_one_by_one(Estimator, make_data):
    X, y = make_data(n=300, dtype=np.float32)
    models = [Estimator(alpha=alpha, **SGD) for alpha in np.geomspace(1e-4, 1, 12)]
    apart = [clone(model).fit(X, y).coef_ for model in models]
    with ThreadPool(4) as threads:
        together = threads.map(lambda model: model.fit(X, y).coef_, models)
    assert_array_equal(together, apart)


class Interleaved(io.StringIO):
    """A terminal that lets a first fit in, then a second, and then the first one out."""

    def __init__(self):
        super().__init__()
        self.first_in, self.second_in, self.first_out = (threading.Event() for _ in range(3))

    def write(self, text):
        if threading.current_thread() is threading.main_thread():
            self.first_in.set()
            assert self.second_in.wait(timeout=300)
        else:
            self.second_in.set()
            assert self.first_out.wait(timeout=300)
        return len(text)


def test_overlapping_fits_leave_the_settings_of_torch_as_they_were(Estimator, data):
    def settings():
        products = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
        precisions = [getattr(product, "fp32_precision", None) for product in products]
        return torch.get_num_threads(), torch.get_float32_matmul_precision(), precisions

    model = Estimator(verbose=1, **SGD)
    terminal = Interleaved()

    def second_fit():
        assert terminal.first_in.wait(timeout=300)
        clone(model).fit(*data)

    with ThreadPool(1) as threads, contextlib.redirect_stdout(terminal):
        torch.set_float32_matmul_precision("high")
        before = settings()
        try:
            second = threads.apply_async(second_fit)
            model.fit(*data)
            terminal.first_out.set()
            second.get(timeout=300)
            assert settings() == before
        finally:
            torch.set_float32_matmul_precision("highest")


def test_frames_bring_the_names_of_their_columns(Estimator, data):
    X, y = data
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    weight = pd.Series(np.arange(len(X)) % 3.0, index=range(100, 100 + len(X)))
    model = Estimator().fit(frame, pd.Series(y), weight, X_val=frame, y_val=pd.Series(y))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    plain = Estimator().fit(X, y, weight.to_numpy(), X_val=X, y_val=y)
    assert_array_equal(model.coef_, plain.coef_)
    assert_allclose(model.predict(frame), plain.predict(X), rtol=1e-12)
    assert_array_equal(model.validation_loss_curve_, plain.validation_loss_curve_)
    assert not hasattr(plain, "feature_names_in_")


def test_names_of_columns_follow_the_latest_fit(Estimator, data):
    X, y = data
    model = Estimator().fit(pd.DataFrame(X, columns=list("abcd")), y)
    model.fit(pd.DataFrame(X[:, :2], columns=list("xy")), y)
    assert model.feature_names_in_.tolist() == ["x", "y"]
    assert model.n_features_in_ == 2
    assert not hasattr(model.fit(X, y), "feature_names_in_")


def test_a_column_transformer_hands_over_frames(Estimator, data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make_pipeline(StandardScaler().set_output(transform="pandas"), Estimator())
    assert model.fit(frame, y)[-1].feature_names_in_.tolist() == list("abcd")
