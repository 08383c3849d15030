"""With early stopping the weights that were best on the validation data come back."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

TEXTBOOK = {"optimizer": "adam", "learning_rate": 0.05, "batch_size": 16, "random_state": 0}


@pytest.fixture
def overfitting(Estimator):
    """Few rows, many columns that say nothing, and other rows to validate on."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 40))
    y = X[:, 0] + rng.normal(size=200)
    if Estimator is TorchSoftmaxClassifier:
        y = np.digitize(y, [-1, 1])
    return X[:80], y[:80], X[80:], y[80:]


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_the_best_weights_on_validation_data_come_back(Estimator, overfitting, optimizer):
    X, y, X_val, y_val = overfitting
    rate = {} if optimizer == "auto" else {"learning_rate": 0.05, "batch_size": 16}
    parameters = {"optimizer": optimizer, "alpha": 0.0, "l1_ratio": 0.0, "random_state": 0, **rate}
    if Estimator is TorchLinearRegressor:
        parameters["loss"] = "huber"
    model = Estimator(early_stopping=True, **parameters).fit(X, y, X_val=X_val, y_val=y_val)
    curve = model.validation_loss_curve_
    assert len(curve) == model.n_iter_ == len(model.loss_curve_)
    assert model.best_iter_ == 1 + np.argmin(curve)

    until_best = Estimator(max_iter=model.best_iter_, tol=None, **parameters).fit(X, y)
    assert_array_equal(model.coef_, until_best.coef_)
    assert_array_equal(model.intercept_, until_best.intercept_)


def test_overfitting_is_stopped_in_time(Estimator, overfitting):
    X, y, X_val, y_val = overfitting
    stopped = Estimator(early_stopping=True, alpha=0, **TEXTBOOK)
    stopped.fit(X, y, X_val=X_val, y_val=y_val)
    on = Estimator(alpha=0, max_iter=200, tol=None, **TEXTBOOK).fit(X, y, X_val=X_val, y_val=y_val)
    assert stopped.best_iter_ < stopped.n_iter_ < 200
    assert min(stopped.validation_loss_curve_) < on.validation_loss_curve_[-1]


@pytest.mark.parametrize("patience", [1, 3, 8])
def test_it_waits_as_long_as_it_is_told(Estimator, overfitting, patience):
    X, y, X_val, y_val = overfitting
    model = Estimator(early_stopping=True, tol=0.0, n_iter_no_change=patience, **TEXTBOOK)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    assert model.n_iter_ == model.best_iter_ + patience


def test_without_early_stopping_validation_data_only_watch(Estimator, overfitting):
    X, y, X_val, y_val = overfitting
    watched = Estimator(max_iter=30, tol=None, **TEXTBOOK).fit(X, y, X_val=X_val, y_val=y_val)
    alone = Estimator(max_iter=30, tol=None, **TEXTBOOK).fit(X, y)
    assert_array_equal(watched.coef_, alone.coef_)
    assert_array_equal(watched.loss_curve_, alone.loss_curve_)
    assert watched.best_iter_ == watched.n_iter_ == 30


def test_nothing_is_held_out_unless_asked_for(Estimator, data):
    """A fit sees all rows: repeating the outermost one must matter."""
    X, y = data
    model = Estimator(max_iter=5, tol=None)
    for row in (0, len(X) - 1):
        moved = X.copy()
        moved[row] += 10
        assert (model.fit(moved, y).coef_ != model.fit(X, y).coef_).any()


def test_a_split_of_its_own(Estimator, make_data):
    X, y = make_data(n=200)
    model = Estimator(early_stopping=True, validation_fraction=0.25, **TEXTBOOK).fit(X, y)
    assert len(model.validation_loss_curve_) == model.n_iter_
    assert model.best_iter_ == 1 + np.argmin(model.validation_loss_curve_)
    again = Estimator(early_stopping=True, validation_fraction=0.25, **TEXTBOOK).fit(X, y)
    assert_array_equal(model.coef_, again.coef_)
    shorter = Estimator(
        early_stopping=True,
        validation_fraction=0.25,
        max_iter=model.best_iter_,
        tol=None,
        **TEXTBOOK,
    ).fit(X, y)
    assert_array_equal(model.coef_, shorter.coef_)


def test_the_split_keeps_the_shares_of_the_classes():
    """Of ten rows of a class, one is held out and nine are trained on, whatever the seed."""
    X, y = np.zeros((100, 1)), np.where(np.arange(100) < 10, "rare", "common")
    for seed in range(5):
        model = TorchSoftmaxClassifier(early_stopping=True, tol=1e-9, random_state=seed).fit(X, y)
        log_p = model.predict_log_proba(X[:1])[0]
        np.testing.assert_allclose(log_p, np.log([0.9, 0.1]), rtol=1e-3)
        loss = -(0.9 * log_p[0] + 0.1 * log_p[1])
        assert model.validation_loss_curve_.min() == pytest.approx(loss, rel=1e-6)


def test_the_split_is_weighted(Estimator, make_data):
    """Rows of weight zero are neither trained nor validated on."""
    X, y = make_data(n=200)
    weight = np.arange(200) % 2 + 0.0
    littered = np.where(weight[:, None] > 0, X, 1e100)
    model = Estimator(early_stopping=True, **TEXTBOOK).fit(littered, y, weight)
    kept = weight > 0
    alone = Estimator(early_stopping=True, **TEXTBOOK).fit(X[kept], y[kept], weight[kept])
    assert_array_equal(model.coef_, alone.coef_)
    assert_array_equal(model.validation_loss_curve_, alone.validation_loss_curve_)
