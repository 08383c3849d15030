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


def draw_peers(searches: dict[str, float], specialists: dict[str, float]) -> plt.Figure:
    """Searches above and solvers for L1 below, in other colours where they are faster than ours."""
    heights = [len(searches), len(specialists)]
    figure, both = plt.subplots(
        2, figsize=(7.2, 1.2 + 0.27 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    titles = ["Searches", "Specialists for L1"]
    for ax, title, times in zip(both, titles, (searches, specialists), strict=True):
        colours = ["tab:blue" if time >= 1 else "tab:orange" for time in times.values()]
        bars = ax.barh(list(times), [time - 1 for time in times.values()], left=1, color=colours)
        ax.bar_label(bars, [f" {time:.3g} " for time in times.values()])
        ax.axvline(1, color="black", linewidth=1)
        ax.set_title(title, loc="left", fontweight="bold")
        ticks = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
        ax.set(xscale="log", xlim=(0.13, 400))
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.invert_yaxis()
    figure.supxlabel("time in multiples of skorchless's (above 1: skorchless is faster)", size=10)
    return figure


def of_specialists(tables: list[list[dict[str, str]]]) -> dict[str, float]:
    """Times of the tables of L1, which are in multiples of ours."""
    times = {}
    for table in tables:
        subject, _, *others = table[0]
        if others[0].endswith(", times ours"):
            names = [other.removesuffix(", times ours") for other in others]
            searches = names[0].partition(", ")[0].split(" or ")  # one per row
            for (i, row), (other, name) in itertools.product(
                enumerate(table), zip(others, names, strict=True)
            ):
                if "n_jobs" in name:
                    name = f"{searches[i]}, {name.rpartition(', ')[2]}"
                if row[other]:
                    times[f"{row[subject]}: {name}"] = float(row[other])
    return times


def main() -> None:
    """Write the pictures beside the page, or into another folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    folder = parser.parse_args().folder
    matplotlib.rcParams["svg.hashsalt"] = "skorchless"  # the same figures give the same file
    tables = tables_of((HERE / "README.md").read_text())
    searches = {
        name: time
        for name, time in of_searches(tables).items()
        if "batched" not in name and "skorch" not in name
    }
    figures = {
        "step": draw_step(next(table for table in tables if "size" in table[0])),
        "grid": draw_times(of_searches(tables)),
        "optimum": draw_times(of_optima(tables)),
        "peers": draw_peers(searches, of_specialists(tables)),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
