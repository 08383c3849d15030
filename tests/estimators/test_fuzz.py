"""Anything may be passed: there is a sound model, or an error that names the argument."""

import re
import tempfile
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

NAN, INF = float("nan"), float("inf")

# What numbers there are.

VALUES = {
    "ordinary": lambda rng, shape: rng.normal(size=shape),
    "whole": lambda rng, shape: rng.integers(-3, 4, size=shape).astype(float),
    "tiny": lambda rng, shape: rng.normal(size=shape) * 1e-300,
    "subnormal": lambda rng, shape: rng.normal(size=shape) * 1e-320,
    "large": lambda rng, shape: rng.normal(size=shape) * 1e30,
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e306,
    "scales": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-8, 9, shape[-1:]),
    "far away": lambda rng, shape: rng.normal(size=shape) + 1e6,
    "constant": lambda rng, shape: np.full(shape, 7.25),
    "zero": lambda rng, shape: np.zeros(shape),
    "outlier": lambda rng, shape: with_one(rng, rng.normal(size=shape), 1e12),
    "NaN": lambda rng, shape: with_one(rng, rng.normal(size=shape), NAN),
    "infinite": lambda rng, shape: with_one(rng, rng.normal(size=shape), -INF),
}
SOUND = ["ordinary", "whole", "scales", "far away", "constant", "outlier", "large", "tiny"]


def with_one(rng, array, number):
    if array.size:
        array.flat[rng.integers(array.size)] = number
    return array


# How they are held.

DTYPES = ["f8", "f4", "f2", "i4", "i8", "u1", "?", ">f8", ">f4", ">i4", "g", "c16", "O", "U"]
LAYOUTS = {
    "C": lambda a: a,
    "F": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "columns of more": lambda a: np.concatenate([a, a], axis=-1)[..., : a.shape[-1]],
    "one for all": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
    "read-only": lambda a: frozen(a.copy()),
}
CONTAINERS = {
    "array": lambda a: a,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "frame": lambda a: pd.DataFrame(a) if a.ndim == 2 else pd.Series(a),
    "named frame": lambda a: pd.DataFrame(a, columns=[f"c{i}" for i in range(a.shape[1])]),
    "tensor": lambda a: torch.tensor(a.tolist(), dtype=torch.float64),
    "float32 tensor": lambda a: torch.tensor(a.tolist(), dtype=torch.float32),
    "bfloat16 tensor": lambda a: torch.tensor(a.tolist(), dtype=torch.bfloat16),
    "whole tensor": lambda a: torch.tensor(np.nan_to_num(a, posinf=9, neginf=9).astype(int)),
    "tensor with gradient": lambda a: torch.tensor(a.tolist(), requires_grad=True),
    "strided tensor": lambda a: torch.tensor(np.repeat(a, 2, axis=0))[::2],
    "sparse tensor": lambda a: torch.tensor(a.tolist()).to_sparse(),
    "meta tensor": lambda a: torch.tensor(a.tolist(), device="meta"),
    "csr matrix": sparse.csr_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo matrix": sparse.coo_matrix,
    "matrix": np.matrix,
    "masked array": np.ma.masked_invalid,
    "memory map": lambda a: mapped(a),
    "scalar": lambda a: 3.5,
    "words": lambda a: "words",
    "nothing": lambda a: None,
    "an object": lambda a: object(),
    "a set": lambda a: set(a.ravel().tolist()),
    "a dictionary": lambda a: dict(enumerate(a.tolist())),
}
#: What containers raise that cannot hold some values.
NOTHING_LIKE_THAT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
PLAIN = ["array", "list", "frame", "tensor", "csr array", "memory map"]


def frozen(array):
    array.flags.writeable = False
    return array


def mapped(array):
    if not array.size or array.dtype.hasobject:
        return array
    with tempfile.TemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape)


