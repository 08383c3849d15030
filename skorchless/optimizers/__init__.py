"""Optimizers: SGD and Adam as in `torch.optim`, and the default quasi-Newton method."""

from skorchless.optimizers.base import Optimizer, Setup, Step
from skorchless.optimizers.first_order import SGD, Adam, AveragedAdam, FirstOrderOptimizer, State
from skorchless.optimizers.learning_rates import SCHEDULES, safe_rates, target_moments, target_units
from skorchless.optimizers.quasi_newton import DependentColumns, QuasiNewton

#: Every optimizer by name; the contract tests run over this table.
OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "quasi-newton": QuasiNewton}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AveragedAdam",
    "DependentColumns",
    "FirstOrderOptimizer",
    "Optimizer",
    "QuasiNewton",
    "Setup",
    "State",
    "Step",
    "safe_rates",
    "target_moments",
    "target_units",
]
