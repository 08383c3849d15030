"""Fits on a GPU beside the same fits on this machine's CPU.

    python docs/benchmarks/gpu.py

Times are medians of five fits from tensors that lie where the fit runs, and of five from NumPy
arrays, which have to travel first.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from optimum import labels, rows_of_condition
from tools import print_setting, print_table, side_by_side

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

REPEATS = 5


def measure(title: str, kind: Any, X: np.ndarray, y: np.ndarray, **parameters: Any) -> list[str]:
    """Milliseconds on the CPU and the GPU, there also from NumPy; how far the objectives differ."""
    models = {name: kind(**parameters, device=name) for name in ("cpu", "cuda")}
    travelling = kind(**parameters, device="cuda")
    X_gpu, y_gpu = torch.from_numpy(X).cuda(), torch.from_numpy(y).cuda()
    seconds = side_by_side(
        {
            "cpu": partial(models["cpu"].fit, X, y),
            "cuda": partial(models["cuda"].fit, X_gpu, y_gpu),
            "from NumPy": partial(travelling.fit, X, y),
        },
        REPEATS,
    )
    ends = [model.loss_curve_[-1] for model in models.values()]
    return [
        title,
        *(f"{1e3 * seconds[name]:.1f}" for name in seconds),
        f"{seconds['cpu'] / seconds['cuda']:.1f}x",
        f"{abs(ends[1] - ends[0]) / abs(ends[0]):.0e}",
    ]


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(7)
    rows = []
    for n, d, k, condition in [(60000, 784, 10, 1e4), (200000, 54, 7, 1e3), (1000000, 100, 2, 100)]:
        X = rows_of_condition(rng, n, d, condition)
        y = labels(rng, X, k)
        rows.append(measure(f"softmax {n}x{d}x{k}", TorchSoftmaxClassifier, X, y))
    X = rows_of_condition(rng, 60000, 784, 100)
    y = labels(rng, X, 10)
    for optimizer in ("sgd", "adam"):
        rows.append(
            measure(
                f"{optimizer}, 5 epochs, batch 1024, 60000x784x10",
                TorchSoftmaxClassifier,
                X,
                y,
                optimizer=optimizer,
                learning_rate=1e-3,
                batch_size=1024,
                max_iter=5,
                tol=None,
                random_state=0,
            )
        )
    X = rows_of_condition(rng, 1000000, 200, 1e3)
    y = X @ rng.standard_normal(200).astype(np.float32)
    rows.append(measure("least squares 1000000x200", TorchLinearRegressor, X, y))
    print_setting()
    print(f"{torch.cuda.get_device_name()}\n")
    header = [
        "fit",
        "CPU, ms",
        "GPU, ms",
        "GPU from NumPy, ms",
        "CPU / GPU",
        "objectives differ by",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here.")
    main()