LABELS = {
    "whole": lambda rng, n: rng.integers(0, 3, n),
    "two": lambda rng, n: rng.integers(0, 2, n),
    "words": lambda rng, n: np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
    "objects": lambda rng, n: np.array(["a", "b"], dtype=object)[rng.integers(0, 2, n)],
    "bools": lambda rng, n: rng.integers(0, 2, n) > 0,
    "floats": lambda rng, n: rng.integers(0, 2, n).astype(float),
    "large": lambda rng, n: rng.integers(0, 2, n).astype("u8") + np.uint64(2**63),
    "one": lambda rng, n: np.zeros(n, dtype=int),
    "fractions": lambda rng, n: rng.normal(size=n),
    "NaN": lambda rng, n: with_one(rng, rng.integers(0, 2, n).astype(float), NAN),
    "None": lambda rng, n: with_one(rng, np.array(["a", "b"], object)[rng.integers(0, 2, n)], None),
    "mixed": lambda rng, n: with_one(rng, np.array(["a", "b"], object)[rng.integers(0, 2, n)], 3),
    "dates": lambda rng, n: np.array(["2020", "2021"], "M8[D]")[rng.integers(0, 2, n)],
    "a column": lambda rng, n: rng.integers(0, 2, (n, 1)),
    "one-hot": lambda rng, n: np.eye(3)[rng.integers(0, 3, n)],
}
WEIGHTS = {
    "none": lambda rng, n: None,
    "ordinary": lambda rng, n: rng.uniform(0.1, 2, n),
    "some zero": lambda rng, n: rng.integers(0, 2, n).astype(float),
    "tiny": lambda rng, n: rng.uniform(0.1, 2, n) * 1e-310,
    "huge": lambda rng, n: rng.uniform(0.1, 1, n) * 1.7e308,
    "any": lambda rng, n: 10.0 ** rng.uniform(-300, 300, n),
    "zero": lambda rng, n: np.zeros(n),
    "negative": lambda rng, n: -np.ones(n),
    "NaN": lambda rng, n: with_one(rng, np.ones(n), NAN),
    "short": lambda rng, n: np.ones(max(n - 1, 0)),
    "a column": lambda rng, n: np.ones((n, 1)),
    "number": lambda rng, n: 2.5,
    "a word": lambda rng, n: "heavy",
}

GOOD = {
    "alpha": [0.0, 1e-4, 1.0, 1e6],
    "l1_ratio": [0.0, 0.5, 1.0],
    "fit_intercept": [True, False],
    "optimizer": ["auto", "auto", "sgd", "adam"],
    "learning_rate": ["auto", "auto", 1e-3, 1e3],
    "schedule": ["constant", "invscaling", "cosine", "adaptive"],
    "momentum": [0.0, 0.9],
    "batch_size": ["auto", 1, 4, None],
    "max_iter": [1, 3, 100],
    "tol": [1e-4, 0.0, 1e-12, None, 1e300],
    "n_iter_no_change": [1, 5],
    "early_stopping": [False, False, False, True],
    "validation_fraction": [0.1, 0.5],
    "warm_start": [False, True],
    "random_state": [0, np.random.RandomState(0)],
    "loss": ["squared_error", "huber"],
    "delta": [1.0, 1e-6, 1e6, 1e-300, 1e300],
    "class_weight": [None, "balanced", {0: 1.0, 1: 2.0, 2: 0.0}, {0: 1e-320, 1: 1e300}],
}
NONSENSE = [None, "words", NAN, -1, 10**400, Fraction(10**400, 3), [1], np.ones(2), 1j]
BAD = {
    **{name: NONSENSE for name in GOOD},
    "device": ["gpu", 10**30, "meta"],
    "class_weight": ["even", {0: -1.0}, {0: "a"}, {0: 10**400}, {7: 1.0}, {0: 1, 1: 0}, [1, 2]],
}
NAMES = [
    *GOOD, *BAD, "X", "y", "sample_weight", "X_val", "y_val", "sample_weight_val", "coef_init",
    "intercept_init", "coef_", "classes", "learning rate", "Sample weights", "Class weights",
    "warm_start", "y_true",
]  # fmt: skip
NAMED = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in dict.fromkeys(NAMES)))

# What scikit-learn says of rows that are too few to split.
OF_SEARCHES = re.compile(NAMED.pattern + "|n_splits")


@st.composite
def numbers(draw, rng, shape, ordinary):
    """An array of any kind, and whether its values are finite and of a sound size."""
    kinds = st.sampled_from(SOUND) if ordinary else st.sampled_from(list(VALUES))
    array = np.asarray(VALUES[draw(kinds)](rng, shape))  # a number if shape is ()
    dtype = draw(st.sampled_from(["f8", "f4"] if ordinary else DTYPES))
    layout = draw(st.sampled_from(list(LAYOUTS)))
    container = draw(st.sampled_from(PLAIN if ordinary else list(CONTAINERS)))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return CONTAINERS[container](LAYOUTS[layout](array.astype(dtype)))
        except NOTHING_LIKE_THAT:
            return array


