"""Candidates of a search: which of their parameters one stack can train side by side."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skorchless.estimators.task import Task
from skorchless.optimizers.curvature import sample_size
from skorchless.optimizers.history import pairs_of
from skorchless.sources import affords_gram
from skorchless.sources.limits import WIDE_ROWS
from skorchless.stack import WIDE

Parameters = dict[str, Any]

#: Parameters that every model of a stack has for itself, as long as they are numbers.
STACKED = ("learning_rate", "alpha", "l1_ratio", "momentum", "delta", "tol")

#: Multiply-adds from which device="auto" moves to a GPU: of a pass over all rows, which launches
#: some forty kernels and waits for a few numbers, and of a step of SGD or Adam, which launches some
#: fifteen.
WORTH_A_PASS, WORTH_A_STEP = 2**24, 2**22

#: Memory that the state of one stack may take, in bytes. More candidates are trained in turns.
STACK_BYTES = 2**30

#: Rows a batch when the user leaves it to us.
DEFAULT_BATCH = 256

#: Tensors of the weights' shape that a textbook rule and the engine keep, at most.
TEXTBOOK_COPIES = 12

#: The same of the quasi-Newton rule, beside three for each curvature pair: step, change of the
#: gradient and, with L1, their product with the preconditioner.
QUASI_NEWTON_COPIES = 12

#: Multiply-adds of one product with a batch up to which steps are mostly overhead, ...
SMALL_STEP = 2**19

#: ... and bytes of rows of all folds together that may be copied to spare it.
SMALL_ROWS = 2**26


def chosen_optimizer(parameters: Parameters) -> str:
    """The rule that ``optimizer`` and ``learning_rate`` ask for."""
    if parameters["optimizer"] != "auto":
        return str(parameters["optimizer"])
    return "quasi-newton" if parameters["learning_rate"] == "auto" else "adam"


def batch_rows(parameters: Parameters, n: int) -> int:
    """Rows that a textbook rule takes a step on, out of `n`."""
    batch = parameters["batch_size"]
    if batch is None:
        return n
    return min(n, DEFAULT_BATCH if batch == "auto" else int(batch))


def is_worth_moving(parameters: Parameters, work: int, n_rows: int, *, one_pass: bool) -> bool:
    """Whether there is so much work between two decisions of the host that a GPU is faster.

    Parameters
    ----------
    parameters : dict
        Constructor parameters of an estimator.
    work : int
        Multiply-adds of a product with all rows.
    n_rows : int
    one_pass : bool
        Whether it is a call of ``partial_fit``, which takes steps whatever the optimizer.
    """
    if chosen_optimizer(parameters) == "quasi-newton" and not one_pass:
        return work >= WORTH_A_PASS
    return work * batch_rows(parameters, n_rows) >= WORTH_A_STEP * n_rows


def stack_key(parameters: Parameters) -> Parameters:
    """What two candidates must have in common for one stack to train both.

    Parameters
    ----------
    parameters : dict
        Constructor parameters of an estimator.

    Returns
    -------
    key : dict
        The parameters that do not stack, and of those that do whether they are numbers. For the
        quasi-Newton method also whether there is L1, without which squared error is solved exactly,
        and whether there is any penalty, without which dependent columns are trained apart.
        For the others, where they choose their rates, the penalty: columns are scaled by it too.
    """
    key = {name: value for name, value in parameters.items() if name not in STACKED}
    for name in STACKED:
        value = parameters.get(name)
        key[name] = value if value is None or isinstance(value, str) else "a number"
    if chosen_optimizer(parameters) == "quasi-newton":
        key["has L1"] = bool(parameters["alpha"]) and bool(parameters["l1_ratio"])
        key["has a penalty"] = bool(parameters["alpha"])
    elif parameters["learning_rate"] == "auto":
        key |= {name: parameters[name] for name in ("alpha", "l1_ratio")}
    return key


def models_a_stack(parameters: Parameters, task: Task) -> int:
    """How many models one stack may have so that its state stays within STACK_BYTES.

    The rows themselves are not counted: there is one copy of them whatever the stack. A chunk's
    raw predictions are bounded by themselves.
    """
    n, columns = task.data.X.shape[0], task.data.X.shape[1] + 1
    weights = task.data.n_outputs * columns
    numbers = TEXTBOOK_COPIES * weights
    if chosen_optimizer(parameters) == "quasi-newton":
        rank = min(n, columns)
        factored = rank * (4 * rank + WIDE_ROWS) if affords_gram(task.data.X) else columns
        sample = min(n, sample_size(columns)) * 4 * task.data.n_outputs
        copies = QUASI_NEWTON_COPIES + 3 * pairs_of(weights)
        numbers = copies * weights + factored + sample
    return max(1, STACK_BYTES // (WIDE.itemsize * numbers))


def share_steps(parameters: Parameters, tasks: Sequence[Task], n_models: int) -> bool:
    """Whether the same candidates train on tasks of one size in steps that serve all of them.

    Rates have to be numbers, since what we choose ourselves depends on the rows. It pays where a
    step is little work.
    """
    if len(tasks) < 2 or chosen_optimizer(parameters) == "quasi-newton":
        return False
    first = tasks[0]
    n, columns = first.data.X.shape
    return (
        isinstance(first.data.X, Tensor)
        and parameters["learning_rate"] != "auto"
        and batch_rows(parameters, n) * columns * first.data.n_outputs * n_models <= SMALL_STEP
        and len(tasks) * first.data.X.nbytes <= SMALL_ROWS
        and len(tasks) * n_models <= models_a_stack(parameters, first)
    )


def size_of(task: Task) -> tuple[object, ...]:
    """What tasks must have in common for their rows to lie side by side."""
    held_out = None if task.validation is None else len(task.validation.X)
    return task.data.X.shape, task.data.X.dtype, task.data.n_outputs, held_out
