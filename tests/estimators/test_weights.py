"""Integer weights mean repetition, zero means absent, and only ratios count."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

ONE_BATCH = {
    "auto": {"tol": 1e-12},
    "huber": {"tol": 1e-12, "loss": "huber"},
    "l1": {"tol": 1e-12, "l1_ratio": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.05},
    "automatic sgd": {"optimizer": "sgd"},
    "automatic adam": {"optimizer": "adam"},
}
FIXED = {"alpha": 0.05, "batch_size": None, "max_iter": 30, "tol": None, "random_state": 0}


def one_batch(Estimator, settings):
    if Estimator is TorchSoftmaxClassifier:
        settings = {name: value for name, value in settings.items() if name != "loss"}
    settings = {**FIXED, **settings}
    if "optimizer" not in settings:
        settings |= {"batch_size": "auto", "max_iter": 1000}
    return Estimator(**settings)


def flat(model):
    return np.append(model.coef_, model.intercept_)


@st.composite
def weighted_rows(draw):
    seed = draw(st.integers(0, 2**16))
    weight = draw(st.lists(st.integers(0, 4), min_size=12, max_size=24))
    weight[:6] = [max(1, w) for w in weight[:6]]  # every class keeps some rows
    return seed, np.array(weight)


both = pytest.mark.parametrize("Estimator", [TorchLinearRegressor, TorchSoftmaxClassifier])


@both
@pytest.mark.parametrize("kind", ONE_BATCH)
@given(rows=weighted_rows())
def test_in_one_batch_integer_weights_are_repetition(Estimator, kind, rows):
    seed, weight = rows
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(len(weight), 3))
    y = (
        np.arange(len(weight)) % 3
        if Estimator is TorchSoftmaxClassifier
        else rng.normal(size=X[:, 0].shape)
    )
    weighted = one_batch(Estimator, ONE_BATCH[kind]).fit(X, y, weight)
    repeated = one_batch(Estimator, ONE_BATCH[kind]).fit(X.repeat(weight, 0), y.repeat(weight))
    # Adam divides by the gradient's own size, and rounding with it where a gradient is near zero.
    tolerance = 1e-6 if "adam" in kind else 1e-10
    assert_allclose(flat(weighted), flat(repeated), rtol=tolerance, atol=tolerance)
    assert_allclose(weighted.loss_curve_[-1], repeated.loss_curve_[-1], rtol=1e-7)


def test_over_mini_batches_integer_weights_are_repetition_on_average(Estimator):
    """Where the noise of shuffling moves the coefficients to, over many seeds, is the same."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    score = X @ [1.0, -2.0] + 0.5 * X[:, 0] ** 2 + rng.normal(size=40)
    y = score if Estimator is TorchLinearRegressor else score > 0
    weight = rng.choice([1, 1, 1, 6], size=40)
    optimum = Estimator(alpha=0.01, tol=1e-12).fit(X, y, weight)

    start = {"coef_init": optimum.coef_, "intercept_init": optimum.intercept_}
    sgd = {"optimizer": "sgd", "learning_rate": 0.02, "batch_size": 4, "max_iter": 120}
    model = Estimator(alpha=0.01, tol=None, **sgd)

    def ends(*data):
        """Coefficients after a random walk from the optimum, one row a seed."""
        walks = (model.set_params(random_state=seed).fit(*data, **start) for seed in range(12))
        return np.array([flat(walk) for walk in walks])

    weighted, repeated = ends(X, y, weight), ends(X.repeat(weight, 0), y.repeat(weight))
    error = np.sqrt(weighted.var(axis=0) / 12 + repeated.var(axis=0) / 12)
    assert (np.abs(weighted.mean(axis=0) - repeated.mean(axis=0)) < 4 * error).all()


@pytest.mark.parametrize(
    "parameters",
    [{}, {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16, "random_state": 0}],
    ids=["auto", "sgd"],
)
def test_rows_of_weight_zero_are_absent_to_the_bit(Estimator, data, parameters):
    X, y = data
    weight = np.random.default_rng(1).uniform(1, 2, size=len(X))
    absent = np.arange(len(X)) % 4 == 0
    littered = X.copy()
    littered[absent] = 1e150
    weight[absent] = 0
    model = Estimator(max_iter=20, tol=None, **parameters)
    coef = model.fit(X[~absent], y[~absent], weight[~absent]).coef_
    assert_array_equal(model.fit(littered, y, weight).coef_, coef)


def test_a_class_whose_rows_all_weigh_zero_is_absent():
    X = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.array(["a", "b", "never"] * 20)
    model = TorchSoftmaxClassifier().fit(X, labels, labels != "never")
    assert model.classes_.tolist() == ["a", "b"]
    assert model.coef_.shape == (1, 2)
    kept = labels != "never"
    assert_array_equal(model.coef_, TorchSoftmaxClassifier().fit(X[kept], labels[kept]).coef_)


