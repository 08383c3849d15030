"""Cost of the textbook loop: skorchless against hand-written loops of the same batches.

    python docs/benchmarks/step.py [--repeats 5] [--skorch]

Every run makes the same number of passes over the same rows in batches of the same size, on the
CPU. Our times are those of `fit`, so validation, losses and everything else are included; the
hand-written loops record nothing. skorch is only measured where it is installed and asked for.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from tools import print_setting, print_table, side_by_side
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

RATE = 0.01

#: name: rows, columns, classes (1 for regression), batch, passes
SIZES = {
    "1000x2 regression, batch 10": (1000, 2, 1, 10, 20),
    "1000x2x3, batch 10": (1000, 2, 3, 10, 20),
    "20000x54x7, batch 64": (20000, 54, 7, 64, 3),
    "60000x784x10, batch 256": (60000, 784, 10, 256, 2),
    "60000x784x10, batch 1024": (60000, 784, 10, 1024, 2),
}


def make_data(n: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of noise with targets that depend on them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32)
    scores = X @ rng.standard_normal((d, classes), dtype=np.float32)
    y = scores[:, 0] if classes == 1 else scores.argmax(axis=1)
    return X, y


def ours(X: np.ndarray, y: np.ndarray, optimizer: str, batch: int, passes: int) -> object:
    """One fit."""
    kind = TorchLinearRegressor if y.dtype == np.float32 else TorchSoftmaxClassifier
    model = kind(
        optimizer=optimizer,
        learning_rate=RATE,
        alpha=0.0,
        batch_size=batch,
        max_iter=passes,
        tol=None,
        random_state=0,
    )
    return model.fit(X, y)


def shuffled(X: Tensor, y: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches by slicing a permutation."""
    order = torch.randperm(len(X))
    for start in range(0, len(X), batch):
        rows = order[start : start + batch]
        yield X[rows], y[rows]


def by_hand(
    X: np.ndarray,
    y: np.ndarray,
    optimizer: str,
    passes: int,
    batches: Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]],
) -> None:
    """The loop that people write themselves."""
    features, targets = torch.from_numpy(X), torch.from_numpy(y)
    regression = targets.is_floating_point()
    targets = targets.unsqueeze(1) if regression else targets
    model = nn.Linear(X.shape[1], 1 if regression else int(y.max()) + 1)
    loss_of = nn.MSELoss() if regression else nn.CrossEntropyLoss()
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    stepper = rule(model.parameters(), lr=RATE)
    for _ in range(passes):
        for rows, wanted in batches(features, targets):
            loss = loss_of(model(rows), wanted)
            stepper.zero_grad()
            loss.backward()
            stepper.step()


def with_skorch(X: np.ndarray, y: np.ndarray, optimizer: str, batch: int, passes: int) -> object:
    """The same with skorch, silent and without its hold-out."""
    from skorch import NeuralNetClassifier, NeuralNetRegressor

    regression = y.dtype == np.float32
    kind = NeuralNetRegressor if regression else NeuralNetClassifier
    net = kind(
        nn.Linear,
        module__in_features=X.shape[1],
        module__out_features=1 if regression else int(y.max()) + 1,
        criterion=nn.MSELoss if regression else nn.CrossEntropyLoss,
        optimizer={"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer],
        lr=RATE,
        batch_size=batch,
        max_epochs=passes,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    return net.fit(X, y[:, None] if regression else y)


def contenders(
    X: np.ndarray, y: np.ndarray, optimizer: str, batch: int, passes: int, skorch: bool
) -> dict[str, Callable[[], object]]:
    """What runs side by side."""

    def loaded(rows: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(DataLoader(TensorDataset(rows, wanted), batch, shuffle=True))

    def sliced(rows: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return shuffled(rows, wanted, batch)

    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(X, y, optimizer, batch, passes),
        "by hand": lambda: by_hand(X, y, optimizer, passes, sliced),
        "DataLoader": lambda: by_hand(X, y, optimizer, passes, loaded),
    }
    if skorch:
        runs["skorch"] = lambda: with_skorch(X, y, optimizer, batch, passes)
    return runs


def compare_steps(repeats: int, skorch: bool) -> None:
    """Print a table of times and ratios."""
    rows = []
    for name, (n, d, classes, batch, passes) in SIZES.items():
        X, y = make_data(n, d, classes)
        for optimizer in ("sgd", "adam"):
            runs = contenders(X, y, optimizer, batch, passes, skorch)
            times = side_by_side(runs, repeats)
            steps = passes * -(-n // batch)
            cells = [name, optimizer, f"{1e6 * times['ours'] / steps:.1f}"]
            cells += [f"{1e3 * times['ours']:.1f}"]
            for peer in ("by hand", "DataLoader", "skorch"):
                if peer in times:
                    cells += [f"{1e3 * times[peer]:.1f}", f"{times[peer] / times['ours']:.1f}x"]
                else:
                    cells += ["", ""]
            rows.append(cells)
    print_table(
        [
            "size",
            "rule",
            "ours, us/step",
            "ours, ms",
            "by hand, ms",
            "ratio",
            "DataLoader, ms",
            "ratio",
            "skorch, ms",
            "ratio",
        ],
        rows,
    )


def compare_predict(repeats: int) -> None:
    """Print the time of predict beside scikit-learn's."""
    X, y = make_data(100_000, 20, 1)
    X = X.astype(np.float64)
    our, their = TorchLinearRegressor().fit(X, y), LinearRegression().fit(X, y)
    times = side_by_side(
        {"ours": lambda: our.predict(X), "theirs": lambda: their.predict(X)}, 20 * repeats
    )
    print_table(
        ["predict 100000x20", "ours, ms", "LinearRegression, ms", "ratio"],
        [
            [
                "float64",
                f"{1e3 * times['ours']:.2f}",
                f"{1e3 * times['theirs']:.2f}",
                f"{times['ours'] / times['theirs']:.2f}",
            ]
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skorch", action="store_true")
    arguments = parser.parse_args()
    print_setting()
    compare_steps(arguments.repeats, arguments.skorch)
    compare_predict(arguments.repeats)
