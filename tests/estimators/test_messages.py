"""What goes wrong with data and training, and what the user is told."""

import contextlib
import io
import re
import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

containers = pytest.mark.parametrize(
    "container", [np.asarray, torch.as_tensor], ids=["numpy", "torch"]
)
not_finite = pytest.mark.parametrize(
    ("number", "words"),
    [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")],
    ids=["NaN", "infinity", "minus infinity"],
)


def spoiled(array, number):
    array = np.array(array, dtype=float)
    array.flat[5] = number
    return array


@containers
@not_finite
def test_numbers_in_x_must_be_finite(Estimator, data, container, number, words):
    X, y = data
    bad = container(spoiled(X, number))
    with pytest.raises(ValueError, match=f"Input X contains {words}"):
        Estimator().fit(bad, y)
    with pytest.raises(ValueError, match=f"contains {words}"):
        Estimator().fit(X, y).predict(bad)


@containers
@not_finite
def test_targets_must_be_finite(Estimator, data, container, number, words):
    X, y = data
    with pytest.raises(ValueError, match=f"Input y contains {words}"):
        Estimator().fit(container(X), container(spoiled(y, number)))


@containers
@not_finite
def test_weights_must_be_finite(Estimator, data, container, number, words):
    X, y = data
    weight = container(spoiled(np.ones(len(X)), number))
    with pytest.raises(ValueError, match=f"Input sample_weight contains {words}"):
        Estimator().fit(container(X), y, weight)


@containers
@not_finite
def test_validation_data_must_be_finite(Estimator, data, container, number, words):
    X, y = data
    with pytest.raises(ValueError, match=f"Input X(_val)? contains {words}"):
        Estimator().fit(X, y, X_val=container(spoiled(X, number)), y_val=y)


@containers
def test_a_column_too_large_for_float32_is_refused_in_float32(Estimator, data, container):
    X, y = data
    with np.errstate(over="ignore"):
        too_large = np.abs(X * 1e300).astype(np.float32)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        Estimator().fit(container(too_large), y)


@containers
def test_complex_numbers_are_refused(Estimator, data, container):
    X, y = data
    with pytest.raises(ValueError, match="Complex data not supported"):
        Estimator().fit(container(X + 1j), y)


@containers
def test_complex_targets_are_refused(data, container):
    X, y = data
    with pytest.raises(ValueError, match="Complex data not supported"):
        TorchLinearRegressor().fit(X, container(y + 1j))


@containers
@pytest.mark.parametrize(("shape", "what"), [((0, 4), "sample"), ((90, 0), "feature")])
def test_empty_data_is_refused(Estimator, data, container, shape, what):
    _, y = data
    words = rf"Found array with 0 {what}\(s\) \(shape=\({shape[0]}, {shape[1]}\)\) while a minimum"
    with pytest.raises(ValueError, match=words):
        Estimator().fit(container(np.empty(shape)), y[: shape[0]])


@containers
@pytest.mark.parametrize("shape", [(90,), (90, 2, 2)])
def test_x_has_two_dimensions(Estimator, data, container, shape):
    _, y = data
    with pytest.raises(ValueError, match=r"Expected 2D array|with dim 3|got 3D array"):
        Estimator().fit(container(np.ones(shape)), y)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
def test_sparse_tensors_are_refused(Estimator, data, layout):
    X, y = data
    with pytest.raises(TypeError, match=r"A sparse tensor was passed for X, .*SciPy sparse matrix"):
        Estimator().fit(torch.tensor(X).to_sparse(layout=layout), y)


def test_text_is_refused(Estimator, data):
    _, y = data
    with pytest.raises(ValueError, match="could not convert string to float"):
        Estimator().fit(np.full((len(y), 2), "text", dtype=object), y)


@containers
def test_x_and_y_have_as_many_rows(Estimator, data, container):
    X, y = data
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[90, 89\]"):
        Estimator().fit(container(X), container(y[:-1]))


def test_y_is_needed(Estimator, data):
    with pytest.raises(ValueError, match=f"{Estimator.__name__} .*requires y to be passed"):
        Estimator().fit(data[0], None)


@containers
def test_the_wrong_width_at_predict_names_both(Estimator, data, container):
    X, y = data
    model = Estimator().fit(X, y)
    words = f"X has 3 features, but {Estimator.__name__} is expecting 4 features as input"
    with pytest.raises(ValueError, match=words):
        model.predict(container(X[:, :3]))
    with pytest.raises(ValueError, match=words):
        model.partial_fit(container(X[:, :3]), y)
    with pytest.raises(ValueError, match=words):
        Estimator().fit(X, y, X_val=container(X[:, :3]), y_val=y)


def test_columns_in_another_order_are_refused(Estimator, data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = Estimator().fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("dcba")])