def test_validation_rows_of_weight_zero_are_absent(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 3
    kept = weight > 0
    curve = Estimator().fit(X, y, X_val=X, y_val=y, sample_weight_val=weight)
    alone = Estimator().fit(X, y, X_val=X[kept], y_val=y[kept], sample_weight_val=weight[kept])
    assert_array_equal(curve.validation_loss_curve_, alone.validation_loss_curve_)


@pytest.mark.parametrize("kind", ONE_BATCH)
def test_the_scale_of_the_weights_does_not_matter(Estimator, data, kind):
    X, y = data
    weight = np.random.default_rng(0).uniform(0, 1, size=len(X))
    once = one_batch(Estimator, ONE_BATCH[kind]).fit(X, y, weight)
    scaled = one_batch(Estimator, ONE_BATCH[kind]).fit(X, y, 1000 * weight)
    assert_allclose(flat(scaled), flat(once), rtol=1e-9)


def test_class_weights_multiply_the_weights_of_the_rows(data):
    X = np.random.default_rng(0).normal(size=(90, 4))
    labels = np.arange(90) % 3
    weight = np.random.default_rng(1).uniform(1, 2, size=90)
    by_class = TorchSoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    by_row = TorchSoftmaxClassifier()
    by_class.fit(X, labels, weight)
    by_row.fit(X, labels, weight * np.array([1.0, 2.0, 0.5])[labels])
    assert_allclose(by_class.coef_, by_row.coef_, rtol=1e-12)


def test_balanced_class_weights_give_all_classes_the_same_total(data):
    X = np.random.default_rng(0).normal(size=(90, 4))
    labels = np.repeat([0, 1, 2], [60, 20, 10])
    weight = np.random.default_rng(1).uniform(1, 2, size=90)
    totals = np.bincount(labels, weight)
    balanced = TorchSoftmaxClassifier(class_weight="balanced").fit(X, labels, weight)
    by_hand = TorchSoftmaxClassifier().fit(X, labels, weight / totals[labels])
    assert_allclose(balanced.coef_, by_hand.coef_, rtol=1e-9)


def test_a_class_of_class_weight_zero_keeps_its_label_and_loses_its_rows():
    X = np.random.default_rng(0).normal(size=(90, 4))
    labels = np.arange(90) % 3
    model = TorchSoftmaxClassifier(class_weight={0: 1, 1: 1, 2: 0}).fit(X, labels)
    assert model.classes_.tolist() == [0, 1, 2]
    assert not (model.predict(X) == 2).any()


def test_score_is_weighted(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y)
    weight = np.arange(len(X)) % 3
    assert model.score(X, y, weight) == pytest.approx(
        model.score(X.repeat(weight, 0), y.repeat(weight))
    )


def test_one_number_weighs_all_rows_of_a_score_and_a_search(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y, 2.5)
    assert model.score(X, y, 2.5) == model.score(X, y)
    grid = {"alpha": [0.1, 1.0]}
    weighted, plain = (
        BatchedGridSearchCV(Estimator(), grid, cv=2).fit(X, y, **weight)
        for weight in ({"sample_weight": 2.5}, {})
    )
    scores = [search.cv_results_["mean_test_score"] for search in (weighted, plain)]
    assert_allclose(*scores, rtol=1e-12)


def test_scores_refuse_by_name(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y)
    for weight in (-np.ones(90), np.full(90, np.nan), np.zeros(90), np.ones(89), "heavy", {1: 2}):
        with pytest.raises((ValueError, TypeError), match=r"[Ss]ample[ _]weight"):
            model.score(X, y, weight)
    for wrong in (y[:-1], [None] * 90, np.full(90, np.nan), {0: 1}, np.ones((90, 2, 2))):
        with pytest.raises((ValueError, TypeError), match=r"\by\b"):
            model.score(X, wrong)


#: Weights of rows whose sizes leave float64's range, alone or once they are multiplied or added.
EXTREME = [1e-320, 1e-300, 1e-200, 1e200, 1e307, 1.7e308]


def extreme(Estimator, kind, weight, **parameters):
    """Coefficients of a fit, and what it says of its end."""
    X = np.random.default_rng(0).normal(size=(90, 4))
    y = np.arange(90) % 3
    if Estimator is TorchLinearRegressor:
        y = X @ [1.0, 2.0, -1.0, 0.5] + y
    return one_batch(Estimator, {**ONE_BATCH[kind], **parameters}).fit(X, y, weight)


@pytest.mark.parametrize("kind", ONE_BATCH)
@pytest.mark.parametrize("size", EXTREME)
def test_weights_may_have_any_size(Estimator, kind, size):
    weight = np.resize([1.0, 0.5, 0.25], 90)
    plain = extreme(Estimator, kind, weight)
    scaled = extreme(Estimator, kind, weight * size)
    tolerance = 1e-2 if size < 1e-310 else 1e-9  # numbers that small have few digits
    assert_allclose(flat(scaled), flat(plain), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ONE_BATCH)
@pytest.mark.parametrize(
    ("rows", "classes"),
    [(1e307, "balanced"), (1e-320, "balanced"), (1e-200, 1e-200), (1e300, 1e300), (1e-320, 1e-320)],
)
def test_only_ratios_of_class_weights_times_row_weights_count(kind, rows, classes):
    weight, by_class = np.resize([1.0, 0.5, 0.25, 0.125], 90), {0: 1.0, 1: 0.5, 2: 0.25}
    scaled = {
        label: size * (1.0 if classes == "balanced" else classes)
        for label, size in by_class.items()
    }
    if classes == "balanced":
        scaled = by_class = classes
    plain = extreme(TorchSoftmaxClassifier, kind, weight, class_weight=by_class)
    model = extreme(TorchSoftmaxClassifier, kind, weight * rows, class_weight=scaled)
    tolerance = 1e-2 if rows < 1e-310 else 1e-9
    assert_allclose(flat(model), flat(plain), rtol=tolerance, atol=tolerance)


def test_weights_of_rows_and_classes_make_up_for_each_other():
    """The products are alike, though neither factor has a size that the other one's rows know."""
    X, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
    sizes = np.array([1e-300, 1.0, 1e300])
    plain = TorchSoftmaxClassifier(tol=1e-12).fit(X, y)
    for by_class in (dict(enumerate(1 / sizes)), "balanced"):
        model = TorchSoftmaxClassifier(tol=1e-12, class_weight=by_class).fit(X, y, sizes[y])
        assert_allclose(flat(model), flat(plain), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parameters", ONE_BATCH.values(), ids=ONE_BATCH)
def test_powers_of_two_change_no_bit(Estimator, parameters):
    kind = next(name for name in ONE_BATCH if ONE_BATCH[name] is parameters)
    weight = np.random.default_rng(1).uniform(0.1, 1, size=90)
    plain = extreme(Estimator, kind, weight, batch_size=16)
    for power in (2.0**-900, 2.0**900):
        assert_array_equal(
            flat(extreme(Estimator, kind, weight * power, batch_size=16)), flat(plain)
        )


@pytest.mark.parametrize("size", EXTREME)
@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_calls_of_partial_fit_may_have_weights_of_any_size(Estimator, data, size, optimizer):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": np.unique(y)}
    weight = np.resize([1.0, 0.5, 0.25], 90)

    def passes(size):
        settings = {"optimizer": optimizer, "random_state": 0, "batch_size": 16}
        model = Estimator(learning_rate=0.1 if optimizer == "sgd" else "auto", **settings)
        model.partial_fit(X, y, weight * size, **classes)
        return flat(model.partial_fit(X, y, weight * size * 0.5))

    tolerance = 1e-2 if size < 1e-310 else 1e-9
    assert_allclose(passes(size), passes(1.0), rtol=tolerance, atol=tolerance)


def test_later_weights_are_relative_to_the_first_call_s(Estimator, data):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": np.unique(y)}
    model = Estimator(optimizer="sgd", learning_rate=0.1, random_state=0)
    model.partial_fit(X, y, np.full(90, 1e-300), **classes)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=r"sample_weight .* times the weights of the first call"):
        model.partial_fit(X, y, np.full(90, 1e300))
    assert vars(model) == before


@pytest.mark.parametrize(("first", "later"), [(1e-320, None), (None, 1e-320), (None, 1e300)])
def test_without_weights_each_row_of_a_call_weighs_one(Estimator, data, first, later):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": np.unique(y)}
    model = Estimator(optimizer="sgd", learning_rate=0.1, random_state=0)
    model.partial_fit(X, y, first, **classes)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="without weights, each sample weighs 1"):
        model.partial_fit(X, y, later)
    assert vars(model) == before


