"""What a search prints, in GridSearchCV's form."""

from collections.abc import Sequence
from typing import Any

from joblib.logger import short_format_time

from skorchless.model_selection.fold import Entry

WIDTH = 80


def announce(verbose: int, n_candidates: int, n_splits: int) -> None:
    """Say how many fits there will be."""
    if verbose > 0:
        print(
            f"Fitting {n_splits} folds for each of {n_candidates} candidates, totalling "
            f"{n_candidates * n_splits} fits"
        )


def report(
    verbose: int, candidates: Sequence[dict[str, Any]], entries: Sequence[Sequence[Entry]]
) -> None:
    """Say what came of each fit: from 2 on with times, from 3 on with scores."""
    if verbose <= 1:
        return
    for i, (parameters, splits) in enumerate(zip(candidates, entries, strict=True)):
        for split, entry in enumerate(splits):
            head = "[CV"
            if verbose > 2:
                head += f" {split + 1}/{len(splits)}"
            if verbose > 9:
                head += f"; {i + 1}/{len(candidates)}"
            tail = _tail(parameters, entry.result, with_scores=verbose > 2)
            print(f"{head}] END ".ljust(WIDTH - len(tail), ".") + tail)


def _tail(parameters: dict[str, Any], result: dict[str, Any], *, with_scores: bool) -> str:
    words = ", ".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    words += ";" if words else ""
    if with_scores:
        tests, trains = result["test_scores"], result.get("train_scores")
        if isinstance(tests, dict):
            for name in sorted(tests):
                train = "" if trains is None else f"train={trains[name]:.3f}, "
                words += f" {name}: ({train}test={tests[name]:.3f})"
        elif trains is None:
            words += f", score={tests:.3f}"
        else:
            words += f", score=(train={trains:.3f}, test={tests:.3f})"
    seconds = result["fit_time"] + result["score_time"]
    return f"{words} total time={short_format_time(seconds)}"