def test_predicting_needs_a_fit(Estimator, data):
    model = Estimator()
    for call in (lambda: model.predict(data[0]), model.to_sklearn, model.to_torch):
        with pytest.raises(
            NotFittedError, match=f"This {Estimator.__name__} instance is not fitted"
        ):
            call()


@containers
def test_unknown_labels_are_named(container):
    X, y = np.eye(4), np.array([0, 1, 2, 1])
    unknown = container(np.array([0, 7, 2, 8]))
    with pytest.raises(ValueError, match=r"y_val contains previously unseen labels: \[7, 8\]"):
        TorchSoftmaxClassifier().fit(X, y, X_val=X, y_val=unknown)
    model = TorchSoftmaxClassifier().partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"y contains previously unseen labels: \[7, 8\]"):
        model.partial_fit(X, unknown)
    with pytest.raises(ValueError, match=r"y contains previously unseen labels: \[7, 8\]"):
        TorchSoftmaxClassifier().partial_fit(X, unknown, classes=[0, 1, 2])


def test_unknown_labels_may_be_strings():
    X, y = np.eye(4), np.array(["a", "b", "a", "b"])
    with pytest.raises(ValueError, match=r"y_val contains previously unseen labels: \['c'\]"):
        TorchSoftmaxClassifier().fit(X, y, X_val=X, y_val=["a", "c", "a", "b"])


@pytest.mark.parametrize("weight", [None, [1, 1, 0, 0]], ids=["in y", "of weight above zero"])
def test_one_class_is_not_enough(weight):
    y = ["a"] * 4 if weight is None else ["a", "a", "b", "b"]
    with pytest.raises(ValueError, match=r"at least 2 classes .* only one class: .*'a'"):
        TorchSoftmaxClassifier().fit(np.eye(4), y, weight)


def test_numbers_are_no_classes():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        TorchSoftmaxClassifier().fit(np.eye(4), [0.5, 1.5, 2.5, 1.5])


@pytest.mark.parametrize("labels", [["a", None, "b"], [1, None, 2]], ids=["strings", "numbers"])
def test_a_missing_label_is_named_with_the_cure(labels):
    words = "Input y contains None. Leave out the rows whose label is missing"
    with pytest.raises(ValueError, match=words):
        TorchSoftmaxClassifier().fit(np.eye(3), labels)
    with pytest.raises(ValueError, match=words):
        TorchSoftmaxClassifier().partial_fit(np.eye(3), labels, classes=["a", "b"])


def test_a_column_of_labels_is_flattened_with_a_warning():
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        TorchSoftmaxClassifier().fit(np.eye(4), [[0], [1], [0], [1]])


@containers
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.r_[-1.0, np.ones(89)], "Negative values in data passed to `sample_weight`"),
        (np.zeros(90), "at least one non-zero"),
        (np.ones(89), r"sample_weight.shape == \(89,\), expected \(90,\)"),
        (np.ones((90, 1)), "Sample weights must be 1D array or scalar"),
    ],
    ids=["negative", "all zero", "of another length", "of two dimensions"],
)
def test_weights_that_make_no_sense(Estimator, data, container, weight, words):
    X, y = data
    with pytest.raises(ValueError, match=words):
        Estimator().fit(container(X), y, container(weight))


