"""From a user's parameters and checked data to one call of the engine, and back.

Candidates are lists of length M: a single fit is a list of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skorchless.engine import Controls, ModelResult, Progress, train
from skorchless.estimators.data import Data
from skorchless.estimators.settings import own_settings
from skorchless.losses import make_loss
from skorchless.objective import Objective
from skorchless.optimizers import (
    OPTIMIZERS,
    Rule,
    Setup,
    State,
    TextbookRule,
    safe_rates,
)
from skorchless.penalties import ElasticNet
from skorchless.sources import DenseSource, Moments, Scaling, column_moments
from skorchless.stack import WIDE, stack

Parameters = dict[str, Any]

#: Rows that roughly tell means and deviations.
SCALING_ROWS = 1024

#: Rows a batch when the user leaves it to us.
DEFAULT_BATCH = 256


@dataclass
class Memory:
    """What ``partial_fit`` keeps between its calls, as NumPy and numbers.

    Attributes
    ----------
    passes : int
        How many there were: where the schedule goes on.
    generator : ndarray of uint8
        State of the private generator.
    rule : dict of ndarray
        State of the optimizer.
    moments : tuple of float, ndarray, ndarray, or None
        Running weight, means and squared deviations of the columns, where the estimator scales.
    rates : ndarray of shape (M,)
        Learning rates.
    """

    passes: int = 0
    generator: np.ndarray | None = None
    rule: State = field(default_factory=dict)
    moments: tuple[float, np.ndarray, np.ndarray] | None = None
    rates: np.ndarray | None = None


@dataclass
class Outcome:
    """What came of it, one entry a candidate, weights on the user's columns."""

    results: list[ModelResult]
    weights: list[np.ndarray | None]
    optimizer: str
    rates: np.ndarray
    interrupt: KeyboardInterrupt | None
    memory: Memory


def chosen_optimizer(parameters: Parameters) -> str:
    """The rule that ``optimizer`` and ``learning_rate`` ask for."""
    if parameters["optimizer"] != "auto":
        return str(parameters["optimizer"])
    return "quasi-newton" if parameters["learning_rate"] == "auto" else "adam"


