"""What a fit leaves behind, and in which shapes."""

import ast
import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

SHARED = {
    "coef_",
    "intercept_",
    "n_features_in_",
    "n_iter_",
    "best_iter_",
    "converged_",
    "loss_curve_",
    "learning_rate_",
    "optimizer_",
    "device_",
}
optimizers = pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])


def public(model):
    return {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}


@optimizers
def test_the_attributes_of_a_fit(Estimator, data, optimizer):
    model = Estimator(optimizer=optimizer, max_iter=7, tol=None).fit(*data)
    own = {"classes_"} if Estimator is TorchSoftmaxClassifier else set()
    assert public(model) == SHARED | own
    assert type(model.n_iter_) is int
    assert type(model.best_iter_) is int
    assert type(model.learning_rate_) is float
    assert model.learning_rate_ > 0
    assert model.n_features_in_ == 4
    assert model.loss_curve_.shape == (model.n_iter_,)
    assert model.best_iter_ == model.n_iter_
    assert model.optimizer_ == ("quasi-newton" if optimizer == "auto" else optimizer)
    assert model.device_ == "cpu"


@optimizers
@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 3)])
def test_a_regressor_answers_in_the_shape_of_y(optimizer, shape):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.normal(size=shape)
    model = TorchLinearRegressor(optimizer=optimizer, max_iter=5, tol=None).fit(X, y)
    assert model.coef_.shape == (*shape[1:], 4)
    assert np.shape(model.intercept_) == shape[1:]
    assert model.predict(X).shape == shape
    assert_allclose(model.predict(X), X @ model.coef_.T + model.intercept_, rtol=1e-12, atol=1e-12)


@optimizers
@pytest.mark.parametrize(("n_classes", "logits"), [(2, 1), (3, 3), (5, 5)])
def test_a_classifier_has_one_logit_for_two_classes_and_one_each_for_more(
    optimizer, n_classes, logits
):
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = np.arange(60) % n_classes
    model = TorchSoftmaxClassifier(optimizer=optimizer, max_iter=5, tol=None).fit(X, y)
    assert model.coef_.shape == (logits, 4)
    assert model.intercept_.shape == (logits,)
    assert model.decision_function(X).shape == ((60,) if n_classes == 2 else (60, n_classes))
    assert model.predict_proba(X).shape == model.predict_log_proba(X).shape == (60, n_classes)
    assert model.predict(X).shape == (60,)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_agree_with_each_other(n_classes):
    X = np.random.default_rng(0).normal(size=(60, 4))
    model = TorchSoftmaxClassifier().fit(X, np.arange(60) % n_classes)
    probabilities = model.predict_proba(X)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert_allclose(np.log(probabilities), model.predict_log_proba(X), rtol=1e-10)
    assert_array_equal(model.predict(X), model.classes_[probabilities.argmax(axis=1)])
    odds = model.predict_log_proba(X)
    scores = model.decision_function(X)
    if n_classes == 2:
        assert_allclose(odds[:, 1] - odds[:, 0], scores, rtol=1e-9, atol=1e-12)
    else:
        assert_allclose(odds - odds[:, :1], scores - scores[:, :1], rtol=1e-9, atol=1e-12)


def test_probabilities_of_far_away_rows_are_exact_in_the_logarithm():
    X = np.linspace(-1, 1, 30)[:, None]
    model = TorchSoftmaxClassifier().fit(X, X[:, 0] > 0)
    log_p = model.predict_log_proba([[-1e6], [1e6]])
    assert np.isfinite(log_p).all()
    assert log_p.min() < -1e4
    assert_allclose(model.predict_proba([[-1e6], [1e6]]), np.eye(2), atol=1e-300)


@optimizers
def test_without_intercept_it_is_zero(Estimator, data, optimizer):
    model = Estimator(fit_intercept=False, optimizer=optimizer, max_iter=5, tol=None).fit(*data)
    assert not np.any(model.intercept_)
    assert model.coef_.any()


def test_an_intercept_to_start_from_is_ignored_without_intercept(Estimator, data):
    X, y = data
    start = np.full_like(Estimator().fit(X, y).intercept_, 5.0)
    model = Estimator(fit_intercept=False, max_iter=5, tol=None).fit(X, y, intercept_init=start)
    assert not np.any(model.intercept_)