@st.composite
def calls(draw):
    """An estimator, the arguments of a fit, and which other method to call."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    Estimator = draw(st.sampled_from([TorchLinearRegressor, TorchSoftmaxClassifier]))
    known = Estimator().get_params()
    strange = draw(
        st.sampled_from(["nothing", "nothing", "X", "y", "weights", "parameter", "extra"])
    )
    n, d = draw(st.sampled_from([1, 2, 5, 12, 12, 12, 30])), draw(st.sampled_from([1, 2, 3, 3, 15]))
    n, d = draw(st.sampled_from([(0, d), (n, 0)])) if strange == "X" and n == 1 else (n, d)
    parameters = {"max_iter": 20}
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=4)):
        parameters[name] = draw(st.sampled_from(GOOD[name]))
    if strange == "parameter":
        name = draw(st.sampled_from(sorted(BAD)))
        parameters[name] = draw(st.sampled_from(BAD[name]))
    parameters = {name: value for name, value in parameters.items() if name in known}

    arguments = {"X": draw(numbers(rng, (n, d), strange != "X"))}
    if Estimator is TorchSoftmaxClassifier:
        kinds = ["whole", "two", "words", "bools", "floats"] if strange != "y" else list(LABELS)
        arguments["y"] = LABELS[draw(st.sampled_from(kinds))](rng, n)
        if strange == "y":
            arguments["y"] = held(draw(st.sampled_from(list(CONTAINERS))), arguments["y"])
    else:
        shape = draw(st.sampled_from([(n,), (n,), (n, 1), (n, 2)]))
        shape = (
            draw(st.sampled_from([(n, 0), (n + 1,), (), (n, 1, 1), shape]))
            if strange == "y"
            else shape
        )
        arguments["y"] = draw(numbers(rng, shape, strange != "y"))
    kinds = list(WEIGHTS) if strange == "weights" else ["none", "none", "ordinary", "some zero"]
    weight = WEIGHTS[draw(st.sampled_from(kinds))](rng, n)
    if weight is not None:
        arguments["sample_weight"] = weight
    if strange == "extra":
        name = draw(st.sampled_from(["coef_init", "intercept_init", "X_val", "y_val", "both"]))
        if name == "both":
            arguments |= {"X_val": arguments["X"], "y_val": arguments["y"]}
        else:
            arguments[name] = draw(
                numbers(rng, draw(st.sampled_from([(d,), (3, d), (n, d), (3,), ()])), False)
            )
    method = draw(st.sampled_from(["fit", "fit", "fit", "partial_fit", "search"]))
    return Estimator(**parameters), arguments, method, draw(st.booleans())


def held(container, values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return CONTAINERS[container](values)
        except NOTHING_LIKE_THAT:
            return values


def bits(value):
    """What must stay as it is of an argument."""
    if isinstance(value, np.ma.MaskedArray):
        return type(value), bits(value.data), bits(np.ma.getmaskarray(value))
    if isinstance(value, np.ndarray):
        contents = value.tolist() if value.dtype == object else value.tobytes()
        return type(value), value.dtype, value.strides, repr(contents), value.flags.writeable
    if isinstance(value, torch.Tensor):
        if value.is_sparse:
            return bits(value.to_dense())
        if value.is_complex():
            return value.dtype, bits(torch.view_as_real(value.detach().resolve_conj()))
        contents = None if value.is_meta else value.detach().double().numpy().tobytes()
        return value.dtype, value.stride(), contents, value.requires_grad
    if sparse.issparse(value):
        parts = ("data", "indices", "indptr", "row", "col")
        return type(value), [bits(getattr(value, part)) for part in parts if hasattr(value, part)]
    if isinstance(value, pd.DataFrame | pd.Series):
        return repr(value.axes), bits(value.to_numpy())
    if isinstance(value, np.random.RandomState):
        return "a generator"
    return repr(value)


def frozen_state(estimator):
    return {name: bits(value) for name, value in vars(estimator).items()}


def constant_objective(model, arguments):
    """An upper bound of the best constant model's, where it is easily told; else infinity."""
    y, weight = arguments["y"], arguments.get("sample_weight")
    if model.early_stopping or getattr(model, "class_weight", None) is not None:
        return INF
    if isinstance(y, torch.Tensor):  # NumPy has no bfloat16, and float64 not every whole number
        y = (y.double() if y.is_floating_point() else y).detach()
    y = np.asarray(y)
    weight = np.ones(len(y)) if weight is None else np.broadcast_to(weight, len(y))
    with np.errstate(all="ignore"):
        share = (weight / weight.max()) / (weight / weight.max()).sum()
        if isinstance(model, TorchSoftmaxClassifier):
            labels = y.ravel()[weight > 0]
            p = np.array([share[weight > 0][labels == label].sum() for label in model.classes_])
            p = p if model.fit_intercept else np.full(len(p), 1 / len(p))
            return -(p * np.log(p)).sum() if model.fit_intercept else np.log(len(p))
        dtype = model.coef_.dtype  # targets and predictions are rounded to it
        y = y.reshape(len(y), -1).astype(dtype).astype(float)
        rounding = np.finfo(dtype).eps * np.abs(y)
        mean = share @ y if model.fit_intercept else 0.0
        error = np.abs(y - mean)
        loss = 0.5 * error**2
        if model.loss == "huber":
            loss = np.where(error > model.delta, model.delta * (error - 0.5 * model.delta), loss)
        # By Cauchy and Schwarz, of a loss that has no steeper slope than the squared error.
        size = np.sqrt(share @ error**2)
        return (share @ loss + size * np.sqrt(share @ rounding**2) + share @ rounding**2).sum()


