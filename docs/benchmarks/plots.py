"""Draw the tables of the benchmarks page: ``python docs/benchmarks/plots.py``.

The figures are read from README.md, so the pictures show what the tables say.
"""

import argparse
import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

HERE = Path(__file__).parent


def tables_of(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each a list of rows."""
    tables = []
    lines = iter(page.splitlines())
    for line in lines:
        if names := cells(line):
            next(lines)  # the rule below the names
            rows = itertools.takewhile(bool, map(cells, lines))
            tables.append([dict(zip(names, row, strict=True)) for row in rows])
    return tables


def cells(line: str) -> list[str]:
    """What stands between the bars of a table's row; nothing of any other line."""
    return [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("|") else []


def draw_step(rows: list[dict[str, str]]) -> plt.Figure:
    """How many times as long as ours the others take, on a logarithmic scale."""
    names = [f"{row['size']}, {row['rule']}" for row in rows]
    others = [column.removesuffix(", ms") for column in rows[0] if column.endswith(", ms")][1:]
    figure, ax = plt.subplots(figsize=(8, 5.5), layout="constrained")
    height = 0.8 / len(others)
    for i, other in enumerate(others):
        times = [float(row[f"{other}, ms"]) / float(row["ours, ms"]) for row in rows]
        ax.barh([k + i * height for k in range(len(rows))], times, height, label=other)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel="time, in multiples of skorchless's")
    ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.set_yticks([k + 0.4 - height / 2 for k in range(len(rows))], names)
    ax.invert_yaxis()
    ax.legend()
    return figure


def draw_times(times: dict[str, float]) -> plt.Figure:
    """A bar for each contender, in multiples of our time."""
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.25 * len(times)), layout="constrained")
    bars = ax.barh(list(times), [time - 1 for time in times.values()], left=1)
    ax.bar_label(bars, [f" {time:.3g}" for time in times.values()], fontsize="small")
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel="time, in multiples of skorchless's")
    ax.margins(x=0.15)
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    ticks += [tick for tick in (100, 200, 500, 1000) if tick <= max(times.values())]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.invert_yaxis()
    return figure


def of_searches(tables: list[list[dict[str, str]]]) -> dict[str, float]:
    """Ratios of the tables with one search a row, the first being ours."""
    times = {}
    for table in tables:
        subject, *rest = table[0]
        if rest == ["seconds", "ratio"]:
            for row in table[1:]:
                times[f"{subject}: {row[subject]}"] = float(row["ratio"].rstrip("x"))
    return times


def of_optima(tables: list[list[dict[str, str]]]) -> dict[str, float]:
    """Ratios of the table of times to the optimum, in which others follow ours."""
    times, subject = {}, ""
    for row in next(table for table in tables if "of our time" in table[0]):
        if ratio := row["of our time"]:
            times[f"{subject}: {row['fit']}"] = float(ratio.rstrip("x"))
        else:
            subject = row["fit"]
    return times


#: Colours of those who are compared, by what their names contain; the first that does decides.
KINDS = {
    "specialised packages": (
        "celer",
        "cyanure",
        "glmnet",
        "glum",
        "jax",
        "Keras",
        "skglm",
        "sklearnex",
        "snapml",
    ),
    "written by hand": ("hand", "normal equations", "loop", "torch.optim"),
    "scikit-learn": ("",),
}


def of_peers(tables: list[list[dict[str, str]]]) -> dict[str, dict[str, float]]:
    """Times of the others, in multiples of ours, for each work of the table of peers.py."""
    rows = next(table for table in tables if "others, times ours" in table[0])
    found = {}
    for row in rows:
        times = [other.rpartition(" ") for other in row["others, times ours"].split(", ") if other]
        found[row["work"]] = {name: float(ratio) for name, _, ratio in times}
    return {work: times for work, times in found.items() if times}


def draw_peers(works: dict[str, dict[str, float]]) -> plt.Figure:
    """A line for each work, a dot for each of the others, and the name of the fastest."""
    figure, ax = plt.subplots(figsize=(8, 1.5 + 0.26 * len(works)), layout="constrained")
    dots: dict[str, list[tuple[float, int]]] = {kind: [] for kind in KINDS}
    for line, times in enumerate(works.values()):
        for name, ratio in times.items():
            kind = next(k for k, parts in KINDS.items() if any(part in name for part in parts))
            dots[kind].append((ratio, line))
        fastest = min(times, key=lambda name: times[name])
        place = (min(times.values()), line)
        offset = {"xytext": (-6, 0), "textcoords": "offset points"}
        ax.annotate(fastest, place, ha="right", va="center", fontsize="x-small", **offset)
    for kind, places in dots.items():
        ax.scatter(*zip(*places, strict=True), s=24, label=kind) if places else None
    ax.axvline(1, color="black", linewidth=1)
    ax.axvspan(1, 1e3, color="tab:green", alpha=0.06, zorder=0)
    ratios = [ratio for times in works.values() for ratio in times.values()]
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    ax.set(xscale="log", xlim=(min(ratios) / 5, 1.3 * max(ratios)))
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("time in multiples of skorchless's (above 1: skorchless is faster)")
    ax.set_yticks(range(len(works)), list(works))
    ax.grid(axis="y", linewidth=0.3)
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(KINDS), fontsize="small")
    return figure


def main() -> None:
    """Write the pictures beside the page, or into another folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    folder = parser.parse_args().folder
    matplotlib.rcParams["svg.hashsalt"] = "skorchless"  # the same figures give the same file
    tables = tables_of((HERE / "README.md").read_text())
    figures = {
        "step": draw_step(next(table for table in tables if "size" in table[0])),
        "grid": draw_times(of_searches(tables)),
        "optimum": draw_times(of_optima(tables)),
        "peers": draw_peers(of_peers(tables)),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
