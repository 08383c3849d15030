"""Tall data begins where the optimum of some of its rows is."""

import numpy as np
import pytest

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators import limits, solve

ROWS = 3000


@pytest.fixture
def eager(monkeypatch):
    """Head starts also for few rows; how many are made."""
    monkeypatch.setattr(limits, "HEAD_ROWS", 100)
    made = []
    whole = solve.head_of

    def counted(*arguments, **settings):
        made.append(arguments)
        return whole(*arguments, **settings)

    monkeypatch.setattr(solve, "head_of", counted)
    return made


def classes(seed=0, n_classes=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, 4)) * [1e-2, 1.0, 1.0, 1e3]
    scores = (X / [1e-2, 1.0, 1.0, 1e3]) @ rng.normal(size=(4, n_classes))
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.7])
def test_it_begins_lower_and_ends_at_the_same_optimum(eager, n_classes, l1_ratio):
    X, y = classes(n_classes=n_classes)
    weight = np.random.default_rng(1).uniform(0.5, 1.5, ROWS)
    parameters = {"alpha": 1e-3, "l1_ratio": l1_ratio, "tol": 1e-11}
    model = TorchSoftmaxClassifier(**parameters).fit(X, y, weight)
    assert len(eager) == 1
    size = X.std(axis=0)
    without = TorchSoftmaxClassifier(**parameters).fit(
        X, y, weight, coef_init=1e-30 * np.ones_like(model.coef_)
    )
    assert len(eager) == 1
    np.testing.assert_allclose(model.coef_ * size, without.coef_ * size, rtol=0, atol=1e-4)
    assert model.n_iter_ <= without.n_iter_ + 2
    assert model.loss_curve_[0] < without.loss_curve_[0]


def test_huber_gains_and_squared_error_does_not_need_it(eager):
    X, y = classes()
    TorchLinearRegressor(loss="huber").fit(X, y.astype(float))
    assert len(eager) == 1
    TorchLinearRegressor().fit(X, y.astype(float))
    assert len(eager) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "sgd"},
        {"learning_rate": 0.1, "max_iter": 3, "tol": None},
        {"early_stopping": True},
    ],
)
def test_only_the_whole_way_of_the_tuning_free_rule_is_shortened(eager, parameters):
    TorchSoftmaxClassifier(random_state=0, **parameters).fit(*classes())
    assert eager == []


def test_few_rows_for_the_weights_begin_at_zero(eager):
    rng = np.random.default_rng(0)
    TorchSoftmaxClassifier().fit(rng.normal(size=(ROWS, 20)), rng.integers(0, 3, ROWS))
    assert eager == []


def test_a_class_that_the_share_of_rows_lacks_is_found_again(eager):
    X, y = classes()
    y[17] = 3
    model = TorchSoftmaxClassifier(tol=1e-9).fit(X, y)
    without = TorchSoftmaxClassifier(tol=1e-9).fit(X, y, coef_init=np.full((4, 4), 1e-30))
    assert model.loss_curve_[-1] == pytest.approx(without.loss_curve_[-1], rel=1e-7)


def test_ctrl_c_during_it_leaves_the_estimator_as_it_was(eager, monkeypatch):
    X, y = classes()

    def interrupted(*arguments, **keywords):
        results, _ = train(*arguments, **keywords)
        return results, KeyboardInterrupt()

    train = solve.train
    monkeypatch.setattr(solve, "train", interrupted)
    model = TorchSoftmaxClassifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
