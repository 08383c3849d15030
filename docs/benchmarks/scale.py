"""What more rows, and more processes, cost.

    python docs/benchmarks/scale.py [ranks] [agreement] [failures] [model]

Without arguments all parts run.
"""

import argparse

import scale_ranks
from tools import print_setting

PARTS = {
    "ranks": scale_ranks.speed_up,
    "agreement": scale_ranks.agreement,
    "failures": scale_ranks.failures,
    "model": scale_ranks.cost_model,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {list(PARTS)}")
    parts = parser.parse_args().parts or list(PARTS)
    print_setting()
    for part in parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