def fit_stack(
    candidates: Sequence[Parameters],
    loss_name: str,
    data: Data,
    start: np.ndarray,
    generator: torch.Generator,
    *,
    validation: Data | None = None,
    memory: Memory | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train M candidates on the same data.

    Parameters
    ----------
    candidates : sequence of dict
        Constructor parameters. They may differ in numbers that stack (learning rate, alpha,
        l1_ratio, momentum, delta, tol); the rest is read from the first.
    loss_name : str
        A name in LOSSES.
    data : Data
        On the device to train on.
    start : ndarray of shape (M, K, D + 1)
        Weights on the user's columns.
    generator : torch.Generator
    validation : Data, optional
    memory : Memory, optional
        With it a single pass is made that goes on where the last one stopped.
    report : callable, optional
        Called with the first candidate's figures after each pass.
    """
    training = _Training(candidates, loss_name, data, generator, memory)
    with own_settings(data.X.device, training.work_of_a_batch):
        return training.run(start, validation, report)


class _Training:
    """The parts of one call of the engine, put together."""

    def __init__(
        self,
        candidates: Sequence[Parameters],
        loss_name: str,
        data: Data,
        generator: torch.Generator,
        memory: Memory | None,
    ) -> None:
        self.candidates, self.loss_name, self.data = candidates, loss_name, data
        self.shared = candidates[0]
        self.generator, self.memory = generator, memory
        self.optimizer = chosen_optimizer(self.shared)
        if memory is not None and self.optimizer == "quasi-newton":
            self.optimizer = "adam"
        self.kind = OPTIMIZERS[self.optimizer]
        self.automatic = self.shared["learning_rate"] == "auto"
        if memory is not None and memory.generator is not None:
            generator.set_state(torch.from_numpy(memory.generator.copy()))

    def run(
        self,
        start: np.ndarray,
        validation: Data | None,
        report: Callable[[Progress], None] | None,
    ) -> Outcome:
        """Put everything together, train, and fold the weights back."""
        plain = self._source(self.data, self._batch_size())
        scaling = self._scaling(plain) if self.automatic else None
        source = plain if scaling is None else plain.scaled(scaling)
        implicit = scaling is not None and self._leaves_rows_alone(plain, scaling)
        objective = Objective(
            make_loss(self.loss_name, self._stacked("delta")),
            self._penalty(scaling),
            scaling if implicit else None,
        )
        weights = torch.from_numpy(start).to(self.data.X.device)
        weights = weights if scaling is None else scaling.standardise(weights)
        weights = weights.to(self.data.X.dtype, copy=True)
        rates = self._rates(source, objective)
        rule = self._rule(source, objective, weights)
        validation_source = None
        if validation is not None:
            validation_source = self._source(validation, len(validation.X))
            if scaling is not None and not implicit:
                validation_source = validation_source.scaled(scaling)

        results, interrupt = train(
            plain if implicit else source,
            objective,
            rule,
            weights,
            self._controls(rates),
            generator=self.generator if self.shared["shuffle"] else None,
            validation=validation_source,
            report=report,
        )
        folded = [self._fold_back(result.weights, scaling) for result in results]
        return Outcome(
            results,
            folded,
            self.optimizer,
            rates,
            interrupt,
            self._remember(rule, rates),
        )

    @property
    def work_of_a_batch(self) -> int:
        """Multiply-adds of one product with a batch."""
        columns = self.data.X.shape[1] + 1
        return self._batch_size() * columns * self.data.n_outputs * len(self.candidates)

    def _batch_size(self) -> int:
        n, batch = len(self.data.X), self.shared["batch_size"]
        if self.kind.full_batch or batch is None:
            return n
        return min(n, DEFAULT_BATCH if batch == "auto" else int(batch))

    def _source(self, data: Data, batch_size: int) -> DenseSource:
        return DenseSource(
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=bool(self.shared["fit_intercept"]),
            batch_size=batch_size,
            stack_width=len(self.candidates) * data.n_outputs,
        )

    def _scaling(self, source: DenseSource) -> Scaling:
        moments = self._moments(source)
        centre = bool(self.shared["fit_intercept"])
        scaling = moments.scaling(centre=centre, dtype=self.data.X.dtype)
        # With fewer rows than columns the least norm is meant in the user's own units.
        few_rows = source.n_rows <= source.n_columns
        return scaling.centring() if few_rows and self.kind.full_batch else scaling

    def _moments(self, source: DenseSource) -> Moments:
        """Means and deviations of the columns, to standardise by.

        A rule with a preconditioner only needs them roughly, and is content with a sample, unless
        that leaves a column looking constant.
        """
        if self.kind.full_batch:
            sample = column_moments([source.sample(SCALING_ROWS)])
            if bool((sample.squares > 0).all()):
                return sample
        moments = column_moments(source.chunks())
        if self.memory is not None and self.memory.moments is not None:
            weight, mean, squares = self.memory.moments
            device = self.data.X.device
            earlier = Moments(
                weight, torch.from_numpy(mean).to(device), torch.from_numpy(squares).to(device)
            )
            moments = earlier.merge(moments)
        self.moments = moments
        return moments

    def _leaves_rows_alone(self, source: DenseSource, scaling: Scaling) -> bool:
        """Whether to standardise the weights instead of the rows, which spares a copy a pass.

        Not where the rows are copied anyway, nor where means are so large that digits would go.
        """
        return self.kind.full_batch and not source.fits_chunk and scaling.is_mild

    def _stacked(self, name: str) -> Tensor:
        values = [float(candidate.get(name, 1.0)) for candidate in self.candidates]
        return stack(values, dtype=self.data.X.dtype, device=self.data.X.device)

    def _penalty(self, scaling: Scaling | None) -> ElasticNet:
        X = self.data.X
        factor = X.new_ones(X.shape[1] + 1)
        if scaling is not None:
            factor[:-1] = scaling.inverse
        factor[-1] = 0.0
        return ElasticNet(self._stacked("alpha"), self._stacked("l1_ratio"), factor)

    def _rates(self, source: DenseSource, objective: Objective) -> np.ndarray:
        if self.memory is not None and self.memory.rates is not None:
            return self.memory.rates
        if not self.automatic:
            return np.array([float(candidate["learning_rate"]) for candidate in self.candidates])
        if self.kind.full_batch:
            return np.ones(len(self.candidates))
        momentum = np.array([float(candidate["momentum"]) for candidate in self.candidates])
        return safe_rates(self.optimizer, source, objective, momentum)

    def _rule(self, source: DenseSource, objective: Objective, weights: Tensor) -> Rule:
        tolerance = [float(candidate["tol"] or 0.0) for candidate in self.candidates]
        rule = self.kind(
            Setup(
                source=source,
                objective=objective,
                weights=weights,
                momentum=self._stacked("momentum"),
                nesterov=bool(self.shared["nesterov"]),
                betas=tuple(self.shared["betas"]),
                tolerance=torch.tensor(tolerance, dtype=WIDE, device=weights.device),
                constant_loss=self.constant_loss.to(weights.device),
            )
        )
        if self.memory is not None and self.memory.passes > 0:
            assert isinstance(rule, TextbookRule)
            rule.load_state(self.memory.rule)
        return rule

    @cached_property
    def constant_loss(self) -> Tensor:
        """Objective of the best constant model, shape ``(M,)``."""
        data = self.data
        weight = data.X.new_ones(len(data.X)) if data.weight is None else data.weight
        value = make_loss(self.loss_name, self._stacked("delta")).constant_value(
            data.target, weight, data.n_outputs, bool(self.shared["fit_intercept"])
        )
        return value.expand(len(self.candidates))

    def _controls(self, rates: np.ndarray) -> Controls:
        shared = self.shared
        early = bool(shared["early_stopping"])
        threshold = None
        judges = early or not self.kind.full_batch
        if judges and shared["tol"] is not None and self.memory is None:
            tol = np.array([float(candidate["tol"]) for candidate in self.candidates])
            threshold = tol * self.constant_loss.numpy(force=True)
        return Controls(
            max_iter=1 if self.memory is not None else int(shared["max_iter"]),
            rate=rates,
            schedule=self._schedule(),
            horizon=int(shared["max_iter"]),
            first_pass=0 if self.memory is None else self.memory.passes,
            threshold=threshold,
            patience=int(shared["n_iter_no_change"]),
            early_stopping=early,
        )

    def _schedule(self) -> str:
        # An automatic rate has to shrink over the calls of partial_fit, which know no plateau.
        if self.memory is not None and self.automatic:
            return "invscaling"
        return str(self.shared["schedule"])

    def _fold_back(self, weights: Tensor | None, scaling: Scaling | None) -> np.ndarray | None:
        if weights is None:
            return None
        folded = weights if scaling is None else scaling.fold_back(weights)
        return folded.to(weights.dtype).numpy(force=True).copy()

    def _remember(self, rule: Rule, rates: np.ndarray) -> Memory:
        if self.memory is None:
            return Memory()
        assert isinstance(rule, TextbookRule)
        moments = None
        if self.automatic:
            kept = self.moments
            moments = (kept.weight, kept.mean.numpy(force=True), kept.squares.numpy(force=True))
        return Memory(
            passes=self.memory.passes + 1,
            generator=self.generator.get_state().numpy(),
            rule={name: value.copy() for name, value in rule.state().items()},
            moments=moments,
            rates=rates,
        )
