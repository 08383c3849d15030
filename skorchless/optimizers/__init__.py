"""Update rules: the textbook ones and the tuning-free one."""

from skorchless.optimizers.base import PassOutcome, Rule
from skorchless.optimizers.preconditioner import Curvature
from skorchless.optimizers.quasi_newton import QuasiNewton
from skorchless.optimizers.schedules import SCHEDULES
from skorchless.optimizers.step_size import safe_rates
from skorchless.optimizers.textbook import SGD, Adam, State, TextbookRule

__all__ = [
    "SCHEDULES",
    "SGD",
    "Adam",
    "Curvature",
    "PassOutcome",
    "QuasiNewton",
    "Rule",
    "State",
    "TextbookRule",
    "safe_rates",
]