@pytest.mark.parametrize(("weight", "words"), [(0.0, "non-zero"), (-1.0, "[Nn]egative")])
def test_a_single_weight_for_all_rows_is_above_zero(Estimator, data, weight, words):
    with pytest.raises(ValueError, match=words):
        Estimator().fit(*data, weight)


def test_validation_weights_that_make_no_sense_name_themselves(Estimator, data):
    X, y = data
    with pytest.raises(ValueError, match=r"sample_weight_val.shape == \(89,\), expected \(90,\)"):
        Estimator().fit(X, y, X_val=X, y_val=y, sample_weight_val=np.ones(89))


def test_a_start_of_the_wrong_shape_names_both_shapes(Estimator, data):
    X, y = data
    needed = "(4,)" if Estimator is TorchLinearRegressor else "(3, 4)"
    words = re.escape(f"coef_init has shape (5,); this data needs {needed}")
    with pytest.raises(ValueError, match=words):
        Estimator().fit(X, y, coef_init=np.zeros(5))
    needed = "()" if Estimator is TorchLinearRegressor else "(3,)"
    words = re.escape(f"intercept_init has shape (2,); this data needs {needed}")
    with pytest.raises(ValueError, match=words):
        Estimator().fit(X, y, intercept_init=np.zeros(2))


def test_a_start_must_be_finite(Estimator, data):
    X, y = data
    start = np.full_like(Estimator().fit(X, y).coef_, np.nan)
    with pytest.raises(ValueError, match="coef_init must be finite"):
        Estimator().fit(X, y, coef_init=start)


def test_a_warm_start_needs_the_same_number_of_columns(Estimator, data):
    X, y = data
    model = Estimator(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"coef_ has shape .*4\S*; this data needs .*3"):
        model.fit(X[:, :3], y)


def test_a_warm_start_needs_the_same_classes():
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    model = TorchSoftmaxClassifier(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"cannot go on from classes \[0 1\] with classes \[2 3\]"):
        model.fit(X, y + 2)


def test_validation_needs_x_and_y(Estimator, data):
    X, y = data
    with pytest.raises(ValueError, match="X_val was passed without y_val"):
        Estimator().fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="y_val was passed without X_val"):
        Estimator().fit(X, y, y_val=y)


def test_a_split_that_cannot_be_made_tells_the_cures(Estimator, data):
    X, y = data
    few = np.arange(90)[:1] if Estimator is TorchLinearRegressor else [np.argmin(y), np.argmax(y)]
    with pytest.raises(
        ValueError,
        match=r"validation_fraction=0.1 of \d rows: .*X_val and y_val.*early_stopping=False",
    ):
        Estimator(early_stopping=True).fit(X[few], y[few])


def test_validation_targets_have_the_width_of_y():
    X, Y = np.eye(4), np.ones((4, 2))
    with pytest.raises(ValueError, match="y_val has 1 outputs, but y had 2"):
        TorchLinearRegressor().fit(X, Y, X_val=X, y_val=Y[:, 0])
    with pytest.raises(ValueError, match="y has 1 outputs, but y had 2"):
        TorchLinearRegressor().partial_fit(X, Y).partial_fit(X, Y[:, 0])


def test_an_error_leaves_the_estimator_as_it_was(Estimator, data):
    X, y = data
    model = Estimator()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(spoiled(X, np.nan), y)
    assert vars(model) == vars(Estimator())
    model.fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X[:, :3], y, X_val=spoiled(X[:, :3], np.nan), y_val=y)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


# The loss becomes infinite or NaN.

DIVERGING = {"optimizer": "sgd", "learning_rate": 1e30, "max_iter": 50, "tol": None}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divergence_names_epoch_rate_and_cures(Estimator, make_data, dtype):
    X, y = make_data(dtype=dtype)
    words = (
        r"infinite or NaN in epoch \d+: it diverges with a learning rate of 1e\+30.*"
        r"smaller learning_rate or learning_rate='auto'.*StandardScaler"
    )
    model = Estimator(alpha=1.0, **DIVERGING)
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)
    assert vars(model) == vars(clone(model))


