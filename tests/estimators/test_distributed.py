"""Several ranks with rows of their own train the model that one process would train on all rows."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from ranks import DIED, collectives_that_fail
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, mean_squared_error

import skorchless
from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.distributed import Group
from skorchless.estimators import limits
from skorchless.objective import LinearObjective

#: Where each of three ranks' rows begin and end: few, none and most of them.
SHARES = ((0.0, 0.15), (0.15, 0.15), (0.15, 1.0))

PASSES = {"max_iter": 12, "tol": None}
FULL = {"batch_size": None, **PASSES}
EXACTLY = {"tol": 1e-10}


def raw_columns(n, d, dtype=np.float64):
    """Columns in units of their own, none about zero."""
    rng = np.random.default_rng(0)
    units = 10.0 ** (np.arange(d) % 4)
    return (rng.normal(size=(n, d)) * units + 5.0).astype(dtype), units, rng


def numbers(n=90, d=4, outputs=None, dtype=np.float64):
    X, units, rng = raw_columns(n, d, dtype)
    shape = () if outputs is None else (outputs,)
    y = X / units @ rng.normal(size=(d, *shape)) + rng.standard_t(2, size=(n, *shape))
    return X, y.astype(dtype)


def classes(n=90, d=4, k=3, dtype=np.float64):
    """Sorted, so that no rank sees every class."""
    X, units, rng = raw_columns(n, d, dtype)
    logits = (X - 5.0) / units @ rng.normal(size=(d, k)) + rng.gumbel(size=(n, k))
    y = np.array(["ant", "bee", "cat", "dog"])[logits.argmax(axis=1)]
    order = np.argsort(y, kind="stable")
    return X[order], y[order]


PROBLEMS = {
    "numbers": (TorchLinearRegressor, numbers),
    "classes": (TorchSoftmaxClassifier, classes),
}


def rows_of(rank, n, shares=SHARES):
    """This rank's rows; all of them without a rank."""
    first, last = (0.0, 1.0) if rank is None else shares[rank]
    return slice(round(first * n), round(last * n))


def fitted(rank, problem, size, parameters, options=()):
    """Fit a rank's share, or everything in one process; give what all should have in common."""
    Estimator, make = PROBLEMS[problem]
    X, y = make(**size)
    rows = rows_of(rank, len(X))
    fit_params = {}
    if "weights" in options:  # those of the first rank are all zero
        weight = np.arange(len(X)) % 3 * (np.arange(len(X)) >= rows_of(0, len(X)).stop)
        fit_params["sample_weight"] = weight[rows].astype(float)
    if "validation" in options:
        X_val, y_val = make(**{**size, "n": 61})
        part = rows_of(rank, 61, ((0.9, 1.0), (0.0, 0.5), (0.5, 0.9)))
        part = np.r_[54:61, 0:30, 30:54] if rank is None else part
        fit_params |= {"X_val": X_val[part], "y_val": y_val[part]}
    model = Estimator(**{"random_state": 0, **parameters}, distributed=rank is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X[rows], y[rows], **fit_params)
    return vars(model)


SAME_ON_ALL = ("coef_", "intercept_", "loss_curve_", "n_iter_", "best_iter_")


def assert_same_on_all(results):
    for result in results[1:]:
        for name in SAME_ON_ALL:
            np.testing.assert_array_equal(result[name], results[0][name])


