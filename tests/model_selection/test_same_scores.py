"""GridSearchCV's scores, over whatever configurations hypothesis draws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from searches import assert_same, make_classes, make_numbers, search_both
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold, ShuffleSplit, check_cv
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

SPLITTERS = [
    2,
    KFold(3, shuffle=True, random_state=1),
    ShuffleSplit(2, test_size=0.3, random_state=2),
    RepeatedKFold(n_splits=2, n_repeats=1, random_state=3),
]


@st.composite
def optimizers(draw):
    """Parameters that every candidate shares, and the numbers that the candidates differ in."""
    optimizer = draw(st.sampled_from(["auto", "sgd", "adam"]))
    shared = {
        "optimizer": optimizer,
        "random_state": draw(st.integers(0, 99)),
        "fit_intercept": draw(st.booleans()),
        "early_stopping": draw(st.booleans()),
        "validation_fraction": 0.25,
    }
    # A penalty that leaves no coefficient may leave ties between classes, which rounding decides.
    grid = {"alpha": draw(st.sampled_from([[0.0, 0.1], [1e-3, 0.01, 0.05]]))}
    if optimizer == "auto":
        grid["l1_ratio"] = draw(st.sampled_from([[0.0], [0.0, 0.5], [1.0]]))
        return {**shared, "tol": 1e-9}, grid
    shared["max_iter"] = draw(st.integers(1, 4))
    shared["batch_size"] = draw(st.sampled_from([None, 7, 32]))
    shared["tol"] = draw(st.sampled_from([None, 1e-3]))
    shared["schedule"] = draw(st.sampled_from(["constant", "invscaling", "cosine", "adaptive"]))
    grid["learning_rate"] = draw(st.sampled_from([["auto"], [0.01, 0.1], [0.05, "auto"]]))
    name, values = draw(
        st.sampled_from([("momentum", [0.0, 0.9]), ("l1_ratio", [0.5]), ("l1_ratio", [0.0, 1.0])])
    )
    return shared, {**grid, name: values}


@st.composite
def configurations(draw):
    shared, grid = draw(optimizers())
    seed = draw(st.integers(0, 2**16))
    classifies = draw(st.booleans())
    outputs = draw(st.integers(2, 4) if classifies else st.sampled_from([None, 2]))
    if classifies:
        estimator = TorchSoftmaxClassifier(**shared)
        estimator.set_params(class_weight=draw(st.sampled_from([None, "balanced"])))
        scoring = ["accuracy", "neg_log_loss", "neg_brier_score" if outputs == 2 else "f1_macro"]
    else:
        estimator = TorchLinearRegressor(**shared)
        if draw(st.booleans()):
            estimator.set_params(loss="huber")
            grid = {"alpha": grid["alpha"][:2], "delta": [0.5, 2.0]}
        scoring = ["r2", "neg_mean_squared_error", "neg_mean_absolute_error"]
    name = ""
    if draw(st.booleans()):
        estimator = make_pipeline(StandardScaler(), estimator)
        name = f"{estimator.steps[-1][0]}__"
        grid = {name + key: values for key, values in grid.items()}
        grid["standardscaler__with_std"] = draw(st.sampled_from([[True], [True, False]]))
    data = (classifies, outputs, seed, f"{name}sample_weight" if draw(st.booleans()) else None)
    options = {
        "scoring": draw(st.sampled_from([None, scoring[0], scoring[1], scoring])),
        "cv": draw(st.sampled_from(SPLITTERS)),
        "return_train_score": draw(st.booleans()),
    }
    options["refit"] = scoring[1] if isinstance(options["scoring"], list) else True
    return estimator, grid, data, options


@pytest.mark.filterwarnings("ignore:Parameters .* no effect")
@given(configurations())
def test_all_scores_are_those_of_grid_search(configuration):
    estimator, grid, (classifies, outputs, seed, weight_name), options = configuration
    X, y = (make_classes if classifies else make_numbers)(n=60, k=outputs, seed=seed)
    if classifies:  # some scores need every class in a test fold, early stopping two rows of each
        for train, test in check_cv(options["cv"], y, classifier=True).split(X, y):
            of_train, of_test = (np.bincount(y[rows], minlength=outputs) for rows in (train, test))
            assume(of_train.min() >= 3 and of_test.min() >= 1)
    weight = np.random.default_rng(seed).uniform(0.1, 2.0, len(X))
    fit_params = {} if weight_name is None else {weight_name: weight}
    assert_same(*search_both(estimator, grid, X, y, fit_params, **options))


@pytest.mark.parametrize("seed", range(3))
def test_early_stopping_of_one_candidate_waits_for_no_other(seed):
    """Steps of one model that are rejected while another's is accepted are no iterations."""
    model = TorchLinearRegressor(
        loss="huber", early_stopping=True, validation_fraction=0.25, tol=1e-9, random_state=0
    )
    grid = {"alpha": [0.0, 0.1], "delta": [0.5, 2.0]}
    assert_same(*search_both(model, grid, *make_numbers(n=60, seed=seed), cv=2))


def test_a_penalty_of_one_candidate_is_none_of_anothers():
    """Of few rows in float32 the directions that rounding makes are nobody's without a penalty."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 80)).astype(np.float32), np.arange(30) % 3
    model, grid = TorchSoftmaxClassifier(), {"alpha": [0.0, 1e-3]}
    options = {"cv": 3, "scoring": "neg_log_loss", "refit": False}
    together = BatchedGridSearchCV(model, grid, **options).fit(X, y)
    alone = GridSearchCV(model, grid, **options).fit(X, y)
    for search in (together, alone):
        assert (search.cv_results_["mean_test_score"] > -5.0).all()
    np.testing.assert_allclose(
        together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=0.05
    )
