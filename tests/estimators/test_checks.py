"""scikit-learn's own checks: all of them run, and all of them pass."""

import pytest
from sklearn.utils import estimator_checks


def assert_all_pass(estimator):
    results = estimator_checks.check_estimator(estimator, on_skip=None, on_fail=None)
    failures = [(r["check_name"], r["status"], r["exception"]) for r in results]
    assert [failure for failure in failures if failure[1] != "passed"] == []
    assert len(results) >= 60


# One of the checks sets n_iter_no_change wherever there is such a parameter.
@pytest.mark.filterwarnings("ignore:Parameters of this .* no effect.*n_iter_no_change")
def test_no_check_of_a_default_estimator_fails_or_is_skipped(Estimator):
    assert_all_pass(Estimator())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_check_of_a_textbook_optimizer_fails_or_is_skipped(Estimator):
    assert_all_pass(Estimator(optimizer="adam"))


@pytest.mark.parametrize(
    "check", ["check_dataframe_column_names_consistency", "check_inplace_ensure_writeable"]
)
def test_checks_beyond_check_estimator_pass(Estimator, check):
    getattr(estimator_checks, check)(Estimator.__name__, Estimator())