CASES = {
    "softmax": ("classes", {}, EXACTLY),
    "two classes": ("classes", {"k": 2}, EXACTLY),
    "L1": ("classes", {}, {"alpha": 0.01, "l1_ratio": 0.7, **EXACTLY}),
    "no intercept": ("classes", {}, {"fit_intercept": False, **EXACTLY}),
    "balanced": ("classes", {}, {"class_weight": "balanced", **EXACTLY}),
    "sgd": ("classes", {}, {"optimizer": "sgd", "momentum": 0.9, **FULL}),
    "adam": ("classes", {"k": 4}, {"optimizer": "adam", **FULL}),
    "stops by itself": (
        "classes",
        {},
        {"optimizer": "adam", "learning_rate": 0.01, "batch_size": None, "tol": 1e-2},
    ),
    "least squares": ("numbers", {}, {}),
    "two outputs": ("numbers", {"outputs": 2}, {"alpha": 0.1}),
    "fewer rows than columns": ("numbers", {"n": 20, "d": 30}, {}),
    "Lasso": ("numbers", {}, {"alpha": 0.1, "l1_ratio": 1.0, **EXACTLY}),
    "few of many columns": (
        "numbers",
        {"n": 60, "d": 450},
        {"alpha": 0.3, "l1_ratio": 1.0, **EXACTLY},
    ),
    "few of many columns, classes": (
        "classes",
        {"n": 60, "d": 450},
        {"alpha": 0.1, "l1_ratio": 0.9, **EXACTLY},
    ),
    "Huber": ("numbers", {}, {"loss": "huber", **EXACTLY}),
    "Huber by adam": ("numbers", {}, {"loss": "huber", "optimizer": "adam", **FULL}),
    "a column a row": ("numbers", {}, {"optimizer": "sgd", "learning_rate": 1e-9, **FULL}),
}


@pytest.mark.parametrize("options", [(), ("weights", "validation")], ids="-".join)
@pytest.mark.parametrize("case", CASES)
def test_ranks_learn_what_one_process_would(group, case, options):
    results = group.run(fitted, *CASES[case], options)
    alone = fitted(None, *CASES[case], options)
    assert_same_on_all(results)
    first = results[0]
    scale = np.abs(alone["coef_"]).max()
    assert_allclose(first["coef_"], alone["coef_"], rtol=1e-9, atol=1e-9 * scale)
    assert_allclose(first["intercept_"], alone["intercept_"], rtol=1e-8, atol=1e-8)
    assert_allclose(first["loss_curve_"][-1], alone["loss_curve_"][-1], rtol=1e-9, atol=1e-15)
    assert first.get("classes_", np.empty(0)).tolist() == list(alone.get("classes_", ()))
    if options:
        curves = first["validation_loss_curve_"][:4], alone["validation_loss_curve_"][:4]
        # After Newton steps that multiply rounding by the Hessian's condition.
        assert_allclose(*curves, rtol=1e-7, atol=1e-14)


def weighted_beside_others(rank, make, size, which):
    """Fit with weights on one rank alone, or all in one process."""
    X, y = make()
    rows = rows_of(rank, len(X))
    weight = np.ones(len(X))
    weight[rows_of(which, len(X))] = size
    given = {"sample_weight": weight[rows]} if rank in (None, which) else {}
    Estimator = TorchLinearRegressor if make is numbers else TorchSoftmaxClassifier
    model = Estimator(distributed=rank is not None, tol=1e-12)
    return vars(model.fit(X[rows], y[rows], **given))


@pytest.mark.parametrize("which", range(3))  # 1 has no rows
@pytest.mark.parametrize("size", [1e-320, 1e300])
@pytest.mark.parametrize("make", [numbers, classes])
def test_rows_of_a_rank_without_weights_weigh_one_each(group, make, size, which):
    results = group.run(weighted_beside_others, make, size, which)
    assert_same_on_all(results)
    alone = weighted_beside_others(None, make, size, which)
    scale = np.abs(alone["coef_"]).max()
    assert_allclose(results[0]["coef_"], alone["coef_"], rtol=1e-7, atol=1e-7 * scale)


LARGE = {"n": 90_000, "d": 10, "dtype": np.float32}


@pytest.mark.parametrize(
    "problem, parameters",
    [("classes", {"tol": 1e-8}), ("numbers", {}), ("numbers", {"loss": "huber", "tol": 1e-6})],
)
def test_data_of_many_chunks_begin_at_the_same_head_start(group, problem, parameters):
    results = group.run(fitted, problem, LARGE, parameters)
    alone = fitted(None, problem, LARGE, parameters)
    assert_same_on_all(results)
    assert_allclose(results[0]["coef_"], alone["coef_"], rtol=2e-3, atol=2e-5)
    assert_allclose(results[0]["loss_curve_"][-1], alone["loss_curve_"][-1], rtol=1e-6)


