"""Which candidates make a group, and what is no candidate at all."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection.groups import check_ours, group


def members(estimator, candidates):
    return [some.members for some in group(estimator, candidates, "BatchedGridSearchCV")]


def test_numbers_that_stack_make_one_group():
    candidates = [{"alpha": a, "learning_rate": r} for a in (0.0, 0.1) for r in (0.01, 1.0)]
    assert members(TorchSoftmaxClassifier(optimizer="sgd"), candidates) == [[0, 1, 2, 3]]


def test_automatic_rates_go_by_the_penalty():
    candidates = [{"alpha": a, "momentum": m} for a in (0.0, 0.1) for m in (0.0, 0.9)]
    assert members(TorchSoftmaxClassifier(optimizer="sgd"), candidates) == [[0, 1], [2, 3]]


def test_what_does_not_stack_splits_the_candidates_in_their_order():
    candidates = [{"batch_size": 8}, {"batch_size": None}, {"batch_size": 8, "alpha": 0.1}, {}]
    sgd = TorchSoftmaxClassifier(optimizer="sgd", learning_rate=0.1, batch_size=8)
    assert members(sgd, candidates) == [[0, 2, 3], [1]]


@pytest.mark.parametrize(
    "values, n_groups",
    [
        ([0, 0, 1], 2),
        ([True, 1], 2),
        ([np.random.RandomState(0), np.random.RandomState(0)], 1),
        ([np.random.RandomState(0), np.random.RandomState(1)], 2),
    ],
)
def test_settings_are_compared_by_what_they_are(values, n_groups):
    candidates = [{"random_state": value} for value in values]
    assert len(members(TorchLinearRegressor(), candidates)) == n_groups


def test_transformers_settings_make_groups_and_equal_ones_do_not():
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier())
    name = "torchsoftmaxclassifier__alpha"
    candidates = [
        {"standardscaler": StandardScaler(), name: 0.1},
        {"standardscaler": StandardScaler(), name: 0.2},
        {"standardscaler": StandardScaler(with_mean=False), name: 0.1},
        {"standardscaler": "passthrough", name: 0.1},
        {"standardscaler__with_mean": False, name: 0.3},
    ]
    found = members(pipeline, candidates)
    assert [0, 1] in found and [2] in found and [3] in found
    assert sorted(i for some in found for i in some) == [0, 1, 2, 3, 4]


def test_finals_carry_their_candidates_parameters_and_nothing_is_shared():
    template = TorchSoftmaxClassifier(
        optimizer="sgd", learning_rate=0.1, random_state=np.random.RandomState(3)
    )
    candidates = [{"alpha": 0.1}, {"alpha": 0.2}]
    (found,) = group(template, candidates, "BatchedGridSearchCV")
    assert [final.alpha for final in found.finals] == [0.1, 0.2]
    assert template.alpha == TorchSoftmaxClassifier().alpha
    first, again = found.unfitted(), found.unfitted()
    first[0].random_state.uniform()
    assert first[0] is not again[0]
    assert again[0].random_state.uniform() == np.random.RandomState(3).uniform()


class Own(TorchSoftmaxClassifier):
    """A subclass with a setting that we know nothing of."""

    def __init__(self, taste="sweet", alpha=1e-4):
        super().__init__(alpha=alpha)
        self.taste = taste


def test_a_subclasss_own_settings_make_groups():
    candidates = [{"taste": "sweet", "alpha": 1.0}, {"taste": "sour"}, {"alpha": 2.0}]
    assert members(Own(), candidates) == [[0, 2], [1]]


@pytest.mark.parametrize(
    "other", [LogisticRegression(), Pipeline([("last", LogisticRegression())]), "nonsense"]
)
def test_what_is_not_ours_is_sent_to_scikit_learn(other):
    with pytest.raises(TypeError, match=r"Got .* Use scikit-learn's RandomizedSearchCV"):
        check_ours(other, "BatchedRandomizedSearchCV")


def test_unknown_parameters_are_named():
    with pytest.raises(ValueError, match="Invalid parameter 'temper'"):
        members(TorchLinearRegressor(), [{"temper": 1}])
