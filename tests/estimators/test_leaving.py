"""Leaving costs nothing: exporters take what the estimators hand out, and predict the same."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

pytestmark = pytest.mark.external

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 4)) * [1.0, 10.0, 0.1, 3.0]
TARGETS = {
    "one target": (TorchLinearRegressor, X @ [1.0, 0.2, -3.0, 0.5] + 1),
    "a column": (TorchLinearRegressor, X[:, :1] - X[:, 1:2]),
    "two targets": (TorchLinearRegressor, X @ rng.normal(size=(4, 2)) - 2),
    "two classes": (TorchSoftmaxClassifier, X[:, 0] + 0.3 * rng.normal(size=120) > 0),
    "two numbers": (TorchSoftmaxClassifier, np.where(X[:, 0] + rng.normal(size=120) > 0, 7, 3)),
    "three words": (
        TorchSoftmaxClassifier,
        np.array(["a", "b", "c"])[(X @ rng.normal(size=(4, 3))).argmax(axis=1)],
    ),
}
each_target = pytest.mark.parametrize("target", TARGETS)


def fitted(target, dtype=np.float64):
    Estimator, y = TARGETS[target]
    y = y.astype(dtype) if Estimator is TorchLinearRegressor else y
    return Estimator().fit(X.astype(dtype), y)


@pytest.fixture
def skops():
    import skops.io

    return skops.io


def in_onnx(model, dtype):
    """A session of ONNX Runtime that predicts as `model`."""
    import onnxruntime
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = FloatTensorType if dtype == np.float32 else DoubleTensorType
    names = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else {}
    converted = skl2onnx.to_onnx(model, initial_types=[("X", kind([None, 4]))], options=names)
    return onnxruntime.InferenceSession(
        converted.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@each_target
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_through_scikit_learn_to_onnx(target, dtype):
    model, rows = fitted(target, dtype), X.astype(dtype)
    outputs = in_onnx(model.to_sklearn(), dtype).run(None, {"X": rows})
    predictions = model.predict(rows)
    if isinstance(model, TorchSoftmaxClassifier):
        assert_array_equal(outputs[0], predictions)
        assert_allclose(outputs[1], model.predict_proba(rows), rtol=1e-4, atol=1e-6)
    else:
        tolerance = 1e-5 if dtype == np.float32 else 1e-10
        assert_allclose(
            outputs[0].reshape(predictions.shape), predictions, rtol=tolerance, atol=1e-5
        )


def test_a_pipeline_to_onnx():
    import onnxruntime
    import skl2onnx

    Estimator, y = TARGETS["three words"]
    pipeline = make_pipeline(StandardScaler(), Estimator()).fit(X, y)
    exported = make_pipeline(pipeline[0], pipeline[-1].to_sklearn())
    rows = X.astype(np.float32)
    options = {id(exported[-1]): {"zipmap": False}}
    converted = skl2onnx.to_onnx(exported, rows[:1], options=options).SerializeToString()
    session = onnxruntime.InferenceSession(converted, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(None, {"X": rows})
    assert_array_equal(labels, pipeline.predict(X))
    assert_allclose(probabilities, pipeline.predict_proba(X), atol=1e-5)


@each_target
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_through_torch_export(target, dtype, tmp_path):
    model, rows = fitted(target, dtype), torch.tensor(X.astype(dtype))
    n_rows = torch.export.Dim("n_rows", min=2)
    program = torch.export.export(
        model.to_torch(), (rows[:7],), dynamic_shapes=({0: n_rows},), strict=False
    )
    torch.export.save(program, tmp_path / "model.pt2")
    output = torch.export.load(tmp_path / "model.pt2").module()(rows).detach()
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-12}
    )
    if isinstance(model, TorchSoftmaxClassifier):
        assert_allclose(output.softmax(dim=1), model.predict_proba(rows), **tolerance)
        assert_array_equal(model.classes_[output.argmax(dim=1)], model.predict(rows.numpy()))
    else:
        assert_allclose(output, model.predict(rows), **tolerance)


#: What skops has to be told to trust, as the user guide lists it.
TRUSTED = {
    TorchLinearRegressor: ["skorchless.estimators.regressor.TorchLinearRegressor"],
    TorchSoftmaxClassifier: ["skorchless.estimators.classifier.TorchSoftmaxClassifier"],
}
#: And for a model that partial_fit has begun.
TRUSTED_MEMORY = ["skorchless.estimators.memory.Memory"]


@each_target
def test_a_round_trip_through_skops(target, tmp_path, skops):
    model = fitted(target)
    skops.dump(model, tmp_path / "model.skops")
    assert skops.get_untrusted_types(file=tmp_path / "model.skops") == TRUSTED[type(model)]
    restored = skops.load(tmp_path / "model.skops", trusted=TRUSTED[type(model)])
    assert restored.get_params() == model.get_params()
    assert vars(restored).keys() == vars(model).keys()
    assert_array_equal(restored.coef_, model.coef_)
    assert_array_equal(restored.loss_curve_, model.loss_curve_)
    assert_array_equal(restored.predict(X), model.predict(X))


@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_a_search_through_skops(Search, skops):
    Estimator, y = TARGETS["three words"]
    options = {} if Search is BatchedGridSearchCV else {"n_iter": 2}
    search = Search(Estimator(), {"alpha": [0.1, 1.0]}, cv=2, **options).fit(X, y)
    dumped = skops.dumps(search)
    types = skops.get_untrusted_types(data=dumped)
    ours = [name for name in types if name.startswith("skorchless")]
    assert ours == [*TRUSTED[Estimator], f"skorchless.model_selection.search.{Search.__name__}"]
    restored = skops.loads(dumped, trusted=types)
    assert vars(restored).keys() == vars(search).keys()
    assert_array_equal(restored.predict(X), search.predict(X))
    assert_array_equal(restored.loss_curves_[1][1], search.loss_curves_[1][1])


@pytest.mark.parametrize("learning_rate", [0.1, "auto"])
def test_partial_fit_goes_on_after_skops(learning_rate, skops):
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60.0)
    model = TorchLinearRegressor(optimizer="adam", learning_rate=learning_rate, random_state=0)
    dumped = skops.dumps(model.partial_fit(X, y))
    trusted = TRUSTED[TorchLinearRegressor] + TRUSTED_MEMORY
    assert sorted(skops.get_untrusted_types(data=dumped)) == sorted(trusted)
    restored = skops.loads(dumped, trusted=trusted)
    assert_array_equal(restored.partial_fit(X, y).coef_, model.partial_fit(X, y).coef_)
