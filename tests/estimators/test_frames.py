"""pandas and polars frames: names remembered and checked, nullable numbers, labels of any kind."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

NAMES = ["a", "b", "c", "d"]
FRAMES = {
    "pandas": lambda X: pd.DataFrame(X, columns=NAMES),
    "polars": lambda X: pl.DataFrame(X, schema=NAMES),
}
each_frame = pytest.mark.parametrize("frame", FRAMES)


@each_frame
def test_names_are_remembered(Estimator, data, frame):
    X, y = data
    model = Estimator().fit(FRAMES[frame](X), y)
    assert model.feature_names_in_.tolist() == NAMES
    assert_array_equal(model.coef_, Estimator().fit(X, y).coef_)
    assert model.to_sklearn().feature_names_in_.tolist() == NAMES


@each_frame
@pytest.mark.parametrize("names", [["d", "c", "b", "a"], ["a", "b", "c", "e"]])
def test_names_are_checked_in_every_method(Estimator, data, frame, names):
    X, y = data
    table = FRAMES[frame](X)
    model = Estimator().fit(table, y)
    other = pd.DataFrame(X, columns=names) if frame == "pandas" else pl.DataFrame(X, schema=names)
    calls = [
        model.predict,
        lambda rows: model.score(rows, y),
        lambda rows: model.partial_fit(rows, y),
    ]
    if Estimator is TorchSoftmaxClassifier:
        calls += [model.predict_proba, model.predict_log_proba, model.decision_function]
    calls += [lambda rows: Estimator().fit(table, y, X_val=rows, y_val=y)]
    for call in calls:
        with pytest.raises(ValueError, match="The feature names should match those"):
            call(other)


def test_names_that_went_missing_are_warned_of(Estimator, data):
    X, y = data
    model = Estimator().fit(pd.DataFrame(X, columns=NAMES), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)


@each_frame
def test_one_kind_of_frame_is_as_good_as_another(Estimator, data, frame):
    X, y = data
    model = Estimator().fit(FRAMES[frame](X), y)
    for other in FRAMES.values():
        assert_allclose(model.predict(other(X)), model.predict(FRAMES[frame](X)), rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        ("Int64", np.float64),
        ("UInt8", np.float64),
        ("Float64", np.float64),
        ("Float32", np.float64),
        ("boolean", np.float64),
        ("float32[pyarrow]", np.float64),
        ("int64[pyarrow]", np.float64),
    ],
)
def test_nullable_numbers(Estimator, data, dtype, computed):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    X, y = data
    X = np.abs(X).round() if dtype != "boolean" else X > 0
    table = pd.DataFrame(X, columns=NAMES).astype(dtype)
    model = Estimator().fit(table, y)
    assert model.coef_.dtype == computed
    assert_array_equal(model.coef_, Estimator().fit(np.asarray(X, dtype=computed), y).coef_)
    assert_array_equal(model.predict(table), model.predict(table.astype(computed)))


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
def test_a_missing_value_is_refused(Estimator, data, dtype):
    X, y = data
    table = pd.DataFrame(X > 0, columns=NAMES).astype(dtype)
    table.iloc[3, 1] = pd.NA
    with pytest.raises(ValueError, match="contains NaN"):
        Estimator().fit(table, y)
    with pytest.raises(ValueError, match="contains NaN"):
        Estimator().fit(table.dropna(), y[table.notna().all(axis=1)]).predict(table)


def test_a_null_of_polars_is_refused(Estimator, data):
    X, y = data
    table = pl.DataFrame(X, schema=NAMES).with_columns(
        pl.when(pl.col("b") > 1).then(None).otherwise(pl.col("b")).alias("b")
    )
    with pytest.raises(ValueError, match="contains NaN"):
        Estimator().fit(table, y)


@pytest.mark.parametrize("kind", ["Int64", "Float64", "int64[pyarrow]"])
def test_nullable_targets_and_weights(Estimator, data, kind):
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
    X, y = data
    y, weight = y.round(), np.arange(len(y)) % 3
    nullable = Estimator().fit(X, pd.Series(y).astype(kind), pd.Series(weight).astype(kind))
    plain = Estimator().fit(X, y, weight)
    assert_allclose(nullable.coef_, plain.coef_, rtol=1e-12)
    assert nullable.score(X, pd.Series(y).astype(kind)) == plain.score(X, y)


WORDS = np.array(["low", "middle", "high"])
LABELS = {
    "pandas strings": lambda words: pd.Series(words, dtype="string"),
    "pandas str": lambda words: pd.Series(words, dtype="str"),
    "pandas objects": lambda words: pd.Series(words, dtype=object),
    "pandas categories": lambda words: pd.Series(pd.Categorical(words, categories=WORDS)),
    "pandas Categorical": lambda words: pd.Categorical(words),
    "pandas column": lambda words: pd.DataFrame({"y": words})["y"],
    "polars strings": lambda words: pl.Series(words.tolist()),
    "polars categories": lambda words: pl.Series(words.tolist(), dtype=pl.Categorical),
    "polars enum": lambda words: pl.Series(words.tolist(), dtype=pl.Enum(WORDS.tolist())),
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_from_frames(form):
    X = np.random.default_rng(0).normal(size=(90, 4))
    words = WORDS[X[:, :3].argmax(axis=1)]
    y = LABELS[form](words)
    model = TorchSoftmaxClassifier().fit(X, y)
    assert model.classes_.tolist() == sorted(WORDS)
    predictions = model.predict(X)
    assert (predictions == words).mean() > 0.9
    assert model.score(X, y) == (predictions == words).mean()
    assert_array_equal(model.coef_, TorchSoftmaxClassifier().fit(X, words).coef_)


@pytest.mark.parametrize("form", ["pandas", "polars"])
def test_pipelines_that_transform_to_frames(Estimator, data, form):
    X, y = data
    table = FRAMES[form](X)
    with config_context(transform_output=form):
        model = make_pipeline(StandardScaler(), Estimator()).fit(table, y)
        assert model[-1].feature_names_in_.tolist() == NAMES
        predictions = model.predict(table)
    plain = make_pipeline(StandardScaler(), Estimator()).fit(X, y)
    assert_allclose(model[-1].coef_, plain[-1].coef_, rtol=1e-9)
    assert_allclose(predictions, plain.predict(X), rtol=1e-9)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32])
def test_sparse_columns_stay_sparse(Estimator, data, dtype):
    X, y = data
    columns = scipy.sparse.csr_array((X > 0).astype(dtype))
    frame = pd.DataFrame(columns.toarray(), columns=NAMES).astype(pd.SparseDtype(dtype, dtype(0)))
    model, plain = Estimator().fit(frame, y), Estimator().fit(columns.astype(float), y)
    assert model.feature_names_in_.tolist() == NAMES
    assert_allclose(model.coef_, plain.coef_, rtol=1e-3, atol=1e-5)
    assert_allclose(model.predict(frame), plain.predict(columns), rtol=1e-3, atol=1e-5)


def test_a_table_of_numbers_and_words_through_a_column_transformer():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(50, 20, 120), "town": rng.choice(["A", "B"], 120)})
    price = 3 * table["size"] + 40 * (table["town"] == "A")
    columns = make_column_transformer(
        (StandardScaler(), ["size"]), (OneHotEncoder(sparse_output=False), ["town"])
    ).set_output(transform="pandas")
    model = make_pipeline(columns, TorchLinearRegressor()).fit(table, price)
    assert model.score(table, price) > 0.999
    names = model[-1].feature_names_in_.tolist()
    assert names == ["standardscaler__size", "onehotencoder__town_A", "onehotencoder__town_B"]