def around_a_threshold(rank):
    """Fit float32 rows of which some ranks have more than a small table, and some fewer."""
    before, limits.DOUBLE_NUMBERS = limits.DOUBLE_NUMBERS, 300
    X, y = numbers(dtype=np.float32)
    rows = rows_of(rank, len(X), ((0.0, 0.9), (0.9, 0.95), (0.95, 1.0)))
    try:
        return vars(TorchLinearRegressor(loss="huber", distributed=True).fit(X[rows], y[rows]))
    finally:
        limits.DOUBLE_NUMBERS = before


def test_ranks_agree_on_whether_a_table_is_small(group):
    assert_same_on_all(group.run(around_a_threshold))


def test_early_stopping_is_the_groups(group):
    parameters = {"optimizer": "adam", "early_stopping": True, "max_iter": 60}
    results = group.run(fitted, "classes", {}, parameters, ("validation",))
    alone = fitted(None, "classes", {}, {**parameters, "batch_size": 256}, ("validation",))
    assert_same_on_all(results)
    assert results[0]["best_iter_"] == alone["best_iter_"]
    assert_allclose(results[0]["coef_"], alone["coef_"], rtol=1e-6)


def test_each_rank_holds_out_rows_of_its_own(group):
    results = group.run(fitted, "classes", {}, {"early_stopping": True, "optimizer": "adam"})
    assert_same_on_all(results)
    assert len(results[0]["validation_loss_curve_"]) == results[0]["n_iter_"]


def in_batches(rank, Estimator, shares, **parameters):
    X, y = (numbers if Estimator is TorchLinearRegressor else classes)()
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rows = rows_of(rank, len(X), shares)
    textbook = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16, **PASSES}
    model = Estimator(**{**textbook, **parameters}, distributed=rank is not None)
    return vars(model.fit(X[rows], y[rows]))


def test_mini_batches_are_those_of_one_process_if_one_rank_has_all_rows(group, Estimator):
    shares = ((0.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    results = group.run(in_batches_of_all, Estimator, shares)
    assert_same_on_all(results)
    alone = in_batches_of_all(None, Estimator, shares)
    assert_allclose(results[0]["coef_"], alone["coef_"], rtol=1e-12, atol=1e-12)


def in_batches_of_all(rank, Estimator, shares):
    return in_batches(rank, Estimator, shares, random_state=3)


def in_unseeded_batches(rank, Estimator):
    return in_batches(rank, Estimator, SHARES, max_iter=60, learning_rate=0.1)


def test_unequal_shards_make_equal_steps_without_a_seed(group, Estimator):
    results = group.run(in_unseeded_batches, Estimator)
    assert_same_on_all(results)
    auto = {"optimizer": "auto", "learning_rate": "auto", "batch_size": "auto"}
    full = in_batches(None, Estimator, SHARES, **auto, tol=1e-6)
    # The mean loss of a pass depends on which rows a shard repeats; that of the model hardly.
    assert_allclose(mean_loss(Estimator, results[0]), mean_loss(Estimator, full), rtol=0.1)


def mean_loss(Estimator, fitted):
    """Return the mean loss over all rows, standardized, of what `in_batches` has returned."""
    X, y = (numbers if Estimator is TorchLinearRegressor else classes)()
    raw = (X - X.mean(axis=0)) / X.std(axis=0) @ fitted["coef_"].T + fitted["intercept_"]
    if Estimator is TorchLinearRegressor:
        return mean_squared_error(y, raw)
    return log_loss(y, softmax(raw, axis=1))


def pass_by_pass(rank, rate):
    X, y = classes()
    rows = rows_of(rank, len(X))
    options = {"optimizer": "adam", "learning_rate": rate, "batch_size": 20, "distributed": True}
    model = TorchSoftmaxClassifier(**options, random_state=0)
    for _ in range(3):
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    whole = TorchSoftmaxClassifier(**options, random_state=0, max_iter=3, tol=None)
    return vars(model), vars(whole.fit(X[rows], y[rows]))


@pytest.mark.parametrize("rate", [0.01, "auto"])
def test_passes_one_by_one_are_those_of_a_fit(group, rate):
    results = group.run(pass_by_pass, rate)
    pieces = [piece for piece, _ in results]
    assert_same_on_all(pieces)
    if rate != "auto":
        for piece, whole in results:
            np.testing.assert_array_equal(piece["coef_"], whole["coef_"])


# What goes wrong.


def faulty(rank, name):
    """Fit with a fault of rank 1's, and then without."""
    Estimator, make = PROBLEMS["numbers" if name in OF_NUMBERS else "classes"]
    X, y = make()
    rows = rows_of(rank, len(X), ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)))
    arguments = {"X": X[rows], "y": y[rows]}
    model = Estimator(distributed=True, max_iter=20, tol=1e-2)
    if rank == 1:
        FAULTS[name](model, arguments)
    before = vars(model).copy()
    try:
        model.fit(**arguments)
    except Exception as error:
        assert vars(model) == before
        return type(error).__name__, str(error)
    return None


