"""scikit-learn's callbacks: told of every pass, and obeyed when they want to stop."""

import contextlib
import io
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from global_settings import settings_of_a_thread
from numpy.testing import assert_allclose, assert_array_equal
from recorders import Propagated, Recorder
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV

sklearn_callback = pytest.importorskip(
    "sklearn.callback", reason="scikit-learn has callbacks from version 1.9 on"
)

OPTIMIZERS = {
    "auto": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "automatic adam": {"optimizer": "adam"},
}
SCORING = {"TorchLinearRegressor": "r2", "TorchSoftmaxClassifier": "accuracy"}
each_optimizer = pytest.mark.parametrize("way", OPTIMIZERS)


def scores_of(Estimator):
    return sklearn_callback.ScoringMonitor(scoring=SCORING[Estimator.__name__])


@each_optimizer
def test_callbacks_are_told_of_the_fit_and_of_each_pass(Estimator, data, way):
    recorder = Recorder()
    model = Estimator(**OPTIMIZERS[way], max_iter=4, tol=None).set_callbacks(recorder).fit(*data)
    passes = ["begin pass", "end pass"] * model.n_iter_
    assert recorder.events == ["setup", "begin fit", *passes, "end fit", "teardown"]
    assert recorder.begun[1:] == [("pass", i) for i in range(model.n_iter_)]
    assert_array_equal(recorder.last.coef_, model.coef_)
    assert recorder.last.learning_rate_ == model.learning_rate_


@each_optimizer
def test_a_callback_sees_the_model_that_a_fit_of_so_many_passes_leaves(Estimator, data, way):
    X, y = data
    recorder = Recorder()
    model = Estimator(**OPTIMIZERS[way], max_iter=4, tol=None, random_state=0)
    clone(model).set_callbacks(recorder).fit(X, y, X_val=X, y_val=y)
    for n_iter, seen in enumerate(recorder.models, start=1):
        stopped = clone(model).set_params(max_iter=n_iter).fit(X, y, X_val=X, y_val=y)
        assert seen.n_iter_ == seen.best_iter_ == n_iter
        assert_array_equal(seen.loss_curve_, stopped.loss_curve_)
        assert_array_equal(seen.validation_loss_curve_, stopped.validation_loss_curve_)
        assert_array_equal(seen.coef_, stopped.coef_)
        assert_array_equal(seen.intercept_, stopped.intercept_)
        assert_array_equal(seen.predict(X), stopped.predict(X))


class Looking(Recorder):
    """Writes down in which settings it is told."""

    def __init__(self):
        super().__init__()
        self.settings = []

    def on_fit_task_begin(self, estimator, context):
        super().on_fit_task_begin(estimator, context)
        self.settings.append(settings_of_a_thread())

    def on_fit_task_end(self, estimator, context, **about):
        super().on_fit_task_end(estimator, context, **about)
        self.settings.append(settings_of_a_thread())


@each_optimizer
@pytest.mark.parametrize("kind", ["alone", "search", "float32"])
def test_callbacks_run_outside_of_inference_mode(
    Estimator, make_data, settings_of_a_user, way, kind
):
    X, y = make_data(dtype=np.float32 if kind == "float32" else np.float64)
    model, before = Estimator(**OPTIMIZERS[way], max_iter=3, tol=None), settings_of_a_thread()
    looking = Looking()
    if kind == "search":
        model = BatchedGridSearchCV(model.set_callbacks(looking), {"alpha": [0.1, 1.0]}, cv=2)
        model.fit(X, y)
    else:
        model.set_callbacks(looking).fit(X, y)
    assert "end pass" in looking.events
    for name in ("inference mode", "gradients"):
        assert [found[name] for found in looking.settings if found[name] != before[name]] == []
    assert settings_of_a_thread() == before


@each_optimizer
def test_the_training_goes_on_in_its_own_settings(Estimator, data, settings_of_a_user, way):
    class Terminal(io.StringIO):
        def write(self, text):
            settings.append(settings_of_a_thread())

    model, found = Estimator(**OPTIMIZERS[way], max_iter=3, tol=None, verbose=1), []
    for _ in range(2):  # without callbacks, and with them
        settings = []
        with contextlib.redirect_stdout(Terminal()):
            model.fit(*data)
        found.append(settings)
        model.set_callbacks(Recorder())
    assert found[0] == found[1]
    assert found[0][0] != settings_of_a_thread()


@each_optimizer
def test_the_settings_do_not_change_what_a_callback_sees(Estimator, data, settings_of_a_user, way):
    X, y = data
    X = X.astype(np.float32)
    recorder, heard = Recorder(), Estimator(**OPTIMIZERS[way], max_iter=3, tol=None)
    heard.set_params(random_state=0).set_callbacks(recorder).fit(X, y)
    for n_iter, seen in enumerate(recorder.models, start=1):
        stopped = clone(heard).set_callbacks().set_params(max_iter=n_iter).fit(X, y)
        assert_array_equal(seen.coef_, stopped.coef_)
        assert_array_equal(seen.intercept_, stopped.intercept_)