@pytest.mark.parametrize("size", EXTREME)
def test_weights_of_any_size_in_a_search_and_a_score(Estimator, data, size):
    X, y = data
    weight = np.resize([1.0, 0.5, 0.25], 90)

    def scores(size):
        grid = {"alpha": [0.01, 0.1, 1.0]}
        search = BatchedGridSearchCV(Estimator(tol=1e-12), grid, cv=2)
        search.fit(X, y, sample_weight=weight * size)
        best = search.best_estimator_
        yield from search.cv_results_["mean_test_score"]
        yield best.score(X, y, weight * size)
        yield best.score(torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(weight * size))

    assert_allclose(list(scores(size)), list(scores(1.0)), rtol=1e-2 if size < 1e-310 else 1e-9)


@pytest.mark.parametrize("size", EXTREME)
def test_validation_weights_of_any_size(Estimator, data, size):
    X, y = data
    weight = np.resize([1.0, 0.5, 0.25], 90)
    held_out = {"X_val": X, "y_val": y}
    plain = Estimator().fit(X, y, **held_out, sample_weight_val=weight)
    scaled = Estimator().fit(X, y, **held_out, sample_weight_val=weight * size)
    tolerance = 1e-2 if size < 1e-310 else 1e-9
    assert_allclose(scaled.validation_loss_curve_, plain.validation_loss_curve_, rtol=tolerance)