def test_divergence_keeps_the_fit_of_a_warm_started_model(Estimator, data):
    X, y = data
    model = Estimator(warm_start=True).fit(X, y)
    before = dict(vars(model))
    predictions = model.predict(X)
    model.set_params(alpha=1.0, **DIVERGING)
    with pytest.raises(ValueError, match="StandardScaler"):
        model.fit(X, y)
    for name in ("coef_", "intercept_", "n_iter_", "loss_curve_", "optimizer_", "learning_rate_"):
        assert getattr(model, name) is before[name]
    assert_array_equal(model.predict(X), predictions)


def test_divergence_in_partial_fit_counts_all_epochs(Estimator, data):
    X, y = data
    more = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    model = Estimator(optimizer="sgd", learning_rate=1e-3, batch_size=16)
    model.partial_fit(X, y, **more).partial_fit(X, y)
    coef = model.coef_
    with pytest.raises(ValueError, match=r"infinite or NaN in epoch 3: "):
        model.partial_fit(X * 1e200, y)
    assert model.coef_ is coef


def test_a_loss_that_blows_up_but_stays_finite_never_passes_for_converged():
    X = np.random.default_rng(0).normal(size=(90, 4))
    model = TorchLinearRegressor(optimizer="sgd", learning_rate=0.1, batch_size=None)
    with pytest.raises((ValueError, ConvergenceWarning), match="learning_rate"):
        model.fit(100 * X, X.sum(axis=1))


# Passes run out.


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_running_out_of_passes_warns_with_the_figures(Estimator, data, optimizer):
    X, y = data
    # Squared error with an automatic optimizer takes one iteration.
    loss = {"loss": "huber", "delta": 0.1} if Estimator is TorchLinearRegressor else {}
    model = Estimator(optimizer=optimizer, max_iter=1, tol=1e-9, **loss)
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, y)
    [warning] = caught
    message = str(warning.message)
    for figure in (Estimator.__name__, "max_iter=1", "tol=1e-09", f"{model.loss_curve_[-1]:.6g}"):
        assert figure in message
    assert warning.filename == __file__
    assert model.n_iter_ == 1


def test_without_a_tolerance_nobody_warns(Estimator, data):
    model = Estimator(optimizer="sgd", learning_rate=1e-4, max_iter=2, tol=None).fit(*data)
    assert model.n_iter_ == 2


@pytest.mark.parametrize("max_iter", [1, 1000])
def test_a_search_that_finds_nothing_lower_says_so(Estimator, data, monkeypatch, max_iter):
    monkeypatch.setattr("skorchless.optimizers.line_search.MAX_REJECTED", 0)
    words = r"stopped in iteration 1, before tol=1e-09 was reached: no step lowers"
    with pytest.warns(ConvergenceWarning, match=words) as caught:
        Estimator(alpha=0.01, tol=1e-9, max_iter=max_iter).fit(*data)
    assert "max_iter" not in str(caught[0].message)


# Ctrl-C.


