"""What nobody can learn from is refused by name, wherever it is passed, and nothing changes."""

import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

HUGE = 10**400
NUMBERS = [HUGE, -HUGE, Fraction(HUGE, 3), np.longdouble("1e400"), 10**5000]


def refused(call, model, *names):
    """The message of an error of ours that names one of `names`; the model is as before."""
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert any(re.search(rf"\b{name}\b", message) for name in names), message
    assert vars(model) == before
    return message


@pytest.mark.pairs  # not all estimators have them all
@pytest.mark.parametrize(
    "name",
    [
        "alpha",
        "l1_ratio",
        "learning_rate",
        "momentum",
        "max_iter",
        "tol",
        "n_iter_no_change",
        "batch_size",
        "validation_fraction",
        "random_state",
        "verbose",
        "delta",
        "betas",
        "device",
    ],
)
def test_parameters_beyond_floating_point(Estimator, data, name):
    if name not in Estimator().get_params():
        pytest.skip(f"{Estimator.__name__} has no {name}")
    for number in NUMBERS:
        model = Estimator(**{name: (0.9, number) if name == "betas" else number})
        refused(lambda model=model: model.fit(*data), model, name)


def given_to(Estimator, model, X, y, name, value):
    """Pass `value` as one of the things that a fit takes."""
    rows = {"X_val": X, "y_val": y} if name.endswith("_val") else {}
    arguments = {"X": X, "y": y} | rows | {name: value}
    model.fit(**arguments)


each_argument_of_fit = pytest.mark.parametrize(
    "name",
    [
        "X",
        "y",
        "sample_weight",
        "coef_init",
        "intercept_init",
        "X_val",
        "y_val",
        "sample_weight_val",
    ],
)


@pytest.mark.parametrize("number", NUMBERS[:4], ids=["int", "negative", "fraction", "long double"])
@each_argument_of_fit
def test_numbers_beyond_floating_point(Estimator, data, name, number):
    X, y = data
    shape = np.shape(Estimator().fit(X, y).coef_)
    value = {
        "X": [[number] * 4] * 90,
        "coef_init": np.full(shape, number, dtype=object),
        "intercept_init": np.full(shape[:-1], number, dtype=object),
    }.get(name.removesuffix("_val"), [number] * 90)
    model = Estimator()
    if Estimator is TorchSoftmaxClassifier and name.startswith("y") and number in (HUGE, -HUGE):
        value = [HUGE, 1, 2] * 30  # whole numbers are labels, but of no dtype
    refused(lambda: given_to(Estimator, model, X, y, name, value), model, name)


@pytest.mark.parametrize(
    "number", [*NUMBERS[:4], "much", None, [1.0], 1j, Decimal("1e500")], ids=str
)
def test_weights_of_one_number_and_of_classes(number):
    X, y = np.eye(4), [0, 1, 0, 1]
    model = TorchSoftmaxClassifier(class_weight={0: number, 1: 1.0})
    refused(lambda: model.fit(X, y), model, "class_weight")
    if number is not None:
        model = TorchSoftmaxClassifier()
        refused(lambda: model.fit(X, y, number), model, "sample_weight", "Sample weights")


def nested(X, layout):
    rows = X if X.ndim == 2 else X.unsqueeze(1)
    return torch.nested.nested_tensor(list(rows), layout=layout)


TENSORS = {
    "quantized": lambda X: torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8),
    "nested": lambda X: nested(X, torch.strided),
    "jagged": lambda X: nested(X, torch.jagged),
    "meta": lambda X: X.to("meta"),
    "coo": lambda X: X.to_sparse(),
    "csr": lambda X: (X if X.ndim == 2 else X.unsqueeze(1)).to_sparse_csr(),
    "mkldnn": lambda X: X.float().to_mkldnn(),
    "masked": lambda X: torch.masked.masked_tensor(X, X > 0),
    "complex": lambda X: X + 0j,
}


