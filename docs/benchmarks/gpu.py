"""Fits on a GPU: beside those of others, beside a CPU, and beside what the device can do at best.

    python docs/benchmarks/gpu.py [part ...] [--small] [--device cuda]

Without parts all of them run: `device`, `logistic`, `softmax`, `grid`, `steps` and `cpu`. Tensors
lie on the device before a fit begins. Times are medians of three fits after a first one. The gap is
(objective - least) / least over the contenders of a row, all evaluated by the same function.

cuML and cyanure_gpu take part where they are installed. `--small` shows that everything runs.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ["SCIPY_ARRAY_API"] = "1"  # read by SciPy as it is imported

import numpy as np
import torch
from optimum import labels, rows_of_condition
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from tools import print_setting, print_table
from torch import Tensor
from torch.nn import functional as F

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

REPEATS = 3
ALPHA = 1e-4
#: Rows that the objective, and L-BFGS by hand, take at once.
BLOCK_NUMBERS = 2**28

#: Rows, features and classes.
SIZES = {"logistic": (2_500_000, 1155, 2), "softmax": (1_280_000, 2048, 1000)}
SMALL_SIZES = {"logistic": (5000, 20, 2), "softmax": (3000, 20, 10)}

Model = tuple[Tensor, Tensor]  # coefficients (K, D) and intercepts (K,); one row for two classes


class Bench:
    """Where to run, and how large.

    Parameters
    ----------
    device : torch.device
    small : bool
    """

    def __init__(self, device: torch.device, small: bool) -> None:
        self.device, self.small = device, small
        self.sizes = SMALL_SIZES if small else SIZES

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        torch.zeros(1, device=self.device).item()

    def seconds(self, run: Callable[[], object], repeats: int = REPEATS) -> float:
        """Median time of a run, after a first one."""
        run()
        times = []
        for _ in range(repeats):
            self.wait()
            begun = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def rows(self, n: int, d: int, classes: int) -> tuple[Tensor, Tensor]:
        """Correlated columns of several scales, float32, and labels that are drawn."""
        generator = torch.Generator(self.device).manual_seed(0)
        draw = partial(torch.randn, generator=generator, device=self.device)
        X = draw(n, d).mul_(torch.logspace(-1, 1, d, device=self.device))
        X += draw(n, 1)
        truth = draw(d, classes) / d**0.5
        y = torch.empty(n, dtype=torch.int64, device=self.device)
        for some in blocks(n, classes):
            noise = torch.rand(len(y[some]), classes, generator=generator, device=self.device)
            y[some] = (X[some] @ truth - noise.log_().neg_().log_()).argmax(dim=1)
        return X, y


def blocks(n: int, width: int) -> Iterator[slice]:
    """Rows that are taken at once where each has so many numbers."""
    size = max(1, BLOCK_NUMBERS // width)
    return (slice(start, start + size) for start in range(0, n, size))


def sum_of_losses(raw: Tensor, y: Tensor) -> Tensor:
    if raw.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(raw[:, 0], y.to(raw.dtype), reduction="sum")
    return F.cross_entropy(raw, y, reduction="sum")


def objective(X: Tensor, y: Tensor, model: Model) -> float:
    """Mean loss and penalty of a model."""
    coef, intercept = (part.to(X) for part in model)
    total = 0.0
    for some in blocks(len(X), len(coef)):
        total += float(sum_of_losses(torch.addmm(intercept, X[some], coef.T), y[some]))
    return total / len(X) + 0.5 * ALPHA * float(coef.double().square().sum())


# The contenders: each fits and returns its model.


def ours(X: Tensor, y: Tensor) -> Model:
    model = TorchSoftmaxClassifier(alpha=ALPHA).fit(X, y)
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def lbfgs_of_torch(X: Tensor, y: Tensor) -> Model:
    """`torch.optim.LBFGS` with its own line search, gradients by autograd, some rows at a time."""
    classes = int(y.max()) + 1
    outputs = 1 if classes == 2 else classes
    coef = torch.zeros(outputs, X.shape[1], device=X.device, requires_grad=True)
    intercept = torch.zeros(outputs, device=X.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [coef, intercept], max_iter=100, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        total = 0.5 * ALPHA * coef.square().sum()
        total.backward()
        total = total.detach()
        for some in blocks(len(X), outputs):
            loss = sum_of_losses(torch.addmm(intercept, X[some], coef.T), y[some]) / len(X)
            loss.backward()
            total += loss.detach()
        return total

    optimizer.step(evaluate)
    return coef.detach(), intercept.detach()


def logistic_regression(X: Tensor, y: Tensor) -> Model:
    """scikit-learn's, on tensors of the device."""
    with config_context(array_api_dispatch=True):
        model = LogisticRegression(C=1.0 / (ALPHA * len(X)), max_iter=1000).fit(X, y)
    return model.coef_, model.intercept_


