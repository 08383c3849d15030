"""``distributed=True``: what the ranks of a group have to agree on before they train."""

import hashlib
from typing import Any

import numpy as np
import torch

from skorchless.reducer import ONE_PROCESS, Group, Reducer
from skorchless.sources import Matrix, SparseRows
from skorchless.stack import private_generator

#: Parameters that may differ from rank to rank.
OF_A_RANK = ("device", "random_state")

#: Seeds of two ranks are this far apart (the golden ratio of 2^63, an odd number).
SEED_STEP = 0x4F1BBCDCBFA53E0B


def reducer_of(distributed: Any) -> Reducer:
    """Who trains together: the ranks of the initialised group, or nobody else.

    Raises
    ------
    ValueError
        If there is no group to join.
    """
    return Group() if isinstance(distributed, bool | np.bool_) and distributed else ONE_PROCESS


def check_agreement(reducer: Reducer, facts: dict[str, Any]) -> None:
    """Raise ValueError on every rank if they differ in one of the `facts`."""
    first, *others = reducer.exchange(facts)
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise ValueError(
                    f"All ranks must agree on {name}: rank 0 has {value!r}, rank {rank} has "
                    f"{other.get(name)!r}."
                )


def facts_of(estimator: Any, X: Matrix) -> dict[str, Any]:
    """What all ranks must agree on, by name for a message."""
    facts = {
        f"the parameter {name!r}": value
        for name, value in estimator._parameters().items()
        if name not in OF_A_RANK
    }
    return (
        {"the estimator": type(estimator).__name__}
        | facts
        | {
            "having callbacks": bool(getattr(estimator, "_skl_callbacks", None)),
            "the number of features": X.shape[1],
            "the names of the features": list(getattr(estimator, "feature_names_in_", ())),
            "the precision of X": str(X.dtype),
            "the kind of X": "sparse" if isinstance(X, SparseRows) else "dense",
        }
    )


def check_start(reducer: Reducer, start: np.ndarray) -> None:
    """Raise ValueError on a rank that would not start where rank 0 does."""
    if reducer.size == 1:
        return
    digest = hashlib.sha256((start + 0.0).tobytes()).digest()  # 0.0 for -0.0 too
    if reducer.exchange(digest)[0] != digest:
        raise ValueError(
            "All ranks must start from the same weights: coef_init, intercept_init, or with "
            "warm_start=True or partial_fit the fit before, differ from rank 0's."
        )


def check_some_rows(reducer: Reducer, n_rows: int, message: str) -> None:
    """Raise ValueError on every rank if none has a row."""
    if not sum(reducer.exchange(n_rows)):
        raise ValueError(message)


def rank_generator(reducer: Reducer, random_state: Any) -> torch.Generator:
    """Rank 0's seed, and from it a generator of each rank's own."""
    own = private_generator(random_state)
    if reducer.size == 1:
        return own
    seed: int = reducer.exchange(own.initial_seed())[0]
    return private_generator((seed + reducer.rank * SEED_STEP) % 2**63)