def tensor(kind, X):
    """One of them; torch warns of most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TENSORS[kind](X)


@pytest.mark.parametrize("kind", TENSORS)
@each_argument_of_fit
def test_tensors_that_hold_no_plain_numbers_are_refused_by_fit(Estimator, data, name, kind):
    X, y = map(torch.from_numpy, data)
    value = tensor(kind, X if name[0] == "X" else torch.ones(90).double())
    model = Estimator()
    refused(lambda: given_to(Estimator, model, X, y, name, value), model, name)


@pytest.mark.parametrize("kind", TENSORS)
def test_and_by_every_other_method(Estimator, data, kind):
    X, y = map(torch.from_numpy, data)
    model = Estimator().fit(X, y)
    bad, row = tensor(kind, X), tensor(kind, torch.ones(90).double())
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    calls = {
        "X": [
            lambda: model.predict(bad),
            lambda: model.score(bad, y),
            lambda: model.partial_fit(bad, y, **classes),
            lambda: BatchedGridSearchCV(Estimator(), {"alpha": [0.1]}, cv=2).fit(bad, y),
        ],
        "y": [
            lambda: model.score(X, row),
            lambda: model.partial_fit(X, row, **classes),
            lambda: BatchedGridSearchCV(Estimator(), {"alpha": [0.1]}, cv=2).fit(X, row),
        ],
        "sample_weight": [
            lambda: model.score(X, y, row),
            lambda: model.partial_fit(X, y, row, **classes),
        ],
    }
    if classes:
        calls["X"] += [lambda: model.predict_proba(bad), lambda: model.decision_function(bad)]
        calls["classes"] = [lambda: Estimator().partial_fit(X, y, classes=row)]
    for name, several in calls.items():
        for call in several:
            refused(call, model, name)


@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_targets_have_a_column(Estimator, data, container):
    X, _ = data
    model = Estimator()
    refused(lambda: model.fit(X, container(np.ones((90, 0)))), model, "y")
    refused(lambda: model.fit(X, container(np.ones((90, 2, 2)))), model, "y")


@pytest.mark.parametrize(
    "classes",
    [
        [],
        np.array([]),
        torch.tensor([]),
        [0],
        3,
        "abc",
        {0, 1},
        [[0, 1], [2, 3]],
        [np.nan, 0, 1],
        [np.inf, 0, 1],
        [0.5, 1.0],
        [None, 0, 1],
        ["a", None],
        [0, 1, "a"],
        ["a", 1],
        [1j, 0],
        [HUGE, 0, 1],
        [object(), 0],
    ],
    ids=str,
)
def test_classes_that_are_no_labels(classes):
    X, y = np.eye(4), [0, 1, 0, 1]
    model = TorchSoftmaxClassifier()
    refused(lambda: model.partial_fit(X, y, classes=classes), model, "classes")
    model = TorchSoftmaxClassifier().partial_fit(X, y, classes=[0, 1])
    refused(lambda: model.partial_fit(X, y, classes=classes), model, "classes")


MIXED = [
    [1, "a", 1, "a"], ["a", 1, "a", 1], np.array([1, "a"] * 2, dtype=object),
    np.array(["a", 1] * 2, dtype=object), ["a", 1.5, "a", 1.5], [True, "a"] * 2, ["a", b"b"] * 2,
    np.array(["a", (1,)] * 2, dtype=object),
]  # fmt: skip


@pytest.mark.parametrize("labels", MIXED, ids=str)
def test_labels_of_several_kinds(labels):
    X, model = np.eye(4), TorchSoftmaxClassifier()
    message = refused(lambda: model.fit(X, labels), model, "y")
    assert "one kind" in message
    refused(lambda: model.fit(X, [0, 1, 0, 1], X_val=X, y_val=labels), model, "y_val")


def test_a_word_among_the_numbers_names_where_it_is(Estimator, data):
    X, y = data
    model = Estimator()
    words = np.full((90, 4), "red", dtype=object)
    assert "could not convert" in refused(lambda: model.fit(words, y), model, "X")
    held_out = {"X_val": words, "y_val": y}
    assert "could not convert" in refused(lambda: model.fit(X, y, **held_out), model, "X_val")
    refused(lambda: model.fit(X, y, X_val=X[:, :3], y_val=y), model, "X_val")
    refused(lambda: model.fit(X, y, ["red"] * 90), model, "sample_weight")
    refused(lambda: model.fit(X, y, coef_init="red"), model, "coef_init")
    if Estimator is TorchLinearRegressor:
        refused(lambda: model.fit(X, ["red"] * 90), model, "y")


@pytest.mark.parametrize(
    ("weights", "classes", "left"),
    [({0: 1, 1: 0}, [0, 1], "0"), ({"a": 0, "b": 0, "c": 2.0}, ["a", "b", "c"], "'c'")],
)
def test_a_class_weight_that_leaves_one_class_says_so(weights, classes, left):
    X = np.random.default_rng(0).normal(size=(30, 2))
    y, model = np.resize(classes, 30), TorchSoftmaxClassifier(class_weight=weights)
    message = refused(lambda: model.fit(X, y), model, "class_weight")
    assert f"leaves a single class, {left}" in message
    refused(lambda: model.partial_fit(X, y, classes=classes), model, "class_weight")


def test_starts_beyond_float32(make_data, Estimator):
    X, y = make_data(dtype=np.float32)
    model = Estimator()
    shape = np.shape(Estimator().fit(X, y).coef_)
    refused(lambda: model.fit(X, y, coef_init=np.full(shape, 1e300)), model, "coef_init")
    refused(
        lambda: model.fit(X, y, intercept_init=np.full(shape[:-1], 1e300)), model, "intercept_init"
    )


@pytest.mark.parametrize("value", [np.array([1j, 0j, 0j, 0j], dtype=object), [1j] * 4])
def test_starts_that_are_complex(data, value):
    X, y = data
    model = TorchLinearRegressor()
    refused(lambda: model.fit(X, y, coef_init=value), model, "coef_init")
    refused(lambda: model.fit(X, y, intercept_init=value[0]), model, "intercept_init")


@pytest.mark.parametrize(
    "y", [3.5, np.array(3.5), torch.tensor(3.5)], ids=["number", "array", "tensor"]
)
def test_a_target_without_rows(Estimator, y):
    model = Estimator()
    refused(lambda: model.fit(np.eye(4), y), model, "y")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coefficients_beyond_their_dtype(dtype):
    rows = np.random.default_rng(0).normal(size=(30, 2))
    size, of_y = (1e-25, 1e15) if dtype == np.float32 else (1e-200, 1e130)
    X, y = (size * rows).astype(dtype), (of_y * rows[:, 0]).astype(dtype)
    model = TorchLinearRegressor()
    words = "coefficients exceed the range"
    assert words in refused(lambda: model.fit(X, y), model, "y")
    search = BatchedGridSearchCV(model, {"tol": [1e-4, 1e-3]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=words):
        search.fit(X, y)


def test_any_tolerance_is_near_enough(Estimator, data):
    assert Estimator(tol=1e308).fit(*data).converged_
    X, y = data
    if Estimator is TorchLinearRegressor:
        assert Estimator(tol=1e300, alpha=0.1, loss="huber").fit(X, 1e30 * y).converged_


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_parameters_are_checked_before_they_are_used(Estimator, method):
    model = Estimator(early_stopping=np.array([True, False]))
    with pytest.raises((TypeError, ValueError), match="early_stopping"):
        getattr(model, method)(np.zeros((2, 1)), [0, 1])


BAD_WEIGHTS = {
    "no numbers": ["a"] * 90,
    "None": [None] * 90,
    "NaN": np.full(90, np.nan),
    "infinite": np.full(90, np.inf),
    "negative": -np.ones(90),
    "one negative": np.r_[-0.5, np.ones(89)],
    "zero": np.zeros(90),
    "too few": np.ones(89),
    "none": [],
    "a column": np.ones((90, 1)),
    "complex": 1j * np.ones(90),
    "huge": [HUGE] * 90,
    "one huge": HUGE,
    "one string": "a",
    "one negative number": -2.0,
    "negative tensor": -torch.ones(90),
    "meta": torch.ones(90, device="meta"),
}


@pytest.mark.parametrize("weight", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_scores_refuse_the_weights_that_fit_refuses(Estimator, data, weight):
    X, y = data
    model = Estimator().fit(X, y)
    names = ("sample_weight", "Sample weights")
    message = refused(lambda: model.score(X, y, weight), model, *names)
    assert message == refused(lambda: model.fit(X, y, weight), model, *names)


@pytest.mark.parametrize("weight", [2.0, 3, np.float32(0.5), np.array(2.0), torch.tensor(2.0)])
def test_one_number_is_the_weight_of_all_rows_in_scores_too(Estimator, data, weight):
    model = Estimator().fit(*data, weight)
    assert model.score(*data, weight) == model.score(*data)


MISSING = {
    "strings": lambda: pd.Series(["a", None, *["b"] * 88], dtype="string"),
    "objects": lambda: np.array(["a", pd.NA, *["b"] * 88], dtype=object),
    "a list": lambda: ["a", pd.NA, *["b"] * 88],
    "numbers": lambda: [0, pd.NA, *[1] * 88],
    "integers": lambda: pd.Series([0, None, *[1] * 88], dtype="Int64"),
    "booleans": lambda: pd.Series([True, None, *[False] * 88], dtype="boolean"),
    "categories": lambda: pd.Series(["a", None, *["b"] * 88], dtype="category"),
    "None": lambda: ["a", None, *["b"] * 88],
    "times": lambda: np.array(["a", pd.NaT, *["b"] * 88], dtype=object),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_refused_by_name(kind):
    X, y = np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 2
    model = TorchSoftmaxClassifier().fit(X, y)
    labels = MISSING[kind]()
    for call, name in (
        (lambda: model.fit(X, labels), "y"),
        (lambda: model.partial_fit(X, labels), "y"),
        (lambda: model.fit(X, y, X_val=X, y_val=labels), "y_val"),
    ):
        with pytest.raises(ValueError, match=rf"Input {name}\b.* contains (NaN|None|<NA>)"):
            call()
    with pytest.raises(ValueError, match="Input classes"):
        TorchSoftmaxClassifier().partial_fit(X, y, classes=labels[:3])


def test_missing_numbers_are_refused_by_name():
    X, y = np.eye(4), [1.0, pd.NA, 2.0, 3.0]
    for target in (y, pd.Series(y, dtype="Float64"), np.array(y, dtype=object)):
        model = TorchLinearRegressor()
        refused(lambda y=target, model=model: model.fit(X, y), model, "y")


def test_validation_rows_that_class_weights_leave_nothing_of():
    X, y = np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 3
    model = TorchSoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 0.0})
    validation = {"X_val": X[:5], "y_val": np.full(5, 2)}
    message = refused(lambda: model.fit(X, y, **validation), model, "y_val")
    assert "class_weight" in message


@pytest.mark.parametrize("rare", [["cat"], ["cat", "cow"]], ids=["two classes", "three classes"])
def test_labels_too_rare_to_hold_out_are_named_as_they_are(rare):
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = np.array([*rare, *["dog"] * (60 - len(rare))])
    model = TorchSoftmaxClassifier(early_stopping=True)
    message = refused(lambda: model.fit(X, y), model, "early_stopping")
    assert "y_val, or set early_stopping=False." in message
    assert ". Pass X_val" in message
    assert re.search(r"\b[0-2]\.0\b|\[[0-2]", message) is None
    if "Classes with too few" in message:  # not in all versions of scikit-learn
        assert all(label in message for label in rare) and "dog" not in message


SHAPES = {
    "short": np.ones(2),
    "more rows": np.ones((4, 4)),
    "3-d": np.ones((1, 1, 4)),
    "a number": 1.0,
    "None": None,
    "a string": "abc",
    "strings": np.array(["a"] * 4),
    "complex": 1j * np.ones(4),
    "NaN in a list": [np.nan] * 4,
    "meta": torch.ones(4, device="meta"),
}
METHODS = [
    lambda model, X: model.predict(X),
    lambda model, X: model.predict(torch.tensor(X)),
    lambda model, X: model.score(X, np.arange(len(X)) % 3),
    lambda model, X: model.to_torch(),
    lambda model, X: model.to_sklearn(),
]


@pytest.mark.parametrize("method", METHODS, ids=["predict", "tensor", "score", "torch", "sklearn"])
@pytest.mark.parametrize("name", ["coef_", "intercept_"])
@pytest.mark.parametrize("kind", SHAPES)
def test_coefficients_that_are_set_by_hand_are_named(Estimator, data, name, kind, method):
    model, value = Estimator().fit(*data), SHAPES[kind]
    allowed = {"more rows"} if name == "coef_" and Estimator is TorchLinearRegressor else set()
    if kind in allowed | ({"a number"} if name == "intercept_" else set()):
        value = "none at all"
    setattr(model, name, value)
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}"):
        method(model, data[0])


def test_coefficients_that_are_set_by_hand_may_be_of_any_kind(Estimator, data):
    X, model = data[0], Estimator().fit(*data)
    wanted = model.predict(X)
    for kind in (np.ndarray.tolist, torch.tensor, lambda array: array.astype(object)):
        changed = Estimator().fit(*data)
        changed.coef_, changed.intercept_ = kind(model.coef_), kind(np.array(model.intercept_))
        np.testing.assert_array_equal(changed.predict(X), wanted)
        np.testing.assert_array_equal(changed.to_sklearn().predict(X), wanted)
        changed.to_torch()
    model.intercept_ = 0.0
    assert model.predict(X).shape == wanted.shape


@pytest.mark.parametrize("size", [1e-310, 1e-320])
def test_a_feature_of_subnormal_numbers_is_refused_by_name(size):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)) * [1.0, size, 1.0]
    for model, y in (
        (TorchLinearRegressor(), rng.normal(size=40)),
        (TorchSoftmaxClassifier(), rng.integers(0, 2, size=40)),
    ):
        with pytest.raises(ValueError, match=r"feature of X .*e-3\d\d .* other units"):
            model.fit(X, y)
