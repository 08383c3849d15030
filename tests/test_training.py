"""The loop: what it accepts, when it stops, and that a stack of models is as good as each alone."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import candidate, draw_data, make, n_outputs
from torch import float64

from skorchless.data import make_loader
from skorchless.estimators.problem import FitProblem
from skorchless.estimators.solve import fit_stack
from skorchless.losses import LOSSES
from skorchless.objective import LinearObjective
from skorchless.optimizers import OPTIMIZERS, SCHEDULES, Step
from skorchless.optimizers.learning_rates import ADAPTIVE_DIVISOR, ADAPTIVE_FLOOR
from skorchless.penalties import ElasticNet
from skorchless.training import TrainingConfig, train

each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
each_loss = pytest.mark.parametrize("loss", LOSSES)

# The loop itself, driven by a rule that reads its values off a script.


class Scripted:
    """A rule whose objectives are given, one curve a model; its weights count the passes."""

    full_batch = False
    started = True

    def __init__(self, curves, converges_at=()):
        self.curves = np.array(curves, dtype=float)
        self.converges_at = np.array([*converges_at, *[0] * (len(curves) - len(converges_at))])
        self.passes, self.rates = 0, []

    def set_learning_rate(self, rate):
        self.rates.append(rate.flatten().tolist())

    def step(self, weights, gradient):
        pass

    def on_chunk(self, chunk):
        pass

    def end_epoch(self, weights, value):
        self.passes += 1
        weights.fill_(self.passes)
        converged = self.converges_at == self.passes
        never = np.zeros_like(converged)
        moved = self.moved(~never)
        return Step(weights.clone(), self.curves[:, self.passes - 1], converged, never, moved)

    def moved(self, all_models):
        return all_models

    def select(self, keep):
        self.curves = self.curves[keep.numpy()]
        self.converges_at = self.converges_at[keep.numpy()]


def source_of(y, sets=1):
    """Rows of zeros, so that the loss of a validation is the intercept's."""
    return make_loader(
        torch.zeros(len(y), 1, dtype=float64),
        torch.tensor(y, dtype=float64).view(-1, 1),
        None,
        n_outputs=1,
        fit_intercept=True,
        batch_size=len(y),
        stack_width=1,
        sets=sets,
    )


def run(rule, *, validation=None, observer=None, max_iter=None, rate=1.0, sets=1, **controls):
    models, passes = rule.curves.shape
    zeros = torch.zeros(models, 1, 1, dtype=float64)
    objective = LinearObjective(
        make("squared_error"), ElasticNet(zeros, zeros, torch.zeros(2, dtype=float64)), sets=sets
    )
    return train(
        source_of([0.0] * sets, sets),
        objective,
        rule,
        torch.zeros(models, 1, 2, dtype=float64),
        TrainingConfig(
            max_iter=max_iter or passes,
            rate=np.full(models, rate),
            **controls,
        ),
        validation=None if validation is None else source_of(validation, sets),
        observer=observer,
    )


def threshold(models=1):
    return np.zeros(models)


def test_passes_are_bounded():
    rule = Scripted([[5.0, 4.0, 3.0, 2.0]])
    (result,), interrupt = run(rule, max_iter=3)
    assert interrupt is None
    assert rule.passes == result.n_iter == result.best_iter == 3
    assert result.loss_curve == [5.0, 4.0, 3.0]
    assert (result.weights == 3.0).all()
    assert not result.converged


def test_a_model_that_says_it_is_done_leaves_the_others_at_work():
    results, _ = run(Scripted([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]], converges_at=[2]))
    assert [result.n_iter for result in results] == [2, 3]
    assert [result.loss_curve for result in results] == [[3.0, 2.0], [6.0, 5.0, 4.0]]
    assert [result.converged for result in results] == [True, False]
    assert [float(result.weights[0, 0]) for result in results] == [2.0, 3.0]


class Rejecting(Scripted):
    """Rejects the second model's trial steps in all odd passes."""

    def moved(self, all_models):
        moved = all_models.copy()
        moved[1:] = self.passes % 2 == 0
        return moved