class Interrupting(io.StringIO):
    """A terminal at which the user loses patience after some lines."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def write(self, text):
        super().write(text)
        if self.getvalue().count("\n") == self.lines:
            raise KeyboardInterrupt
        return len(text)


PATIENT = {"optimizer": "sgd", "learning_rate": 0.01, "random_state": 0, "tol": None}


def test_ctrl_c_propagates_and_the_last_accepted_pass_is_kept(Estimator, data):
    X, y = data
    model = Estimator(max_iter=100, verbose=1, batch_size=16, **PATIENT)
    with contextlib.redirect_stdout(Interrupting(lines=3)), pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    three = Estimator(max_iter=3, batch_size=16, **PATIENT).fit(X, y)
    assert model.n_iter_ == model.best_iter_ == 3
    assert_array_equal(model.coef_, three.coef_)
    assert_array_equal(model.loss_curve_, three.loss_curve_)
    assert_array_equal(model.predict(X), three.predict(X))


def test_ctrl_c_keeps_the_best_weights_of_early_stopping(Estimator, data):
    X, y = data
    model = Estimator(max_iter=100, verbose=1, early_stopping=True, **PATIENT)
    with contextlib.redirect_stdout(Interrupting(lines=3)), pytest.raises(KeyboardInterrupt):
        model.fit(X, y, X_val=X, y_val=y)
    assert model.best_iter_ == 1 + np.argmin(model.validation_loss_curve_)
    assert len(model.validation_loss_curve_) == 3


def test_ctrl_c_before_the_first_pass_leaves_the_estimator_as_it_was(Estimator, data, monkeypatch):
    X, y = data

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "baddbmm", interrupt)
    model = Estimator(**PATIENT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert vars(model) == vars(Estimator(**PATIENT))


class Watched(io.StringIO):
    """A terminal at which somebody else presses Ctrl-C once the first pass is told."""

    def __init__(self):
        super().__init__()
        self.begun, self.pressed = threading.Event(), threading.Event()
        self.lines_since = 0
        self.user = threading.Thread(target=self._press, daemon=True)
        self.user.start()

    def _press(self):
        self.begun.wait()
        signal.raise_signal(signal.SIGINT)
        self.pressed.set()

    def write(self, text):
        self.lines_since += self.pressed.is_set()
        assert self.lines_since < 1000, "nobody listens to Ctrl-C"
        self.begun.set()
        return len(text)


def test_ctrl_c_from_the_keyboard(Estimator, data):
    model = Estimator(max_iter=10**8, verbose=1, **PATIENT)
    terminal = Watched()
    with contextlib.redirect_stdout(terminal), pytest.raises(KeyboardInterrupt):
        model.fit(*data)
    terminal.user.join()
    assert 1 <= model.n_iter_ < 10**8
    assert np.isfinite(model.predict(data[0])).all()


def test_ctrl_c_stops_a_search(Estimator, data):
    X, y = data
    search = GridSearchCV(Estimator(max_iter=5, verbose=1, **PATIENT), {"alpha": [0.1, 1.0]}, cv=2)
    terminal = Interrupting(lines=7)
    with contextlib.redirect_stdout(terminal), pytest.raises(KeyboardInterrupt):
        search.fit(X, y)
    assert terminal.getvalue().count("\n") == 7


@pytest.mark.parametrize(
    "parameters",
    [{}, {"optimizer": "sgd"}, {"optimizer": "adam", "learning_rate": 0.01}],
    ids=["auto", "sgd with an automatic rate", "adam"],
)
@pytest.mark.parametrize("calls_before", [0, 1])
def test_ctrl_c_amid_the_pass_of_partial_fit_changes_nothing(
    Estimator, data, monkeypatch, parameters, calls_before
):
    X, y = data
    more = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    model, other = (Estimator(batch_size=16, random_state=0, **parameters) for _ in range(2))
    for _ in range(calls_before):
        model.partial_fit(X, y, **more)
        other.partial_fit(X, y, **more)
    before, steps = dict(vars(model)), []

    def prox_(self, weights, metric):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("skorchless.penalties.ElasticNet.prox_", prox_)
        model.partial_fit(X, y, **more)
    assert len(steps) == 3
    assert vars(model) == before
    assert_array_equal(model.partial_fit(X, y, **more).coef_, other.partial_fit(X, y, **more).coef_)


def test_ctrl_c_in_partial_fit_changes_nothing(Estimator, data):
    X, y = data
    more = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    model = Estimator(**PATIENT).partial_fit(X, y, **more)
    before = dict(vars(model))
    model.verbose = 1
    with contextlib.redirect_stdout(Interrupting(lines=1)), pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y)
    assert model.coef_ is before["coef_"]
    assert model.n_iter_ == 1
