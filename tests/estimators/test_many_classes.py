"""Targets of many classes are their numbers, not one-hot: nothing else changes, in no bit."""

import numpy as np
import pytest
import torch
from large import mapped
from numpy.testing import assert_array_equal
from problems import as_target
from scipy.sparse import csr_array
from torch import float64

from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier
from skorchless.data import make_loader
from skorchless.losses import SoftmaxCrossEntropy, is_class

N_CLASSES = 5
MANY = "skorchless.data.limits.MANY_CLASSES"


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6)) * (rng.random((300, 6)) < 0.7)
    logits = X @ rng.normal(size=(6, N_CLASSES)) + rng.gumbel(size=(300, N_CLASSES))
    return X, logits.argmax(axis=1)


WAYS = {
    "auto": {},
    "a whole Hessian": {"alpha": 0.0, "tol": 1e-10},
    "a sample of the rows": {"tol": 1e-3},
    "l1": {"alpha": 0.01, "l1_ratio": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 32, "max_iter": 3},
    "adam": {"optimizer": "adam", "batch_size": 32, "max_iter": 3},
    "early stopping": {"early_stopping": True, "optimizer": "adam", "max_iter": 3},
    "balanced": {"class_weight": "balanced"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("container", [np.asarray, csr_array, torch.tensor])
@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_a_fit_has_the_same_bits(way, container, rows, monkeypatch):
    X, y = rows
    models = []
    for many in (N_CLASSES, N_CLASSES + 1):
        monkeypatch.setattr(MANY, many)
        model = TorchSoftmaxClassifier(**WAYS[way], random_state=0)
        models.append(model.fit(container(X), torch.tensor(y) if container is torch.tensor else y))
    assert_array_equal(models[0].coef_, models[1].coef_)
    assert_array_equal(models[0].loss_curve_, models[1].loss_curve_)


def test_a_search_and_a_memory_map(rows, monkeypatch, tmp_path, everything_is_large):
    X, y = rows
    found = []
    for many in (N_CLASSES, N_CLASSES + 1):
        monkeypatch.setattr(MANY, many)
        model = TorchSoftmaxClassifier(optimizer="sgd", max_iter=3, tol=None, random_state=0)
        search = BatchedGridSearchCV(model, {"alpha": [0.0, 0.1]}, cv=2).fit(mapped(X, tmp_path), y)
        found.append(search.cv_results_["mean_test_score"])
    assert_array_equal(*found)


def test_the_loss_by_number_is_the_loss_of_one_hot():
    generator = torch.Generator().manual_seed(0)
    raw = 3.0 * torch.randn(2, N_CLASSES, 40, generator=generator, dtype=float64)
    labels = torch.randint(N_CLASSES, (40,), generator=generator)
    one_hot, number, loss = (
        as_target(labels, N_CLASSES),
        labels.view(1, 1, 40),
        SoftmaxCrossEntropy(),
    )
    for several in (raw, raw.unsqueeze(0).repeat(3, 1, 1, 1)):
        assert torch.equal(loss.value(several, one_hot), loss.value(several, number))
        parts = (loss.gradient(several, t, torch.empty_like(several)) for t in (one_hot, number))
        assert torch.equal(*parts)
        classes = is_class(several, number)
        assert torch.equal(classes, is_class(several, one_hot).expand_as(classes))


def test_targets_take_a_number_a_row():
    X, y = torch.zeros(200, 3), torch.arange(200) % 100
    layout = {"n_outputs": 100, "fit_intercept": True, "batch_size": 50, "stack_width": 100}
    for chunk in make_loader(X, y, None, **layout).chunks():
        assert chunk.target.numel() == 50 * len(chunk.batches)
        assert torch.equal(chunk.target.flatten() % 100, chunk.target.flatten())
