"""What is printed: nothing, unless asked for."""

import re

import pytest

from skorchless import TorchLinearRegressor

passes = {"optimizer": "sgd", "learning_rate": 0.01, "max_iter": 12, "tol": None}


@pytest.mark.parametrize("parameters", [{}, passes, {**passes, "early_stopping": True}])
def test_nothing_is_printed_by_default(Estimator, data, capfd, parameters):
    model = Estimator(**parameters).fit(*data)
    model.predict(data[0])
    if not model.early_stopping:
        model.partial_fit(*data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2, True])
@pytest.mark.parametrize("validated", [False, True])
def test_one_aligned_line_is_printed_for_each_pass(Estimator, data, capfd, verbose, validated):
    X, y = data
    validation = {"X_val": X, "y_val": y} if validated else {}
    model = Estimator(verbose=verbose, **passes).fit(X, y, **validation)
    output, errors = capfd.readouterr()
    lines = output.splitlines()
    assert errors == ""
    assert len(lines) == model.n_iter_ == 12
    assert len({len(line) for line in lines}) == 1
    for i, line in enumerate(lines):
        assert re.match(rf"epoch +{i + 1} +loss ", line)
        assert f" {model.loss_curve_[i]:.6g} " in line + " "
        assert ("validation loss" in line) == validated
        assert bool(re.search(r"rate +0.01 .* s$", line)) == (verbose == 2)
    if validated:
        assert f"{model.validation_loss_curve_[-1]:.6g}" in lines[-1]


def test_the_default_optimizer_prints_its_iterations(Estimator, data, capfd):
    model = Estimator(verbose=1).fit(*data)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert all(line.startswith("iteration ") for line in lines)


def test_partial_fit_prints_one_line_a_call(Estimator, data, capfd):
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    model = Estimator(verbose=1, **passes).partial_fit(*data, **classes).partial_fit(*data)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_ == 2
    assert all(line.startswith("epoch ") for line in lines)
    assert f"{model.loss_curve_[-1]:.6g}" in lines[-1]
