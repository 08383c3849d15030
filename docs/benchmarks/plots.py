"""Draw the tables of the benchmarks page: ``python docs/benchmarks/plots.py``.

The figures are read from README.md, so the pictures show what the tables say.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def rows_of(page: str, first_column: str) -> list[dict[str, str]]:
    """The first table of a page whose first column has this name."""
    lines = iter(page.splitlines())
    for line in lines:
        names = cells(line)
        if names[:1] == [first_column]:
            next(lines)  # the rule below the names
            break
    else:
        raise ValueError(f"README.md has no table whose first column is {first_column!r}")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    """What stands between the bars."""
    return [cell.strip() for cell in line.strip("|\n ").split("|")] if "|" in line else []


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


def main() -> None:
    """Write the pictures beside the page, or into another folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    folder = parser.parse_args().folder
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "skorchless"
    figure = draw_step(rows_of((HERE / "README.md").read_text(), "size"))
    figure.savefig(folder / "step.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