def test_a_rejected_step_is_an_iteration_of_no_model():
    """A model records the same beside another one, whose steps are accepted, as alone."""
    curves = [[8.0, 7.0, 6.0, 5.0, 4.0, 3.0]] * 2
    (first, second), _ = run(Rejecting(curves), max_iter=3, validation=[0.0], early_stopping=True)
    assert first.loss_curve == [8.0, 7.0, 6.0]
    assert second.loss_curve == [7.0, 5.0, 4.0]
    assert [first.n_iter, second.n_iter] == [3, 3]
    assert [len(first.validation_loss_curve), len(second.validation_loss_curve)] == [3, 3]
    assert float(second.weights[0, 0]) == 2.0  # the validation loss is the square of the passes


def test_a_watcher_sees_the_iterations_of_a_model_and_may_end_it():
    told = []

    class Observer:
        def on_pass_begin(self):
            told.append("begin")

        def on_pass_end(self, result):
            told.append(result.n_iter)
            return result.n_iter == 2

    (result,), _ = run(Rejecting([[4.0, 3.0, 2.0, 1.0]]), max_iter=3, observer=Observer())
    assert told == ["begin", 1, "begin", 2]
    assert result.converged


class Counting(Scripted):
    """Counts the models of the stack in each pass."""

    def end_epoch(self, weights, value):
        self.sizes = [*getattr(self, "sizes", []), len(weights)]
        return super().end_epoch(weights, value)


def test_models_of_several_sets_leave_with_their_peers():
    curves = [[9.0, 8.0, 7.0, 6.0], [9.0, np.inf, 3.0, 2.0]] * 2  # sets of two models each
    rule = Counting(curves, converges_at=[1, 0, 2, 3])
    results, _ = run(rule, sets=2)
    assert rule.sizes == [4, 4]  # the second pass ends the last of both kinds
    assert [result.n_iter for result in results] == [1, 2, 2, 2]
    assert [result.diverged for result in results] == [False, True, False, True]
    rule = Counting(curves[:1] * 4, converges_at=[1, 0, 2, 3])
    results, _ = run(rule, sets=2)
    assert rule.sizes == [4, 4, 2, 2]
    assert [result.n_iter for result in results] == [1, 4, 2, 3]
    assert [len(result.loss_curve) for result in results] == [1, 4, 2, 3]
    assert [float(result.weights[0, 0]) for result in results] == [1.0, 4.0, 2.0, 3.0]
    assert [result.converged for result in results] == [True, False, True, True]


def test_a_model_stops_when_it_improves_no_more():
    curves = [[5.0, 4.0, 4.0, 4.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0]]
    results, _ = run(Scripted(curves), threshold=threshold(2), patience=2)
    assert [result.n_iter for result in results] == [4, 5]
    assert [result.converged for result in results] == [True, False]


@pytest.mark.parametrize(
    ("constant_loss", "diverged_slowly"),
    [(None, [False, False]), (1.0, [True, False]), (20.0, [False] * 2)],
)
def test_a_loss_far_beyond_where_it_began_is_no_plateau(constant_loss, diverged_slowly):
    constant_loss = None if constant_loss is None else np.full(2, constant_loss)
    rule = Scripted([[1.0, 100.0, 100.0], [1.0, 5.0, 5.0]])
    results, _ = run(rule, threshold=threshold(2), patience=2, constant_loss=constant_loss)
    assert all(result.converged for result in results)
    assert [result.diverged_slowly for result in results] == diverged_slowly


def test_the_loop_ends_when_all_are_done():
    rule = Scripted([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]], converges_at=[1, 2])
    run(rule)
    assert rule.passes == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_its_model_at_the_pass_before(value):
    results, _ = run(Scripted([[3.0, 2.0, value, 1.0], [4.0, 3.0, 2.0, 1.0]]))
    lost, other = results
    assert (lost.n_iter, lost.best_iter, lost.loss_curve) == (3, 2, [3.0, 2.0])
    assert lost.diverged
    assert not lost.converged
    assert (lost.weights == 2.0).all()
    assert other.loss_curve == [4.0, 3.0, 2.0, 1.0]
    assert not other.diverged


