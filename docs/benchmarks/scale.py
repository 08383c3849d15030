"""Data of any size.

Repeat with::

    python docs/benchmarks/scale.py [memmap] [chunks] [--small] [--folder FOLDER]

`memmap` writes files of 8 and 2 GiB to FOLDER, one at a time, and removes them.
"""

import argparse
import tempfile

from scale_chunks import chunks
from scale_memmap import memmap
from tools import print_setting

PARTS = {"memmap": memmap, "chunks": chunks}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all by default")
    parser.add_argument("--small", action="store_true", help="a few MiB, to see that it runs")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where files are written")
    arguments = parser.parse_args()
    print_setting()
    for part in arguments.part or PARTS:
        PARTS[part](small=arguments.small, folder=arguments.folder)
