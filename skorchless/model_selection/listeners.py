"""Whom a search tells of its evaluations: scikit-learn's callbacks, from version 1.9 on."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skorchless.estimators.base import TorchLinearModel


@dataclass(eq=False)
class Listeners:
    """The callbacks' tasks on one split, one a candidate.

    A candidate's task is open from before its fit until it has been scored. In between its last
    step is told of every pass: by callbacks that scikit-learn propagates, and by its own.

    Attributes
    ----------
    search : estimator
    tasks : sequence of contexts
    """

    search: Any
    tasks: Sequence[Any]

    @contextlib.contextmanager
    def fitting(
        self, members: Sequence[int], finals: Sequence[TorchLinearModel], **about: Any
    ) -> Iterator[None]:
        """Open the tasks of some candidates, and let their last steps be told of their passes."""
        with contextlib.ExitStack() as propagated:
            for i, final in zip(members, finals, strict=True):
                propagated.enter_context(self.tasks[i].propagate_callback_context(final))
                self.tasks[i].call_on_fit_task_begin(estimator=self.search, **about)
            yield

    def end(self, members: Sequence[int], **about: Any) -> None:
        """Close the tasks of some candidates."""
        for i in members:
            self.tasks[i].call_on_fit_task_end(estimator=self.search, **about)


def listeners_of(search: Any, context: Any, n_candidates: int, n_splits: int) -> list[Listeners]:
    """Tasks for each split, made ahead in the order of GridSearchCV's."""
    tasks = [
        context.subcontext(task_name="candidate-split-evaluation", task_id=i)
        for i in range(n_candidates * n_splits)
    ]
    return [Listeners(search, tasks[split::n_splits]) for split in range(n_splits)]