def changed(**arguments):
    return lambda model, given: given.update(
        {name: change(given) for name, change in arguments.items()}
    )


def parameter(**parameters):
    return lambda model, given: model.set_params(**parameters)


#: A fault of rank 1, and what every rank has to say then.
FAULTS = {
    "NaN": changed(X=lambda given: np.full_like(given["X"], np.nan)),
    "width": changed(X=lambda given: given["X"][:, 1:]),
    "precision": changed(X=lambda given: given["X"].astype(np.float32)),
    "length": changed(y=lambda given: given["y"][1:]),
    "kind of label": changed(y=lambda given: np.arange(len(given["y"]))),
    "weight": changed(sample_weight=lambda given: -np.ones(len(given["X"]))),
    "start": changed(coef_init=lambda given: np.ones((3, 4))),
    "validation": changed(X_val=lambda given: given["X"], y_val=lambda given: given["y"]),
    "no y": changed(y=lambda given: None),
    "parameter": parameter(alpha=1.0),
    "nonsense": parameter(alpha=-1.0),
    "device": parameter(device="cuda:7"),
    "outputs": changed(y=lambda given: np.stack([given["y"], given["y"]], axis=1)),
    "large y": changed(y=lambda given: given["y"] * np.inf),
}
OF_NUMBERS = ("outputs", "large y")
AGREE = {
    "width": "the number of features: rank 0 has 4, rank 1 has 3",
    "precision": "the precision of X: rank 0 has 'torch.float64', rank 1 has 'torch.float32'",
    "parameter": "the parameter 'alpha': rank 0 has 0.0001, rank 1 has 1.0",
    "validation": "passing X_val: rank 0 has False, rank 1 has True",
    "outputs": "the shape of y's rows: rank 0 has (), rank 1 has (2,)",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_one_rank_is_an_error_on_all(group, name):
    results = group.run(faulty, name)
    if name in AGREE or name == "kind of label":
        words = AGREE.get(name, "Labels must be of one kind on all ranks")
        assert all(kind == "ValueError" and words in text for kind, text in results)
        return
    kind, words = results[1]
    assert kind in ("ValueError", "InvalidParameterError")
    for other in results[0], results[2]:
        assert other == ("GroupError", f"rank 1 failed: {kind}: {words}")


def without_weight(rank):
    X, y = classes()
    rows = rows_of(rank, len(X))
    TorchSoftmaxClassifier(distributed=True).fit(X[rows], y[rows], np.zeros(len(X[rows])))


def test_rows_have_to_weigh_something_on_some_rank(group):
    for result in group.outcomes(without_weight):
        assert (result.kind, result.message) == (
            "ValueError",
            "Sample weights must contain at least one non-zero number.",
        )


#: What rank 1 alone passes to the first call of partial_fit, and what it is told.
FIRST_CALLS = {
    "no classes": (None, {}, "classes must be passed on the first call to partial_fit."),
    "a number": (3, {}, "classes must list the labels, such as [0, 1, 2]. Got 3."),
    "balanced": (
        ["ant", "bee", "cat"],
        {"class_weight": "balanced"},
        "partial_fit does not support class_weight='balanced': it cannot know how frequent the "
        "classes will be. Compute weights with compute_class_weight('balanced', ...) and pass "
        "them as a dict.",
    ),
}


def first_call(rank, name):
    given, parameters, _ = FIRST_CALLS[name]
    X, y = classes()
    rows = rows_of(rank, len(X))
    model = TorchSoftmaxClassifier(distributed=True)
    if rank == 1:
        model.set_params(**parameters)
    labels = given if rank == 1 else ["ant", "bee", "cat"]
    model.partial_fit(X[rows], y[rows], classes=labels)


@pytest.mark.parametrize("name", FIRST_CALLS)
def test_a_first_call_that_one_rank_cannot_make_is_an_error_on_all(group, name):
    *_, words = FIRST_CALLS[name]
    first, failed, last = group.outcomes(first_call, name)
    assert (failed.kind, failed.message) == ("ValueError", words)
    for other in first, last:
        assert (other.kind, other.message) == ("GroupError", f"rank 1 failed: ValueError: {words}")


def out_of_memory(rank, optimizer):
    X, y = classes()
    rows = rows_of(rank, len(X))
    batches = {} if optimizer == "auto" else {"batch_size": 30}
    model = TorchSoftmaxClassifier(
        optimizer=optimizer, distributed=True, max_iter=50, tol=1e-12, **batches
    )
    if rank == 2:
        values, calls = LinearObjective.value, iter(range(4))

        def value(self, chunk):
            if next(calls, None) is None:
                raise MemoryError("no room for a chunk")
            return values(self, chunk)

        LinearObjective.value = value
    try:
        model.fit(X[rows], y[rows])
    finally:
        if rank == 2:
            LinearObjective.value = values


def fit_alone(rank):
    """Load what a fit loads when it is the first of its process."""
    X, y = classes()
    TorchSoftmaxClassifier(optimizer="sgd", learning_rate=1e-3, max_iter=2, tol=None).fit(X, y)
    TorchSoftmaxClassifier().fit(X, y)


@pytest.fixture(scope="module")
def impatient_ranks(start_ranks):
    return start_ranks(3, timeout=5.0)


@pytest.fixture
def impatient(impatient_ranks):
    """Ranks that do not wait for each other for long, once all of them can begin."""
    impatient_ranks.get_ready()
    impatient_ranks.run(fit_alone)
    return impatient_ranks


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_an_error_in_mid_training_ends_the_others_in_the_groups_timeout(impatient, optimizer):
    *others, failed = impatient.outcomes(out_of_memory, optimizer)
    assert failed.kind == "MemoryError"
    for result in others:
        assert result.kind == "GroupError" and UNREACHABLE in result.message


UNREACHABLE = "a process of the group has failed or died"


def endless(how):
    return {"optimizer": "sgd", "learning_rate": 1e-3, "max_iter": 10**6, "tol": None} | how


def ended(rank, number):
    """Fit for ever; send rank 1 a signal in mid-solve. Give collectives, error, model."""
    X, y = classes()
    X = X / X.std(axis=0)
    rows = rows_of(rank, len(X), ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)))
    model = TorchSoftmaxClassifier(**endless({"distributed": True}))
    sums, calls = Group.all_reduce_, iter(range(100))

    def sum_(self, *tensors):
        if next(calls, None) is None:
            os.kill(os.getpid(), number)
        sums(self, *tensors)

    try:
        if rank == 1:
            Group.all_reduce_ = sum_
        with collectives_that_fail() as failed:
            model.fit(X[rows], y[rows])
    except BaseException as error:
        return failed, type(error).__name__, str(error), hasattr(model, "coef_")
    finally:
        Group.all_reduce_ = sums
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_rank_that_ends_is_an_error_on_the_others_after_a_single_timeout(impatient, number):
    first, ended_one, last = impatient.outcomes(ended, number)
    if number == signal.SIGKILL:
        assert ended_one is DIED
    else:
        failed, kind, _, is_fitted = ended_one
        assert (failed, kind, is_fitted) == ([], "KeyboardInterrupt", False)
    for failed, kind, message, is_fitted in first, last:
        assert len(failed) == 1 and not is_fitted
        assert kind == "GroupError" and UNREACHABLE in message


