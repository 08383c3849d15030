"""scikit-learn's callbacks in a search: told of each candidate while it trains, and obeyed."""

from collections import Counter

import numpy as np
import pytest
from recorders import Propagated, Recorder
from searches import assert_same
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

sklearn_callback = pytest.importorskip(
    "sklearn.callback", reason="scikit-learn has callbacks from version 1.9 on"
)

RATES = {"learning_rate": [0.01, 0.1]}


def both(estimator, recorder, data, grid=RATES, **options):
    """Ours and GridSearchCV, each with a recorder of its own."""
    searches = []
    for Search in (BatchedGridSearchCV, GridSearchCV):
        heard = recorder()
        searches.append((Search(estimator, grid, cv=3, **options).set_callbacks(heard), heard))
        searches[-1][0].fit(*data)
    return searches


@pytest.mark.parametrize("recorder", [Recorder, Propagated])
def test_callbacks_are_told_of_what_grid_search_tells_them(classes, sgd, recorder):
    (ours, told), (theirs, wanted) = both(sgd, recorder, classes)
    assert Counter(told.events) == Counter(wanted.events)
    assert sorted(told.begun) == sorted(wanted.begun)
    assert_same(ours, theirs, atol=1e-12)


def test_candidates_are_followed_while_they_train(classes, sgd):
    recorder = Propagated()
    BatchedGridSearchCV(sgd, RATES, cv=3, refit=False).set_callbacks(recorder).fit(*classes)
    events = [event for event in recorder.events if event.endswith(("fit", "pass"))]
    # one candidate and split after the other; the first and the last event are the search's
    one = ["begin fit", *["begin pass", "end pass"] * sgd.max_iter, "end fit"]
    assert events == ["begin fit", *one * 6, "end fit"]


@pytest.mark.parametrize("optimizer", ["sgd", "auto"])
def test_a_stop_is_honoured(classes, optimizer):
    rate = RATES if optimizer == "sgd" else {"alpha": [0.01, 0.1]}
    model = TorchSoftmaxClassifier(optimizer=optimizer, tol=1e-9, random_state=0)
    recorder = Propagated(stop_after=3)
    search = BatchedGridSearchCV(model, rate, cv=3).set_callbacks(recorder)
    search.fit(*classes)
    assert recorder.events.count("end pass") == 3 * (2 * 3 + 1)
    assert search.best_estimator_.n_iter_ == 3


class Picky(Recorder):
    """Stops candidates of one learning rate."""

    def on_fit_task_end(self, estimator, context, **about):
        super().on_fit_task_end(estimator, context, **about)
        return context.task_name == "pass" and estimator.learning_rate == 0.1


def test_the_estimators_own_callbacks_stop_a_candidate_and_leave_the_others_alone(classes, sgd):
    model = clone(sgd).set_callbacks(Picky())
    search = BatchedGridSearchCV(model, RATES, cv=3, refit=False).fit(*classes)
    plain = BatchedGridSearchCV(sgd, RATES, cv=3, refit=False).fit(*classes)
    for i, kept in enumerate([sgd.max_iter, 1]):
        for found, wanted in zip(search.loss_curves_[i], plain.loss_curves_[i], strict=True):
            np.testing.assert_allclose(found, wanted[:kept], rtol=1e-12)
    assert search.converged_.all()


def test_the_estimators_own_callbacks_are_told_too(classes, sgd):
    recorder = Recorder()
    pipeline = make_pipeline(StandardScaler(), clone(sgd).set_callbacks(recorder))
    grid = {"torchsoftmaxclassifier__learning_rate": [0.1, 0.2]}
    BatchedGridSearchCV(pipeline, grid, cv=3).fit(*classes)
    fits = 2 * 3 + 1
    assert recorder.events.count("setup") == recorder.events.count("teardown") == fits
    assert recorder.events.count("end pass") == fits * sgd.max_iter
    assert recorder.models[0].coef_.shape == (3, 4)


def test_closed_forms_give_way_to_passes(numbers):
    recorder = Propagated()
    search = BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": [0.1, 1.0]}, cv=3)
    search.set_callbacks(recorder).fit(*numbers)
    fits = 2 * 3 + 1
    assert recorder.events.count("begin fit") == 1 + fits
    assert recorder.events.count("end pass") >= fits


def test_a_candidate_that_fails_ends_its_task(numbers):
    model = TorchLinearRegressor(optimizer="sgd", max_iter=300, tol=None)
    search = BatchedGridSearchCV(model, {"learning_rate": [1e6, 0.01]}, cv=2, error_score=0.0)
    recorder = Recorder()
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search.set_callbacks(recorder).fit(*numbers)
    ended = recorder.events.count("end candidate-split-evaluation")
    assert ended == recorder.events.count("begin candidate-split-evaluation") == 4


def test_workers_tell_what_they_hear(classes, sgd):
    logs = []
    for n_jobs in (1, 2):
        monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
        model = clone(sgd).set_callbacks(monitor)
        BatchedGridSearchCV(model, RATES, cv=2, n_jobs=n_jobs).fit(*classes)
        logs.append(monitor.get_logs())
    assert len(logs[0].data) == len(logs[1].data) > 0