def cuml(X: Tensor, y: Tensor) -> Model:
    from cuml.linear_model import LogisticRegression as OfCuml

    model = OfCuml(C=1.0 / (ALPHA * len(X)), output_type="numpy").fit(X, y)
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def cyanure_gpu(X: Tensor, y: Tensor) -> Model:
    """It takes NumPy arrays, and brings them to the device itself."""
    from cyanure_pytorch.estimators import LogisticRegression as OfCyanure

    model = OfCyanure(lambda_1=ALPHA, multi_class="multinomial")
    model.fit(X.numpy(force=True), y.numpy(force=True))
    coef = np.asarray(model.coef_, dtype=np.float32)
    coef = coef if coef.shape[-1] == X.shape[1] else coef.T
    intercept = np.asarray(model.intercept_, dtype=np.float32)
    return torch.from_numpy(np.atleast_2d(coef)), torch.from_numpy(np.atleast_1d(intercept))


CONTENDERS = {
    "skorchless": ours,
    "torch.optim.LBFGS": lbfgs_of_torch,
    "LogisticRegression": logistic_regression,
    "cuML": cuml,
    "cyanure_gpu": cyanure_gpu,
}


def at_best(bench: Bench, X: Tensor, outputs: int) -> tuple[float, float]:
    """Seconds in which memory delivers X twice, and of both products of a pass as bare `mm`."""
    weights = torch.zeros(X.shape[1], outputs, device=X.device)
    some = next(iter(blocks(len(X), outputs)))
    part = X[some]
    raw = torch.empty(len(part), outputs, device=X.device)

    def products() -> None:
        torch.mm(part, weights, out=raw)
        torch.mm(raw.T, part)

    of_products = bench.seconds(products) * len(X) / len(part)
    return 2 * X.nbytes / bandwidth(bench), of_products


def bandwidth(bench: Bench) -> float:
    """Bytes a second that memory delivers to a sum."""
    numbers = torch.zeros(2**20 if bench.small else 2**28, device=bench.device)
    return numbers.nbytes / bench.seconds(numbers.sum, repeats=10)


def of_device(bench: Bench) -> None:
    """Memory bandwidth, and products of float32 in full precision."""
    n = 256 if bench.small else 8192
    square = torch.randn(n, n, device=bench.device)
    rate = 2 * n**3 / bench.seconds(lambda: torch.mm(square, square), repeats=10)
    launch = torch.zeros(1, device=bench.device)
    many = bench.seconds(lambda: [launch.add_(1.0) for _ in range(1000)]) / 1000
    header = ["memory, GB/s", "mm of float32, TFLOP/s", "launch, us"]
    print_table(
        header, [[f"{bandwidth(bench) / 1e9:.0f}", f"{rate / 1e12:.1f}", f"{1e6 * many:.1f}"]]
    )