def test_a_callback_may_fit_and_predict(Estimator, data, settings_of_a_user):
    wanted, found = Estimator(max_iter=3).fit(*data), []

    class Fitting(Recorder):
        def on_fit_task_end(self, estimator, context, **about):
            super().on_fit_task_end(estimator, context, **about)
            found.append(Estimator(max_iter=3).fit(*data))
            found[-1].predict(torch.tensor(data[0]))

    sgd = {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 3, "tol": None}
    plain = Estimator(**sgd, random_state=0).fit(*data)
    heard = Estimator(**sgd, random_state=0).set_callbacks(Fitting()).fit(*data)
    assert_array_equal(heard.coef_, plain.coef_)
    assert [model.coef_.tolist() for model in found] == [wanted.coef_.tolist()] * 4


def test_an_error_in_a_callback_leaves_the_settings(Estimator, data, settings_of_a_user):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context, **about):
            np.seterr(over="warn")
            raise RuntimeError("no more")

    before = settings_of_a_thread()
    with pytest.raises(RuntimeError, match="no more"):
        Estimator().set_callbacks(Failing()).fit(*data)
    assert settings_of_a_thread() == before


def test_a_callback_sees_nothing_of_the_fit_before(Estimator, data):
    recorder = Recorder()
    model = Estimator(early_stopping=True, max_iter=20, random_state=0, tol=1e-2).fit(*data)
    assert hasattr(model, "validation_loss_curve_")
    model.set_params(early_stopping=False).set_callbacks(recorder).fit(*data)
    for name in ("validation_loss_curve_", "learning_rate_", "optimizer_", "device_"):
        assert not hasattr(recorder.models[0], name)


@each_optimizer
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stop_is_honoured_and_is_no_failure_to_converge(Estimator, data, way, stop_after):
    model = Estimator(**OPTIMIZERS[way], max_iter=50, tol=1e-14, random_state=0)
    model.set_callbacks(Recorder(stop_after)).fit(*data)  # a warning would be an error here
    assert model.n_iter_ == len(model.loss_curve_) <= stop_after
    fixed = clone(model).set_callbacks().set_params(max_iter=stop_after, tol=None).fit(*data)
    assert_array_equal(model.coef_, fixed.coef_)


def test_a_stop_under_early_stopping_returns_the_best_weights_so_far(Estimator, data):
    X, y = data
    sgd = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 2, "random_state": 0}
    recorder = Recorder(stop_after=9)
    model = Estimator(**sgd, early_stopping=True, max_iter=9, n_iter_no_change=9)
    model.set_callbacks(recorder).fit(X, y, X_val=X, y_val=y)
    assert model.n_iter_ == 9
    assert model.best_iter_ == 1 + np.argmin(model.validation_loss_curve_) < 9
    assert_array_equal(recorder.models[-1].coef_, model.coef_)


def test_a_stop_is_honoured_inside_a_pipeline(Estimator, data):
    last = Estimator(tol=None).set_callbacks(Recorder(stop_after=2))
    assert make_pipeline(StandardScaler(), last).fit(*data)[-1].n_iter_ <= 2
    sgd = Estimator(optimizer="sgd", learning_rate=0.05, tol=None)
    pipeline = make_pipeline(StandardScaler(), sgd).set_callbacks(Propagated(stop_after=2))
    assert pipeline.fit(*data)[-1].n_iter_ == 2


def test_a_stop_is_honoured_inside_a_search(Estimator, data):
    recorder = Propagated(stop_after=3)
    sgd = Estimator(optimizer="sgd", tol=None, random_state=0)
    search = GridSearchCV(sgd, {"learning_rate": [0.01, 0.1]}, cv=3).set_callbacks(recorder)
    search.fit(*data)
    assert search.best_estimator_.n_iter_ == 3
    assert recorder.events.count("end pass") == 3 * (2 * 3 + 1)


def test_a_callback_gets_the_data_as_they_were_passed(Estimator, data):
    X, y = data
    frame, weight = pd.DataFrame(X, columns=list("abcd")), np.arange(1.0, len(X) + 1)
    recorder = Recorder()
    Estimator().set_callbacks(recorder).fit(frame, y, weight)
    assert recorder.X is frame
    assert recorder.y is y
    assert recorder.metadata["sample_weight"] is weight
    recorder.models[-1].predict(recorder.X)  # names of columns and all