def objective(model, X, y, alpha, l1_ratio):
    """The penalised objective, written out."""
    if isinstance(model, TorchLinearRegressor):
        loss = 0.5 * np.mean((y - model.predict(X)) ** 2)
    else:
        loss = -np.mean(model.predict_log_proba(X)[np.arange(len(y)), y])
    coef = model.coef_
    return loss + alpha * (l1_ratio * np.abs(coef).sum() + (1 - l1_ratio) / 2 * (coef**2).sum())


@pytest.mark.parametrize("l1_ratio", [0.0, 0.4, 1.0])
def test_the_tuning_free_curve_never_rises_and_ends_at_the_coefficients(
    Estimator, make_data, l1_ratio
):
    X, y = make_data(n=200)
    X = X * np.geomspace(0.01, 100, 4) + 10
    model = Estimator(alpha=0.01, l1_ratio=l1_ratio, tol=1e-6).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_
    assert (np.diff(model.loss_curve_) <= 0).all()
    assert model.loss_curve_[-1] == pytest.approx(objective(model, X, y, 0.01, l1_ratio), rel=1e-10)


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5])
def test_the_tuning_free_curve_is_that_of_accepted_points(Estimator, data, max_iter):
    X, y = data
    X = X * np.geomspace(0.01, 100, 4) + 10
    parameters = {"alpha": 0.01, "l1_ratio": 0.5, "tol": None}
    model = Estimator(max_iter=max_iter, **parameters).fit(X, y)
    assert model.loss_curve_[-1] == pytest.approx(objective(model, X, y, 0.01, 0.5), rel=1e-9)
    longer = Estimator(max_iter=max_iter + 1, **parameters).fit(X, y)
    assert_array_equal(longer.loss_curve_[:max_iter], model.loss_curve_)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_textbook_curve_is_taken_before_each_update(Estimator, data, optimizer):
    X, y = data
    model = Estimator(
        alpha=0.1, l1_ratio=0.4, optimizer=optimizer, learning_rate=0.05, batch_size=None, tol=None
    )
    curve = model.set_params(max_iter=6).fit(X, y).loss_curve_
    for passes in (1, 5):
        model.set_params(max_iter=passes).fit(X, y)
        assert curve[passes] == pytest.approx(objective(model, X, y, 0.1, 0.4), rel=1e-12)


def test_the_validation_curve_is_taken_after_each_pass_without_penalty(Estimator, data):
    X, y = data
    for optimizer in ("auto", "sgd", "adam"):
        model = Estimator(alpha=0.1, optimizer=optimizer, max_iter=4, tol=None)
        model.fit(X, y, X_val=X[:40], y_val=y[:40])
        loss = objective(model, X[:40], y[:40], 0.0, 0.0)
        assert model.validation_loss_curve_.shape == (model.n_iter_,)
        assert model.validation_loss_curve_[-1] == pytest.approx(loss, rel=1e-9)


def test_the_validation_curve_is_weighted(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 4
    model = Estimator()
    weighted = model.fit(X, y, X_val=X, y_val=y, sample_weight_val=weight).validation_loss_curve_
    X_val, y_val = X.repeat(weight, 0), y.repeat(weight)
    repeated = model.fit(X, y, X_val=X_val, y_val=y_val).validation_loss_curve_
    assert_allclose(weighted, repeated, rtol=1e-12)


def test_without_validation_data_there_is_no_curve(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y, X_val=X, y_val=y)
    assert hasattr(model, "validation_loss_curve_")
    assert not hasattr(model.fit(X, y), "validation_loss_curve_")


def test_every_attribute_is_documented(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y, X_val=X, y_val=y)
    for name in public(model):
        assert f"\n{name} : " in inspect.getdoc(Estimator)


def test_every_parameter_is_documented_with_its_default(Estimator):
    for name, default in Estimator().get_params().items():
        lines = inspect.getdoc(Estimator).splitlines()
        [line] = [line for line in lines if line.startswith(f"{name} : ")]
        documented = line.split("default=")[1]
        assert ast.literal_eval(documented) == default