def test_a_loss_that_never_was_a_number_leaves_no_weights():
    (result,), _ = run(Scripted([[np.nan, 1.0]]))
    assert result.diverged
    assert result.weights is None
    assert result.loss_curve == []


def test_a_watcher_may_see_a_model_that_is_lost_at_once_and_cannot_save_it():
    observer = Observer(stop=lambda result: True)
    (result,), _ = run(Scripted([[np.nan, 1.0]]), observer=observer)
    assert result.diverged
    assert not result.converged
    assert observer.events == ["begin", "end"]


def test_early_stopping_returns_the_weights_that_were_best_on_validation():
    """After pass i the intercept is i, so 3 is best for targets of 3.2."""
    rule = Scripted([[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]])
    (result,), _ = run(
        rule, validation=[3.2], threshold=threshold(), patience=2, early_stopping=True
    )
    assert (result.n_iter, result.best_iter) == (5, 3)
    assert (result.weights == 3.0).all()
    assert result.converged
    assert result.loss_curve == [9.0, 8.0, 7.0, 6.0, 5.0]
    expected = [0.5 * (3.2 - i) ** 2 for i in range(1, 6)]
    assert result.validation_loss_curve == pytest.approx(expected)


def test_a_validation_is_only_watched_unless_it_is_to_stop():
    rule = Scripted([[9.0, 8.0, 7.0, 6.0, 5.0]])
    (result,), _ = run(rule, validation=[1.2], threshold=threshold(), patience=2)
    assert (result.n_iter, result.best_iter) == (5, 5)
    assert (result.weights == 5.0).all()
    assert len(result.validation_loss_curve) == 5