@pytest.mark.parametrize("given", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_scoring_monitor_scores_every_pass(Estimator, data, given):
    X, y = data
    sgd = {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 5, "tol": None}
    monitor = scores_of(Estimator)
    weight = np.arange(1.0, len(X) + 1)
    model = Estimator(**sgd, random_state=0).set_callbacks(monitor)
    model.fit(given(X), given(y), given(weight))
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "pass"]
    for n_iter, row in enumerate(rows, start=1):
        stopped = Estimator(**{**sgd, "max_iter": n_iter}, random_state=0).fit(X, y, weight)
        assert_allclose(row[SCORING[Estimator.__name__]], stopped.score(X, y, weight), rtol=1e-12)
    assert len(rows) == 5


def test_a_scoring_monitor_in_a_search(Estimator, data):
    monitor = scores_of(Estimator)
    model = Estimator(optimizer="sgd", max_iter=4, tol=None).set_callbacks(monitor)
    search = GridSearchCV(model, {"learning_rate": [0.01, 0.1]}, cv=2)
    search.fit(*data)
    frame = monitor.get_logs().data_as_pandas
    assert len(frame[frame.task_name == "pass"]) == 4 * (2 * 2 + 1)


@pytest.mark.slow
def test_a_progress_bar_ends_full(Estimator, data):
    program = f"""
import numpy as np
from sklearn.callback import ProgressBar
from sklearn.model_selection import GridSearchCV
from skorchless import {Estimator.__name__}
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
model = {Estimator.__name__}(optimizer="sgd", max_iter=3, tol=None)
model.set_callbacks(ProgressBar()).fit(X, X[:, 0] > 0)
search = GridSearchCV(model.set_callbacks(), {{"learning_rate": [0.1]}}, cv=2)
search.set_callbacks(ProgressBar()).fit(X, X[:, 0] > 0)
"""
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert f"{Estimator.__name__} - fit" in shown.stdout
    lines = [line for line in shown.stdout.splitlines() if Estimator.__name__ in line]
    assert len(lines) == 4  # one fit; two folds and the fit of the best
    assert all("100%" in line for line in lines)
    assert shown.stderr == ""


def test_an_error_of_a_callback_leaves_the_estimator_as_it_was(Estimator, data):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no more")

    failing = Failing()
    model = Estimator(optimizer="sgd", max_iter=3, tol=None, random_state=0).fit(*data)
    before = dict(vars(model))
    model.set_callbacks(failing)
    with pytest.raises(RuntimeError, match="no more"):
        model.fit(*data)
    assert failing.events[-1] == "teardown"
    after = {name: value for name, value in vars(model).items() if name != "_skl_callbacks"}
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_an_error_of_the_fit_still_ends_the_callbacks(Estimator, data):
    X, y = data
    recorder = Recorder()
    model = Estimator(alpha=1.0, optimizer="sgd", learning_rate=1e300).set_callbacks(recorder)
    with pytest.raises(ValueError, match="became infinite or NaN"):
        model.fit(X, y)
    assert recorder.events[-1] == "teardown"
    assert not [name for name in vars(model) if "callback_fit" in name or "teardown" in name]
    calm = Recorder()
    with pytest.raises(ValueError, match="max_iter"):
        Estimator(max_iter="many").set_callbacks(calm).fit(X, y)
    assert calm.events == []


def test_a_callback_may_use_torch_as_it_likes(Estimator, data):
    class Learner(Recorder):
        def on_fit_task_end(self, estimator, context):
            weights = torch.ones(3, requires_grad=True)
            weights.square().sum().backward()
            self.gradient = weights.grad

    learner = Learner()
    Estimator(max_iter=2, tol=None).set_callbacks(learner).fit(*data)
    assert learner.gradient.tolist() == [2.0, 2.0, 2.0]


def test_ctrl_c_in_a_callback_keeps_the_passes_made(Estimator, data):
    class Impatient(Recorder):
        def on_fit_task_end(self, estimator, context):
            if context.task_id == 2:
                raise KeyboardInterrupt

    sgd = Estimator(optimizer="sgd", tol=None, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        sgd.set_callbacks(Impatient()).fit(*data)
    fixed = clone(sgd).set_callbacks().set_params(max_iter=3).fit(*data)
    assert_array_equal(sgd.coef_, fixed.coef_)


def test_callbacks_belong_to_fit_and_not_to_partial_fit(Estimator, data):
    X, y = data
    classes = {"classes": np.unique(y)} if "Softmax" in Estimator.__name__ else {}
    recorder = Recorder()
    Estimator(learning_rate=0.1).set_callbacks(recorder).partial_fit(X, y, **classes)
    assert recorder.events == []


def test_what_callbacks_hold_stays_out_of_the_way(Estimator, data):
    watched = Estimator().set_callbacks(scores_of(Estimator)).fit(*data)
    plain = Estimator().fit(*data)
    assert vars(watched).keys() - vars(plain).keys() == {"_skl_callbacks"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = pickle.loads(pickle.dumps(watched))
    assert_array_equal(restored.coef_, plain.coef_)
