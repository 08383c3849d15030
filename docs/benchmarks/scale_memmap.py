"""A file larger than memory, or than is wanted of it: passes over a memory map and over an array.

Each fit runs in a process of its own, which prints its figures.
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from tools import print_table

from skorchless import TorchSoftmaxClassifier

MIB = 2**20
N_COLUMNS, N_CLASSES, BLOCK = 200, 10, 2**16

#: Passes of the two fits whose difference in time is that of the passes between them.
RULES = {
    "auto": ({"max_iter": 2}, {"max_iter": 6}),
    "sgd": ({"optimizer": "sgd", "max_iter": 1}, {"optimizer": "sgd", "max_iter": 3}),
}
OPTIMUM = {"auto": {}, "sgd": {"optimizer": "sgd", "max_iter": 3, "tol": None}}


def memmap(*, small: bool, folder: str) -> None:
    """Epochs, objectives and growth, with limited memory and in the page cache."""
    for size, limit in [(32 * MIB, None)] if small else [(2048 * MIB, 1024), (8192 * MIB, None)]:
        with tempfile.TemporaryDirectory(dir=folder) as files:
            n_rows = write(Path(files), size)
            rows = []
            for rule in RULES:
                found = {
                    "map": measure("map", rule, files, limit),
                    "array": measure("array", rule, files, None),
                }
                speed = f"{found['array']['pass'] / found['map']['pass']:.0%}"
                for kind, figures in found.items():
                    rows.append(
                        [
                            f"{rule}, {kind}",
                            f"{figures['pass']:.2f}",
                            speed if kind == "map" else "",
                            f"{figures['objective']:.7f}",
                            f"{figures['growth']:.0f}",
                        ]
                    )
            title = f"{size // MIB} MiB, {n_rows}x{N_COLUMNS}x{N_CLASSES} float32"
            if limit is not None:
                title += f", map in {limit} MiB (RLIMIT_DATA)"
            print_table([title, "s/pass", "speed", "objective", "growth, MiB"], rows)


def write(folder: Path, size: int) -> int:
    """A file of so many bytes, sorted by nothing, and its labels."""
    n_rows, rng = size // (4 * N_COLUMNS), np.random.default_rng(0)
    W = rng.standard_normal((N_COLUMNS, N_CLASSES), dtype=np.float32) / 5
    X = np.lib.format.open_memmap(
        folder / "X.npy", mode="w+", dtype=np.float32, shape=(n_rows, N_COLUMNS)
    )
    y = np.empty(n_rows, dtype=np.int64)
    for start in range(0, n_rows, BLOCK):
        block = X[start : start + BLOCK]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        y[start : start + BLOCK] = (block @ W + rng.gumbel(size=(len(block), N_CLASSES))).argmax(1)
    X.flush()
    np.save(folder / "y.npy", y)
    return n_rows


def measure(kind: str, rule: str, folder: str, limit: int | None) -> dict[str, float]:
    """What a process of its own finds."""
    command = [sys.executable, __file__, kind, rule, folder, str(limit or 0)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("pass", "objective", "growth")
    return dict(zip(names, map(float, output.split()), strict=True))


def anonymous() -> int:
    """Bytes of this process in memory that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def run(kind: str, rule: str, folder: str, limit: int) -> None:
    """Print seconds a pass, the objective and the growth in MiB."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit * MIB, limit * MIB))
    if kind == "array":  # as if it were small: a permutation of all rows, targets that are kept
        from skorchless.data import limits

        limits.LARGE_BYTES = 2**62
    X = np.load(Path(folder) / "X.npy", mmap_mode="r" if kind == "map" else None)
    y = np.load(Path(folder) / "y.npy")
    TorchSoftmaxClassifier(random_state=0, **OPTIMUM[rule]).fit(np.array(X[:5000]), y[:5000])

    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous())

    observer = threading.Thread(target=watch)
    observer.start()
    model = TorchSoftmaxClassifier(random_state=0, **OPTIMUM[rule]).fit(X, y)
    done.set()
    observer.join()

    seconds = [np.inf, np.inf]  # the best of two turns: what else runs only ever costs time
    for _ in range(2):
        for i, parameters in enumerate(RULES[rule]):
            begun = time.perf_counter()
            TorchSoftmaxClassifier(random_state=0, tol=None, **parameters).fit(X, y)
            seconds[i] = min(seconds[i], time.perf_counter() - begun)
    passes = RULES[rule][1]["max_iter"] - RULES[rule][0]["max_iter"]
    print((seconds[1] - seconds[0]) / passes, model.loss_curve_[-1], (most - before) / MIB)


if __name__ == "__main__":
    run(*sys.argv[1:4], int(sys.argv[4]))