def of_classifier(name: str, bench: Bench) -> None:
    """One large problem, every contender."""
    n, d, classes = bench.sizes[name]
    X, y = bench.rows(n, d, classes)
    found: dict[str, tuple[float, float] | str] = {}
    for contender, fit in CONTENDERS.items():
        models: list[Model] = []
        try:
            seconds = bench.seconds(lambda fit=fit, to=models: to.append(fit(X, y)))
            found[contender] = seconds, objective(X, y, models[-1])
        except ImportError:
            found[contender] = "not installed"
        except Exception as error:  # say so in its row, and go on with the others
            found[contender] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    results = [result for result in found.values() if not isinstance(result, str)]
    least, ours_took = min(value for _, value in results), results[0][0]
    rows = []
    for contender, result in found.items():
        if isinstance(result, str):
            rows.append([contender, result, "", ""])
            continue
        seconds, value = result
        gap = (value - least) / least
        rows.append([contender, f"{seconds:.3f}", f"{seconds / ours_took:.1f}x", f"{gap:.0e}"])
    reads, products = at_best(bench, X, 1 if classes == 2 else classes)
    print(f"{name}, {n} x {d}, {classes} classes. A pass at best: {1e3 * reads:.1f} ms to read X")
    print(f"twice, {1e3 * products:.1f} ms for its two products as bare torch.mm.\n")
    print_table(["contender", "s", "of ours", "gap"], rows)


def of_grid(bench: Bench) -> None:
    """100 candidates on three folds at once, beside one fit a fold and candidate."""
    n, d, classes = (2000, 10, 3) if bench.small else (200_000, 100, 10)
    X, y = bench.rows(n, d, classes)
    rows = []
    for name, model, grid in [
        ("auto, alpha", TorchSoftmaxClassifier(), {"alpha": np.logspace(-6, -1, 100)}),
        (
            "sgd, 5 epochs, rate",
            TorchSoftmaxClassifier(optimizer="sgd", batch_size=1024, max_iter=5, tol=None),
            {"learning_rate": np.logspace(-5, -2, 100)},
        ),
    ]:
        values = {name: column.tolist() for name, column in grid.items()}
        search = BatchedGridSearchCV(model, values, cv=3, refit=False, error_score=np.nan)
        (parameter, some), *_ = values.items()
        alone = model.set_params(**{parameter: some[50]})
        of_search = bench.seconds(lambda search=search: search.fit(X, y), repeats=1)
        of_fit = bench.seconds(lambda alone=alone: alone.fit(X, y))
        each = 2 / 3 * 300 * of_fit  # a fold's training rows are two thirds
        rows.append([name, f"{of_search:.2f}", f"{each:.2f}", f"{each / of_search:.1f}x"])
    header = [f"grid of 100, {n} x {d} x {classes}", "search, s", "300 fits, s", "ratio"]
    print_table(header, rows)


