"""scikit-learn's tests of LinearRegression, run against TorchLinearRegressor."""

import pytest
from peers import adapters
from peers.installed import imported_tests

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

POSITIVE = "ours has no constraint to positive coefficients"
IN_PLACE = "ours writes to no X, whatever copy_X is"

FAILING = {
    "test_raises_value_error_if_positive_and_sparse": POSITIVE,
    "test_linear_regression_positive_multiple_outcome": POSITIVE,
    "test_linear_regression_positive_vs_nonpositive": POSITIVE,
    "test_inplace_data_preprocessing[True-None]": IN_PLACE,
    "test_inplace_data_preprocessing[False-None]": IN_PLACE,
}

globals().update(
    imported_tests(
        "sklearn.linear_model.tests.test_base",
        {"sklearn.linear_model": {"LinearRegression": adapters.LinearRegression}},
    )
)


def test_every_failure_that_is_listed_is_one_of_these_tests():
    assert {name.partition("[")[0] for name in FAILING} <= set(globals())
