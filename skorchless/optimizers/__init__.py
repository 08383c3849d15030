"""Update rules: the textbook ones and the tuning-free one."""

from skorchless.optimizers.base import PassOutcome, Rule, Setup
from skorchless.optimizers.quasi_newton import DependentColumns, QuasiNewton
from skorchless.optimizers.step_size import SCHEDULES, safe_rates, target_moments, target_units
from skorchless.optimizers.textbook import SGD, Adam, AveragedAdam, State, TextbookRule

#: Every rule by name; the contract tests run over this table.
OPTIMIZERS: dict[str, type[Rule]] = {"sgd": SGD, "adam": Adam, "quasi-newton": QuasiNewton}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AveragedAdam",
    "DependentColumns",
    "PassOutcome",
    "QuasiNewton",
    "Rule",
    "Setup",
    "State",
    "TextbookRule",
    "safe_rates",
    "target_moments",
    "target_units",
]
