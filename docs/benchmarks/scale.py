"""Data of any size: sparse rows, memory maps, chunks, and several processes.

    python docs/benchmarks/scale.py [part ...] [--small] [--folder FOLDER]

Without parts all of them run: `sparse`, `memmap`, `chunks`, and of several processes `ranks`,
`agreement`, `failures` and `model`. `memmap` writes files of 8 and 2 GiB to FOLDER, one at a time,
and removes them.
"""

import argparse
import tempfile
from functools import partial

import scale_chunks
import scale_memmap
import scale_ranks
import scale_sparse
from tools import print_setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help="all by default")
    parser.add_argument(
        "--small", action="store_true", help="maps and chunks of a few MiB, to see that they run"
    )
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where files are written")
    arguments = parser.parse_args()
    size = {"small": arguments.small, "folder": arguments.folder}
    known = {
        "sparse": scale_sparse.times_and_memory,
        "memmap": partial(scale_memmap.memmap, **size),
        "chunks": partial(scale_chunks.chunks, **size),
        "ranks": scale_ranks.speed_up,
        "agreement": scale_ranks.agreement,
        "failures": scale_ranks.failures,
        "model": scale_ranks.cost_model,
    }
    strange = sorted(set(arguments.parts) - set(known))
    if strange:
        parser.error(f"unknown parts {strange}; there are {list(known)}")
    print_setting()
    for part in arguments.parts or known:
        known[part]()


if __name__ == "__main__":
    main()