def going_on(rank):
    """Fit for ever; interrupt rank 1, which begins anew while the others wait for it."""
    outcome = ended(rank, signal.SIGINT)
    if rank != 1:
        return outcome[1]
    X, y = classes()
    try:
        TorchSoftmaxClassifier(distributed=True).fit(X, y)
    except RuntimeError as error:
        return type(error).__name__
    return None


def test_a_rank_that_goes_on_after_an_error_learns_nothing(impatient):
    assert impatient.run(going_on) == ["GroupError"] * 3


def interrupted_pass(rank, warm):
    """Interrupt rank 1 amid a pass; give the error, and whether the model is as it was before."""
    X, y = classes()
    rows = rows_of(rank, len(X), ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)))
    model = TorchSoftmaxClassifier(distributed=True, random_state=0)
    if warm:
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    before, values = dict(vars(model)), LinearObjective.value
    if rank == 1:

        def value(self, chunk):
            raise KeyboardInterrupt

        LinearObjective.value = value
    try:
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    except BaseException as error:
        return type(error).__name__, vars(model) == before
    finally:
        LinearObjective.value = values
    return None


@pytest.mark.parametrize("warm", [False, True])
def test_an_interrupted_pass_of_partial_fit_is_none_on_all_ranks(impatient, warm):
    errors = ["GroupError", "KeyboardInterrupt", "GroupError"]
    assert impatient.run(interrupted_pass, warm) == [(error, True) for error in errors]