def by_hand(X: Tensor, y: Tensor, classes: int, batch: int, name: str, compiled: bool) -> float:
    """Steps a second of a loop around `nn.Linear`, batches by slices of a permutation."""
    model = torch.nn.Linear(X.shape[1], classes, device=X.device)
    kind = torch.optim.SGD if name == "sgd" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=1e-3)

    def step(rows: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(rows), target).backward()
        optimizer.step()

    run = torch.compile(step) if compiled else step
    order = torch.randperm(len(X), device=X.device)
    parts = order[: len(X) // batch * batch].split(batch)  # another size would be compiled anew
    for chosen in parts[:3]:
        run(X[chosen], y[chosen])
    model.bias.detach().cpu()  # waits
    begun = time.perf_counter()
    for chosen in parts:
        run(X[chosen], y[chosen])
    model.bias.detach().cpu()
    return len(parts) / (time.perf_counter() - begun)


def of_steps(bench: Bench) -> None:
    """Steps a second of the textbook updates."""
    rows = []
    n = 5000 if bench.small else 600_000
    X, y = bench.rows(n, 20 if bench.small else 784, 10)
    for batch in (256, 1024):
        for name in ("sgd", "adam"):
            model = TorchSoftmaxClassifier(
                optimizer=name, learning_rate=1e-3, batch_size=batch, tol=None, random_state=0
            )
            short, long = (
                bench.seconds(lambda e=epochs, m=model: m.set_params(max_iter=e).fit(X, y))
                for epochs in (1, 3)
            )
            per_second = 2 * -(-n // batch) / (long - short)
            others = []
            for compiled in (False, True):
                try:
                    rate = by_hand(X, y, 10, batch, name, compiled)
                    others += [f"{rate:.0f}", f"{per_second / rate:.1f}x"]
                except Exception as error:  # torch.compile needs a compiler of its own
                    others += [type(error).__name__, ""]
            rows.append([f"{name}, batch {batch}", f"{per_second:.0f}", *others])
    header = ["steps a second", "ours", "by hand", "ratio", "torch.compile", "ratio"]
    print_table(header, rows)


def of_cpu(bench: Bench) -> None:
    """The same fits on this machine's CPU, and from NumPy arrays, which have to travel first."""
    rng = np.random.default_rng(7)
    rows = []
    for n, d, k, condition in (
        [(2000, 20, 3, 100.0)]
        if bench.small
        else [(60000, 784, 10, 1e4), (200000, 54, 7, 1e3), (1000000, 100, 2, 100.0)]
    ):
        X = rows_of_condition(rng, n, d, condition)
        y = labels(rng, X, k)
        rows.append(beside_cpu(bench, f"softmax {n}x{d}x{k}", TorchSoftmaxClassifier, X, y))
    n, d = (2000, 20) if bench.small else (1000000, 200)
    X = rows_of_condition(rng, n, d, 1e3)
    y = X @ rng.standard_normal(d).astype(np.float32)
    rows.append(beside_cpu(bench, f"least squares {n}x{d}", TorchLinearRegressor, X, y))
    header = [
        "fit",
        "CPU, ms",
        "GPU, ms",
        "GPU from NumPy, ms",
        "CPU / GPU",
        "objectives differ by",
    ]
    print_table(header, rows)


def beside_cpu(bench: Bench, title: str, kind: Any, X: np.ndarray, y: np.ndarray) -> list[str]:
    """Milliseconds on the CPU and the GPU, there also from NumPy; how far the objectives differ."""
    here, there, travelling = kind(device="cpu"), kind(), kind(device=bench.device)
    on_device = [torch.from_numpy(array).to(bench.device) for array in (X, y)]
    seconds = [
        bench.seconds(lambda: here.fit(X, y)),
        bench.seconds(lambda: there.fit(*on_device)),
        bench.seconds(lambda: travelling.fit(X, y)),
    ]
    ends = [model.loss_curve_[-1] for model in (here, there)]
    return [
        title,
        *(f"{1e3 * each:.1f}" for each in seconds),
        f"{seconds[0] / seconds[1]:.1f}x",
        f"{abs(ends[1] - ends[0]) / max(abs(ends[0]), 1e-12):.0e}",
    ]


PARTS: dict[str, Callable[[Bench], None]] = {
    "device": of_device,
    "logistic": partial(of_classifier, "logistic"),
    "softmax": partial(of_classifier, "softmax"),
    "grid": of_grid,
    "steps": of_steps,
    "cpu": of_cpu,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help="all by default")
    parser.add_argument("--small", action="store_true", help="tiny tables, to see that they run")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    strange = sorted(set(arguments.parts) - set(PARTS))
    if strange:
        parser.error(f"unknown parts {strange}; there are {list(PARTS)}")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here.")
    print_setting()
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else device}\n")
    for part in arguments.parts or PARTS:
        PARTS[part](Bench(device, arguments.small))


if __name__ == "__main__":
    main()
