"""Problems that people have: bundled data as it comes, what makes fits go wrong, and large ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn import datasets


@dataclass
class Problem:
    """Rows, targets, and whether they are classes."""

    name: str
    X: np.ndarray
    y: np.ndarray

    @property
    def classifies(self) -> bool:
        """Whether y holds classes."""
        return self.y.dtype.kind in "iu"


def bundled() -> Iterator[Problem]:
    """Scikit-learn's own small tables, raw."""
    for name in ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        yield Problem(name, X, y)


def _classes(
    rng: np.random.Generator, X: np.ndarray, k: int, *, sharpness: float = 2.0
) -> np.ndarray:
    """Labels drawn from a softmax of standardised X."""
    deviation = X.std(axis=0)
    Z = (X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    scores = sharpness * Z @ rng.standard_normal((X.shape[1], k)) / np.sqrt(X.shape[1])
    return (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def synthetic() -> Iterator[Problem]:
    """Twenty tables, each with a defect of its own."""
    rng = np.random.default_rng(2026)
    normal = rng.standard_normal

    def scaled(n: int, d: int, dtype: type = np.float64) -> np.ndarray:
        return (normal((n, d)) * 10 ** rng.uniform(-4, 4, d)).astype(dtype)

    def correlated(n: int, d: int, condition: float) -> np.ndarray:
        basis, _ = np.linalg.qr(normal((d, d)))
        return normal((n, d)) @ (basis * np.logspace(0, -np.log10(condition) / 2, d)) @ basis.T

    X = scaled(3000, 20)
    yield Problem("scales 1e-4 to 1e4, 5 classes", X, _classes(rng, X, 5))
    X = scaled(3000, 20, np.float32)
    yield Problem("the same in float32, 3 classes", X, _classes(rng, X, 3))
    X = scaled(2000, 15)
    yield Problem("the same, regression", X, (X / X.std(axis=0)) @ normal(15) + normal(2000))
    X = 1e4 + normal((3000, 10))
    yield Problem("means of 1e4, 4 classes", X, _classes(rng, X, 4))
    X = (1e4 + normal((3000, 10))).astype(np.float32)
    yield Problem("means of 1e4 in float32, binary", X, _classes(rng, X, 2))
    X = 1e4 + normal((2000, 10))
    yield Problem("means of 1e4, regression", X, (X - 1e4) @ normal(10) + 5 + normal(2000))
    X = normal((1500, 8))
    X = np.hstack([X, X[:, :4]])
    yield Problem("duplicated columns, 3 classes", X, _classes(rng, X, 3))
    X = normal((1500, 10))
    X = np.hstack([X, X @ normal((10, 5)) + 1e-4 * normal((1500, 5))])
    yield Problem("collinear columns, binary", X, _classes(rng, X, 2))
    yield Problem("collinear columns, regression", X, X[:, :3].sum(axis=1) + normal(1500))
    X = normal((1000, 6))
    X[:, 2] = 7.0
    X[:, 4] = 0.0
    yield Problem("constant columns, 3 classes", X, _classes(rng, X, 3))
    X = normal((60, 300))
    yield Problem("fewer rows than columns, 3 classes", X, _classes(rng, X, 3))
    X = normal((80, 200)).astype(np.float32)
    yield Problem("fewer rows than columns, float32, binary", X, _classes(rng, X, 2))
    yield Problem("fewer rows than columns, regression", X[:50], X[:50, 0] + normal(50))
    X = normal((20000, 10))
    y = (X[:, 0] + 0.5 * X[:, 1] > np.quantile(X[:, 0] + 0.5 * X[:, 1], 0.999)).astype(int)
    flip = rng.random(20000) < 2e-4
    yield Problem("classes at 1:1000, binary", X, np.where(flip, 1 - y, y))
    y = rng.choice(3, size=20000, p=[0.949, 0.05, 0.001])
    yield Problem("classes at 1:1000, 3 classes", X + y[:, None], y)
    X = normal((600, 10))
    yield Problem("separable, binary", X, (X @ normal(10) > 0).astype(int))
    yield Problem("separable, 4 classes", X, (X @ normal((10, 4))).argmax(axis=1))
    X = normal((10000, 30))
    yield Problem("100 classes", X, _classes(rng, X, 100, sharpness=5.0))
    X = rng.standard_t(2, (4000, 15))
    yield Problem("heavy tails, 4 classes", X, _classes(rng, X, 4))
    X = correlated(5000, 40, 1e6).astype(np.float32)
    yield Problem("condition 1e6 in float32, 6 classes", X, _classes(rng, X, 6))


def rows_of_condition(
    rng: np.random.Generator, n: int, d: int, condition: float, dtype: type = np.float32
) -> np.ndarray:
    """Normal rows whose second moments have this condition number."""
    basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
    spectrum = np.logspace(0, -0.5 * np.log10(condition), d)
    mixing = (basis * spectrum) @ basis.T * np.sqrt(d / np.sum(spectrum**2))
    return rng.standard_normal((n, d), dtype=np.float32).astype(dtype) @ mixing.astype(dtype)


def labels(rng: np.random.Generator, X: np.ndarray, k: int) -> np.ndarray:
    """Drawn from a softmax model."""
    scores = 2.0 * X @ (rng.standard_normal((X.shape[1], k)) / np.sqrt(X.shape[1])).astype(X.dtype)
    return (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def sparse_signal(n: int, d: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent columns, and raw predictions of a few of them, shape ``(n, outputs)``."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    return X, X[:, : d // 20] @ rng.standard_normal((d // 20, outputs))


def regression(n: int, d: int, targets: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows and noisy targets; one of shape ``(n,)``."""
    X, signal = sparse_signal(n, d, targets)
    noise = np.random.default_rng(1).standard_normal(signal.shape)
    y = signal + signal.std(axis=0) / 3 * noise
    return X, y[:, 0] if targets == 1 else y


def classification(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes."""
    X, signal = sparse_signal(n, d, n_classes)
    noise = np.random.default_rng(1).gumbel(size=signal.shape)
    return X, (3.0 * signal / signal.std() + noise).argmax(axis=1)


def largest_alpha(X: np.ndarray, y: np.ndarray, l1_ratio: float) -> float:
    """The least alpha that leaves no coefficient."""
    target = y[:, np.newaxis] if y.dtype.kind == "f" else np.eye(y.max() + 1)[y]
    if y.dtype.kind != "f" and y.max() == 1:
        target = target[:, 1:]
    covariance = X.T @ (target - target.mean(axis=0)) / len(X)
    return float(np.abs(covariance).max() / l1_ratio)


def embeddings(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in float32 that look like features of an image model, and their classes.

    They have unit norm, a mean in common, noise along few directions, and means of the classes in a
    subspace of 64 dimensions.
    """
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
    spectrum = (1.0 + np.arange(d)) ** -0.5
    mixing = (basis * (spectrum / np.linalg.norm(spectrum))) @ basis.T
    directions = rng.standard_normal((64, d)) / np.sqrt(64 * d)
    means = 1.5 * rng.standard_normal(d) / np.sqrt(d)
    means = means + 0.15 * rng.standard_normal((n_classes, 64)) @ directions
    y = rng.integers(0, n_classes, n)
    X = rng.standard_normal((n, d), dtype=np.float32) @ mixing.astype(np.float32)
    X += means.astype(np.float32)[y]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X, y