# Who speaks, and who decides.


def printed(rank):
    X, y = classes()
    rows = rows_of(rank, len(X))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        TorchSoftmaxClassifier(verbose=1, distributed=True).fit(X[rows], y[rows])
    return out.getvalue()


def test_rank_0_alone_prints(group):
    first, *others = group.run(printed)
    assert first.startswith("iteration      1   loss")
    assert others == ["", ""]


def stopped(rank):
    class Stopper:
        ends = 0

        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            self.ends += 1
            return rank == 2 and self.ends == 3

    X, y = classes()
    rows = rows_of(rank, len(X))
    model = TorchSoftmaxClassifier(optimizer="sgd", distributed=True, **{**PASSES, "tol": 0.0})
    return vars(model.set_callbacks(Stopper()).fit(X[rows], y[rows]))["n_iter_"]


def test_one_ranks_callback_stops_all(group):
    pytest.importorskip("sklearn.callback")
    assert group.run(stopped) == [3, 3, 3]


def on_a_tensor(rank):
    X, y = numbers()
    rows = rows_of(rank, len(X))
    model = TorchLinearRegressor(distributed=True)
    return vars(model.fit(torch.from_numpy(X[rows]), torch.from_numpy(y[rows])))


def test_tensors_are_shards_too(group):
    results = group.run(on_a_tensor)
    assert_same_on_all(results)
    assert_allclose(results[0]["coef_"], fitted(None, "numbers", {}, {})["coef_"], rtol=1e-9)


def alone(rank):
    X, y = numbers(n=40 + rank)
    return None if rank == 1 else TorchLinearRegressor().fit(X, y).coef_


def test_a_group_is_joined_only_on_request(group):
    first, _, last = group.run(alone)
    assert not np.array_equal(first, last)


@pytest.mark.slow
def test_the_script_of_the_docs_runs_under_torchrun(tmp_path):
    script = Path(skorchless.__file__).parents[1] / "docs" / "distributed.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # it leaves a folder for logs there
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 ranks") == 1


def test_without_a_group_the_cure_is_named(Estimator, data):
    with pytest.raises(ValueError, match=r"init_process_group.*set distributed=False"):
        Estimator(distributed=True).fit(*data)
