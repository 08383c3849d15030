"""Five published training loops, each replayed by one ``fit``.

The loops minimise the mean squared error; skorchless's squared error is half of it. So their rate
counts twice here, and the loss they print is twice the loss curve.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


@pytest.fixture
def noisy_line():
    x = np.arange(-50, 50) / 10
    y = -5 * x + 0.4 * np.random.default_rng(1).normal(size=100)
    return x, y


def test_one_parameter(noisy_line):
    x, y = noisy_line
    losses, w, path = [], -10.0, []
    for _ in range(20):
        losses.append(np.mean((w * x - y) ** 2))
        w -= 0.1 * np.mean(2 * (w * x - y) * x)
        path.append(w)

    model = TorchLinearRegressor(
        fit_intercept=False,
        optimizer="sgd",
        learning_rate=0.2,
        batch_size=None,
        max_iter=20,
        tol=None,
    ).fit(x[:, None], y, coef_init=[-10.0])

    assert_allclose(2 * model.loss_curve_, losses, rtol=1e-12)
    assert_allclose(model.coef_, [w], rtol=1e-12)
    # What the tutorial prints, its noise drawn differently.
    assert losses[0] == pytest.approx(207.40, abs=4)
    assert losses[-1] == pytest.approx(0.1536, abs=0.05)
    assert abs(model.coef_[0] + 5) < 0.02
    swings = np.diff(path)
    assert (swings[1:] * swings[:-1] < 0).all()
    assert (np.diff(np.abs(swings)) < 0).all()


def test_two_parameters(noisy_line):
    x, y = noisy_line
    losses, w, b = [], -10.0, -20.0
    for _ in range(20):
        error = w * x + b - y
        losses.append(np.mean(error**2))
        w, b = w - 0.1 * np.mean(2 * error * x), b - 0.1 * np.mean(2 * error)

    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.2, batch_size=None, max_iter=20, tol=None
    ).fit(x[:, None], y, coef_init=[-10.0], intercept_init=-20.0)

    assert_allclose(2 * model.loss_curve_, losses, rtol=1e-12)
    assert_allclose([model.coef_[0], model.intercept_], [w, b], rtol=1e-12)
    # What the tutorial prints, its noise drawn differently.
    assert losses[0] == pytest.approx(598.07, abs=12)
    assert losses[-1] == pytest.approx(0.237, abs=0.06)
    assert model.intercept_ == pytest.approx(-0.215, abs=0.1)


def test_fifteen_points():
    x = "3.3 4.4 5.5 6.71 6.93 4.168 9.779 6.182 7.59 2.167 7.042 10.791 5.313 7.997 3.1"
    y = "1.7 2.76 2.09 3.19 1.694 1.573 3.366 2.596 2.53 1.221 2.827 3.465 1.65 2.904 1.3"
    x, y = np.array(x.split(), np.float32)[:, None], np.array(y.split(), np.float32)[:, None]

    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.02, batch_size=None, max_iter=50, tol=None
    ).fit(x, y, coef_init=[[0.6189569]])

    printed = [2.9266693592071533, 0.29842206835746765, 0.24937935173511505, 0.2313815802335739]
    assert_allclose(2 * model.loss_curve_[[0, 1, 2, -1]], printed, rtol=1e-6)
    assert len(model.loss_curve_) == 50


def test_softmax_with_adam():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1143, 11)) * np.geomspace(0.002, 30, 11) + np.geomspace(0.01, 50, 11)
    taste = StandardScaler().fit_transform(table) @ rng.normal(size=11) + rng.normal(size=1143)
    quality = 3 + np.digitize(taste, np.quantile(taste, [0.02, 0.1, 0.5, 0.85, 0.98]))
    X_train, X_test, y_train, y_test = train_test_split(
        table, quality, test_size=0.2, random_state=42
    )
    start = 0.1 * rng.normal(size=(6, 11))

    layer = torch.nn.Linear(11, 6, dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.tensor(start), torch.zeros(6, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    X = torch.tensor(StandardScaler().fit_transform(X_train))
    losses = []
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(layer(X), torch.tensor(y_train - 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model = make_pipeline(
        StandardScaler(),
        TorchSoftmaxClassifier(
            alpha=0, optimizer="adam", learning_rate=0.01, batch_size=None, max_iter=100, tol=None
        ),
    ).fit(X_train, y_train, torchsoftmaxclassifier__coef_init=start)

    assert_allclose(model[-1].loss_curve_, losses, rtol=1e-10)
    assert_allclose(model[-1].coef_, layer.weight.detach(), rtol=1e-8)
    assert_allclose(model[-1].intercept_, layer.bias.detach(), rtol=1e-8)
    assert losses[0] - losses[60] > 4 * (losses[60] - losses[-1]) > 0
    assert model.score(X_test, y_test) > 0.5


@pytest.fixture
def thirteen():
    x = np.random.RandomState(42).uniform(-10, 10, (1000, 1))
    noise = np.random.RandomState(42).uniform(-1, 1, (1000, 1))
    return x, 13 * x + 2 + noise


def test_a_line_as_with_numpy(thirteen):
    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.02, batch_size=None, max_iter=100, tol=None
    ).fit(*thirteen, coef_init=[[-0.02509198]], intercept_init=[0.09014286])
    assert f"{model.coef_} {model.intercept_}" == "[[13.09844702]] [1.73587336]"


def test_a_line_as_with_keras(thirteen):
    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.04, batch_size=32, max_iter=100, tol=None, random_state=0
    ).fit(*thirteen)
    assert_allclose(model.coef_, [[13.1]], rtol=1e-7)
    assert_allclose(model.intercept_, [2.0], rtol=1e-7)


def test_a_line_as_with_pytorch(thirteen):
    x, _ = thirteen
    y = 13 * x + 2 + np.random.default_rng(0).uniform(-1, 1, x.shape)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    x, y = (x.cuda(), y.cuda()) if torch.cuda.is_available() else (x, y)
    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.04, batch_size=16, max_iter=100, tol=None, random_state=0
    ).fit(x, y)
    assert model.device_ == str(x.device)
    assert model.coef_.item() == pytest.approx(13.0287, abs=0.15)
    assert model.intercept_.item() == pytest.approx(2.0096, abs=0.15)


def test_mini_batches_from_scratch():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 2))
    y = X @ [2.0, -3.4] + 4.2 + 0.01 * rng.normal(size=1000)
    model = TorchLinearRegressor(
        optimizer="sgd", learning_rate=0.03, batch_size=10, max_iter=3, tol=None, random_state=0
    ).fit(X, y, X_val=X, y_val=y)
    after_each_pass = model.validation_loss_curve_
    assert_allclose(after_each_pass, [0.028127, 0.000095, 0.000050], rtol=0.5)
    assert after_each_pass[-1] == pytest.approx(0.000050, rel=0.1)
    assert_allclose(model.coef_, [2.0, -3.4], atol=2e-3)
    assert_allclose(model.intercept_, 4.2, atol=2e-3)
