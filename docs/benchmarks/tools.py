"""What the benchmarks share: timing side by side, and saying where they ran."""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import sklearn
import torch

import skorchless

#: Seconds between two runs: the worker threads of one library spin for a while after its work, and
#: would slow down the next one's.
PAUSE = 0.1


def side_by_side(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that noise hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # what is compiled or cached on first use is paid here
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("| " + " | ".join(cells) + " |")
    print()


def setting() -> str:
    """Date, versions and threads."""
    return (
        f"{date.today()}: skorchless {skorchless.__version__}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} threads"
    )


def print_setting() -> None:
    """Print date, versions and threads."""
    print(f"{setting()}\n")