def test_without_patience_the_best_weights_are_still_restored():
    rule = Scripted([[9.0, 8.0, 7.0, 6.0]])
    (result,), _ = run(rule, validation=[2.1], early_stopping=True)
    assert (result.n_iter, result.best_iter) == (4, 2)
    assert (result.weights == 2.0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_of_each_pass_follows_its_schedule(schedule):
    rule = Scripted([[4.0, 3.0, 2.0, 1.0]])
    (result,), _ = run(rule, rate=0.5, schedule=schedule, horizon=9, first_pass=3)
    expected = [0.5 * SCHEDULES[schedule](3 + epoch, 9) for epoch in range(4)]
    assert [rate for (rate,) in rule.rates] == expected
    assert result.rate == expected[-1]


def test_an_adaptive_rate_falls_on_each_plateau_of_its_own_model_and_ends_at_the_floor():
    n_plateaus = 2
    rate = 0.9 * ADAPTIVE_FLOOR * ADAPTIVE_DIVISOR**n_plateaus
    curves = [[2.0] + [1.0] * 9, [10.0 - i for i in range(10)]]
    rule = Scripted(curves)
    results, _ = run(rule, rate=rate, schedule="adaptive", threshold=threshold(2), patience=2)
    assert [result.n_iter for result in results] == [6, 10]
    assert [result.converged for result in results] == [True, False]
    lower = rate / ADAPTIVE_DIVISOR
    assert [rates[0] for rates in rule.rates[:6]] == [rate] * 4 + [lower] * 2
    assert [rates[-1] for rates in rule.rates] == [rate] * 10


class Observer:
    """Writes down what it is told, and stops when it is asked to."""

    def __init__(self, stop=lambda result: False):
        self.stop, self.events, self.seen = stop, [], []

    def on_pass_begin(self):
        self.events.append("begin")

    def on_pass_end(self, result):
        self.events.append("end")
        self.seen.append(copy.deepcopy(result))
        return self.stop(result)


def test_a_watcher_is_told_of_every_pass():
    observer = Observer()
    run(Scripted([[3.0, 2.0]]), validation=[1.0], observer=observer, rate=0.5, first_pass=7)
    assert observer.events == ["begin", "end"] * 2
    results = observer.seen
    assert [result.loss_curve for result in results] == [[3.0], [3.0, 2.0]]
    assert [result.validation_loss_curve[-1] for result in results] == [0.0, 0.5]
    assert [result.rate for result in results] == [0.5] * 2
    assert [int(result.weights[0, -1]) for result in results] == [1, 2]


def test_no_pass_is_made_once_the_model_is_stopped():
    rule = Scripted([[9.0, 8.0, 7.0]])
    run(rule, observer=Observer(stop=lambda result: True))
    assert rule.passes == 1


def interrupt_at(n_iter):
    def stop(result):
        if result.n_iter == n_iter:
            raise KeyboardInterrupt

    return Observer(stop)


def test_an_interrupt_between_passes_keeps_what_was_accepted():
    (result,), interrupt = run(Scripted([[4.0, 3.0, 2.0, 1.0]]), observer=interrupt_at(2))
    assert isinstance(interrupt, KeyboardInterrupt)
    assert (result.n_iter, result.loss_curve) == (2, [4.0, 3.0])
    assert (result.weights == 2.0).all()
    assert not result.converged


# Whole fits.


def fit(candidates, loss, data, *, start=None, seed=0, validation=None, **options):
    shape = (len(candidates), n_outputs(loss), data.X.shape[1] + 1)
    start = np.zeros(shape) if start is None else start
    generator = torch.Generator().manual_seed(seed)
    problem = FitProblem(candidates, loss, data, start, generator, validation)
    return fit_stack(problem, **options)


@each_optimizer
@each_loss
@pytest.mark.parametrize("n_iter", [1, 4])
def test_an_interrupted_fit_has_the_weights_of_one_that_ended_there(optimizer, loss, n_iter):
    data = draw_data(loss, seed=0)
    whole = candidate(optimizer, alpha=0.01, l1_ratio=0.5, tol=0.0, batch_size=7)
    cut = fit([whole], loss, data, make_observer=lambda fold_back: interrupt_at(n_iter))
    ended = fit([{**whole, "max_iter": n_iter}], loss, data)
    assert isinstance(cut.interrupt, KeyboardInterrupt) == (ended.results[0].n_iter == n_iter)
    assert np.array_equal(cut.weights[0], ended.weights[0])
    assert cut.results[0].loss_curve == ended.results[0].loss_curve


@each_optimizer
def test_an_interrupt_amid_a_pass_keeps_the_weights_of_the_pass_before(optimizer, monkeypatch):
    data = draw_data("softmax", seed=0)
    parameters = candidate(optimizer, alpha=0.01, tol=0.0, batch_size=7)
    n_batches = 1 if OPTIMIZERS[optimizer].full_batch else 6
    original, calls = OPTIMIZERS[optimizer].step, []

    def step(rule, weights, gradient):
        original(rule, weights, gradient)
        calls.append(1)
        start = int(OPTIMIZERS[optimizer].full_batch)  # whose evaluation is no epoch
        if len(calls) == (2 + start) * n_batches + (n_batches + 1) // 2:
            raise KeyboardInterrupt

    ended = fit([{**parameters, "max_iter": 2}], "softmax", data)
    monkeypatch.setattr(OPTIMIZERS[optimizer], "step", step)
    cut = fit([parameters], "softmax", data)
    assert isinstance(cut.interrupt, KeyboardInterrupt)
    assert np.array_equal(cut.weights[0], ended.weights[0])
    assert cut.results[0].n_iter == 2


def identified(loss, weights):
    """Weights without what no loss can tell: to softmax, what all classes share."""
    return weights - weights.mean(axis=0) if loss == "softmax" else weights


def assert_same_model(optimizer, loss, stack, i, single):
    """Model `i` of a stack is the one that was fitted alone."""
    a, b = stack.results[i], single.results[0]
    assert a.diverged == b.diverged
    if OPTIMIZERS[optimizer].full_batch:
        # Both are as near to the optimum as their tolerance, by paths of their own.
        weights = identified(loss, stack.weights[i]), identified(loss, single.weights[0])
        np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-4)
        assert a.loss_curve[-1] == pytest.approx(b.loss_curve[-1], rel=1e-9, abs=1e-12)
    else:
        np.testing.assert_allclose(stack.weights[i], single.weights[0], rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(a.loss_curve, b.loss_curve, rtol=1e-10, atol=1e-12)
        assert (a.n_iter, a.converged, a.rate) == (b.n_iter, b.converged, b.rate)


@st.composite
def configurations(draw, optimizer):
    """Candidates that differ in all that stacks, and agree in the rest."""
    full_batch = OPTIMIZERS[optimizer].full_batch
    shared = {
        "nesterov": draw(st.booleans()),
        "batch_size": draw(st.sampled_from([1, 7, 16, None])),
        "shuffle": draw(st.booleans()),
        "fit_intercept": draw(st.booleans()),
        "schedule": draw(st.sampled_from(list(SCHEDULES))),
        "max_iter": 500 if full_batch else draw(st.integers(1, 25)),
        "n_iter_no_change": draw(st.integers(1, 3)),
    }
    own = {
        # without a penalty classes that can be separated have no optimum to compare
        "alpha": st.sampled_from([0.02, 0.3] if full_batch else [0.0, 0.02, 0.3]),
        "l1_ratio": st.sampled_from([0.0, 0.5, 1.0]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "delta": st.sampled_from([0.3, 1.0, 3.0]),
        "tol": st.just(1e-12) if full_batch else st.sampled_from([1e-3, 0.013, 0.11]),
    }
    if not full_batch:
        own["learning_rate"] = st.sampled_from([0.003, 0.01, 0.03])
    differing = draw(st.lists(st.fixed_dictionaries(own), min_size=2, max_size=4))
    return [candidate(optimizer, **shared, **parameters) for parameters in differing]


@each_optimizer
@each_loss
@given(choices=st.data(), seed=st.integers(0, 2**32), weighted=st.booleans())
def test_a_stack_is_as_good_as_each_model_alone(optimizer, loss, choices, seed, weighted):
    candidates = choices.draw(configurations(optimizer))
    data = draw_data(loss, seed, n=60, weighted=weighted)
    stack = fit(candidates, loss, data)
    for i, parameters in enumerate(candidates):
        assert_same_model(optimizer, loss, stack, i, fit([parameters], loss, data))


@each_optimizer
@each_loss
def test_a_model_that_diverges_leaves_the_others_alone(optimizer, loss):
    data = draw_data(loss, seed=1)
    candidates = [
        candidate(optimizer, tol=1e-12, max_iter=30, alpha=alpha, batch_size=7)
        for alpha in (0.1, 0.2, 0.3)
    ]
    start = np.zeros((3, n_outputs(loss), 4))
    start[0] = np.inf  # lost from the start
    if not OPTIMIZERS[optimizer].full_batch:
        candidates[2]["learning_rate"] = 1e300  # lost on the way
    stack = fit(candidates, loss, data, start=start)
    lost = [True, False, not OPTIMIZERS[optimizer].full_batch]
    assert [result.diverged for result in stack.results] == lost
    assert stack.weights[0] is None
    for i in np.flatnonzero(~np.array(lost)):
        assert_same_model(optimizer, loss, stack, i, fit([candidates[i]], loss, data))


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if not OPTIMIZERS[o].full_batch])
@each_loss
@pytest.mark.parametrize("early_stopping", [False, True])
def test_models_that_are_done_early_leave_with_their_own_curves(optimizer, loss, early_stopping):
    data = draw_data(loss, seed=2, n=100)
    data, validation = data.take(torch.arange(60)), data.take(torch.arange(60, 100))
    candidates = [
        candidate(
            optimizer,
            learning_rate=rate,
            tol=tol,
            batch_size=16,
            max_iter=60,
            n_iter_no_change=2,
            early_stopping=early_stopping,
        )
        for rate, tol in [(0.05, 0.05), (0.05, 1e-3), (0.01, 1e-5), (0.05, 1e3)]
    ]
    stack = fit(candidates, loss, data, validation=validation)
    assert len({result.n_iter for result in stack.results}) > 1
    for i, parameters in enumerate(candidates):
        single = fit([parameters], loss, data, validation=validation)
        assert_same_model(optimizer, loss, stack, i, single)
        assert stack.results[i].best_iter == single.results[0].best_iter
        np.testing.assert_allclose(
            stack.results[i].validation_loss_curve,
            single.results[0].validation_loss_curve,
            rtol=1e-10,
        )
