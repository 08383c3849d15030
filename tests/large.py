"""Memory maps for the tests."""

import numpy as np


def mapped(array, folder, order="C", mode="r"):
    """A memory map of `array` in a file of its own."""
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, np.asarray(array, order=order))
    return np.load(path, mmap_mode=mode)
