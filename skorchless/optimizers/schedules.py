r"""Schedules: what the learning rate is multiplied by in pass e = 0, 1, ..."""

import math
from collections.abc import Callable

#: The multiplier in pass `e` of a fit of at most `max_iter` passes.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda e, max_iter: 1.0,
    "invscaling": lambda e, max_iter: 1.0 / math.sqrt(1 + e),
    "cosine": lambda e, max_iter: 0.5 * (1.0 + math.cos(math.pi * e / max_iter)),
    # The engine divides the base rate itself, on each plateau.
    "adaptive": lambda e, max_iter: 1.0,
}

#: On a plateau the adaptive schedule divides the rate by this ...
ADAPTIVE_DIVISOR = 5.0
#: ... and is done once the rate is below this.
ADAPTIVE_FLOOR = 1e-6
