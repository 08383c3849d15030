"""100 chunks of `partial_fit` on raw columns, beside SGD* on columns standardised beforehand."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from tools import print_table

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

N_CHUNKS = 100


def table(
    rng: np.random.Generator, n: int, d: int, n_classes: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of very different scales and means; numbers for no classes."""
    Z = rng.standard_normal((n, d)) @ (rng.standard_normal((d, d)) / np.sqrt(d) + np.eye(d))
    if n_classes:
        logits = 2.0 * Z @ rng.standard_normal((d, n_classes)) / np.sqrt(d)
        y = (logits + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    else:
        y = Z @ rng.standard_normal(d) + 2.0 * rng.standard_normal(n) + 10.0
    scales = 10.0 ** rng.uniform(-3, 3, d)
    return (Z + rng.uniform(-5, 5, d)) * scales, y


def tables(*, small: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, X and y; numbers in y are targets, whole ones classes."""
    rng, n = np.random.default_rng(0), 2000 if small else 50000
    for d in (20, 100):
        yield f"{n}x{d}", *table(rng, n, d)
    X, y = load_diabetes(return_X_y=True)
    yield "diabetes, 20 times", np.tile(X, (20, 1)) * 10.0 ** rng.uniform(-3, 3, 10), np.tile(y, 20)
    for d, n_classes in ((20, 5), (100, 3), (30, 2)):
        yield f"{n}x{d}x{n_classes}", *table(rng, n, d, n_classes)
    for name, load in (("digits", load_digits), ("breast_cancer", load_breast_cancer)):
        X, y = load(return_X_y=True)
        yield f"{name}, 10 times", np.tile(X, (10, 1)), np.tile(y, 10)


def orders(X: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """In which order the rows arrive."""
    rng = np.random.default_rng(1)
    yield "at random", rng.permutation(len(y))
    column = StandardScaler().fit_transform(X[:, [X.std(axis=0).argmax()]]).ravel()
    yield "a column drifts", np.argsort(column + 2.0 * rng.standard_normal(len(y)))
    yield "sorted by y", np.argsort(y, kind="stable")


def loss(model: object, X: np.ndarray, y: np.ndarray, regression: bool) -> float:
    """Mean loss over all rows, without the penalty."""
    if regression:
        return 0.5 * float(np.mean((model.predict(X) - y) ** 2))
    if isinstance(model, TorchSoftmaxClassifier):
        return float(log_loss(y, model.predict_proba(X)))
    logits = model.decision_function(X)  # one-vs-rest, read as the logits of a softmax
    logits = np.column_stack([0 * logits, logits]) if logits.ndim == 1 else logits
    highest = logits.max(axis=1)
    sums = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float(np.mean(sums - logits[np.arange(len(y)), y]))


def chunks(*, small: bool, folder: str) -> None:
    """One pass over 100 chunks, in three orders."""
    rows = []
    for name, X, y in tables(small=small):
        regression = y.dtype.kind == "f"
        Z = StandardScaler().fit_transform(X)
        alpha = 0.0 if regression else 1e-4
        for order, index in orders(X, y):
            if regression:
                ours = TorchLinearRegressor(alpha=alpha, random_state=0)
                theirs = SGDRegressor(alpha=alpha, random_state=0)
                best, classes = TorchLinearRegressor(alpha=alpha), {}
            else:
                ours = TorchSoftmaxClassifier(alpha=alpha, random_state=0)
                theirs = SGDClassifier(loss="log_loss", alpha=alpha, random_state=0)
                best, classes = TorchSoftmaxClassifier(alpha=alpha), {"classes": np.unique(y)}
            for some in np.array_split(index, N_CHUNKS):
                ours.partial_fit(X[some], y[some], **classes)
                theirs.partial_fit(Z[some], y[some], **classes)
            losses = [
                loss(ours, X, y, regression),
                loss(theirs, Z, y, regression),
                loss(best.fit(X, y), X, y, regression),
            ]
            rows.append([f"{name}, {order}", *(f"{value:.4f}" for value in losses)])
    print_table([f"{N_CHUNKS} chunks", "ours, raw", "SGD*, standardised", "best fit"], rows)