def check_model(model, arguments, method, warned):
    """A fitted model is finite, answers, and is no worse than a constant, or says so."""
    for name in ("coef_", "intercept_", "loss_curve_"):
        assert np.isfinite(getattr(model, name)).all(), name
    found = model.predict(arguments["X"])
    assert len(found) == model.predict(arguments["X"]).shape[0]
    if isinstance(model, TorchSoftmaxClassifier):
        p = np.asarray(model.predict_proba(arguments["X"]))
        assert np.allclose(p.sum(axis=1), 1, atol=1e-3) and not np.isnan(p).any()
    else:
        assert not np.isnan(np.asarray(found)).any()
    if method == "fit" and model.optimizer_ == "quasi-newton" and not warned:
        constant = constant_objective(model, arguments)
        if np.isfinite(constant):
            reached = model.loss_curve_[model.best_iter_ - 1]
            assert reached <= constant * (1 + 1e-5) + 1e-12, (reached, constant)


def call(model, arguments, method):
    if method == "search":
        search = BatchedGridSearchCV(model, {"alpha": [0.01, 0.1]}, cv=2, error_score="raise")
        rest = {name: value for name, value in arguments.items() if name not in ("X", "y")}
        return search.fit(arguments["X"], arguments["y"], **rest).best_estimator_
    if method == "fit":
        return model.fit(**arguments)
    some = {name: arguments.get(name) for name in ("X", "y", "sample_weight")}
    if isinstance(model, TorchSoftmaxClassifier):
        y = arguments["y"]
        some["classes"] = np.unique(y) if isinstance(y, np.ndarray) and y.dtype != object else y
    return model.partial_fit(**some)


def check(case):
    model, arguments, method, fitted_before = case
    parameters = {name: bits(value) for name, value in model.get_params().items()}
    if fitted_before:
        X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3
        other = type(model)().fit(X, y)
        vars(model).update({k: v for k, v in vars(other).items() if k not in parameters})
    before = frozen_state(model)
    given = {name: bits(value) for name, value in arguments.items()}
    failed = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        # Splits and scores of a search are scikit-learn's, and so are the warnings.
        of_searches = (RuntimeWarning, UserWarning) if method == "search" else ()
        for category in (ConvergenceWarning, DataConversionWarning, *of_searches):
            warnings.simplefilter("always", category)
        warnings.filterwarnings("ignore", "X (has|does not have valid) feature names")
        warnings.filterwarnings("ignore", "Parameters .* no effect")
        try:
            fitted = call(model, arguments, method)
        except (ValueError, TypeError, MemoryError) as error:
            failed = True
            words = NAMED if method != "search" else OF_SEARCHES
            assert words.search(str(error)), f"{type(error).__name__}: {error}"
        warned = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        if not failed:
            check_model(fitted, arguments, method, warned)
    if failed or method == "search":
        assert frozen_state(model) == before
    assert {name: bits(value) for name, value in model.get_params().items()} == parameters
    assert {name: bits(value) for name, value in arguments.items()} == given


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(case=calls())
def test_anything_is_learnt_or_refused_by_name(case):
    check(case)


@pytest.mark.long
@settings(max_examples=20_000, derandomize=False, suppress_health_check=list(HealthCheck))
@given(case=calls())
def test_anything_at_all_is_learnt_or_refused_by_name(case):
    check(case)
