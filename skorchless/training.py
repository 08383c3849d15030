"""The only training loop of the package.

A pass visits every chunk of the data once. Optimizers step per batch or per pass; either way the
training loop keeps, per model, the trial weights, which the optimizer moves, and the accepted ones,
which are all that curves, stopping and results ever see. Models that are done leave the stack;
where sets of rows train side by side, once their peers in all other sets are done too: every set
keeps as many.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader
from skorchless.objective import LinearObjective
from skorchless.optimizers.base import Optimizer, Step
from skorchless.optimizers.learning_rates import ADAPTIVE_DIVISOR, ADAPTIVE_FLOOR, SCHEDULES
from skorchless.restoring import undone_on_error
from skorchless.stack import select_models, stack

#: Training losses that differ by no more than this share of them are the same.
ROUNDING = 1e-9

#: A loss this many times where it began, or the best constant model's, is no plateau.
BLOWN_UP = 10.0


@dataclass(eq=False)
class TrainingConfig:
    """When to stop and how fast to go.

    Attributes
    ----------
    max_iter : int
        Passes at most.
    rate : ndarray of shape (M,)
        Learning rates in the first pass.
    schedule : str
        A name in SCHEDULES.
    horizon : int
        Passes over which the schedule runs.
    first_pass : int
        Passes that earlier calls have made: where the schedule goes on.
    threshold : ndarray of shape (M,), or None
        Improvement below which a pass of a textbook optimizer counts as none; None never stops.
    patience : int
        Passes without improvement until a model stops.
    units : ndarray of shape (K,), optional
        What a rate is multiplied by for each output.
    floor : float or ndarray of shape (M,)
        The adaptive schedule is done below this rate.
    constant_loss : ndarray of shape (M,), optional
        Objective of the best constant model: a loss far above it is no plateau.
    relative_to_gain : ndarray of shape (M,), optional
        Objective of the best constant model, where the threshold is relative to what has been
        gained over it.
    early_stopping : bool
        Stop on the validation loss and return the weights that were best on it.
    keeps_best : bool
        Return the weights that had the lowest loss.
    """

    max_iter: int
    rate: np.ndarray
    schedule: str = "constant"
    horizon: int = 1
    first_pass: int = 0
    threshold: np.ndarray | None = None
    patience: int = 5
    units: np.ndarray | None = None
    floor: float | np.ndarray = ADAPTIVE_FLOOR
    constant_loss: np.ndarray | None = None
    relative_to_gain: np.ndarray | None = None
    early_stopping: bool = False
    keeps_best: bool = False


@dataclass(eq=False)
class TrainingResult:
    """What training made of one model.

    Attributes
    ----------
    weights : Tensor of shape (K, D + 1), or None
        The last accepted weights, or the best on validation; None before the first pass.
    loss_curve, validation_loss_curve : list of float
        One value a pass.
    n_iter, best_iter : int
        Iterations made, and the one whose weights these are. A start that only was evaluated
        counts as one.
    moved : bool
        Whether any iteration was made.
    rate : float
        The learning rate of the last pass.
    converged, diverged : bool
        Whether a stopping criterion, or who watched, ended it; whether its loss left the finite
        numbers.
    stuck : bool
        Whether it ended because no step lowers its loss any further.
    diverged_slowly : bool
        Whether it only stopped improving because its loss grew far beyond where it began.
    lost_digits : bool
        Whether the returned coefficients, or their predictions, lost by rounding to their dtype
        what training had gained.
    returned_objective : float, optional
        Of the returned coefficients, or of their predictions, where it was evaluated.
    """

    weights: Tensor | None = None
    loss_curve: list[float] = field(default_factory=list)
    validation_loss_curve: list[float] = field(default_factory=list)
    n_iter: int = 0
    best_iter: int = 0
    moved: bool = False
    rate: float = 0.0
    converged: bool = False
    diverged: bool = False
    stuck: bool = False
    diverged_slowly: bool = False
    lost_digits: bool = False
    returned_objective: float | None = None


class Observer(Protocol):
    """What is told of every iteration of a single model, and may end its training."""

    def on_pass_begin(self) -> None:
        """Called before each iteration."""

    def on_pass_end(self, result: TrainingResult) -> bool:
        """Called after each iteration with the result so far; True ends the training."""


def train(
    loader: BatchLoader,
    objective: LinearObjective,
    optimizer: Optimizer,
    weights: Tensor,
    config: TrainingConfig,
    *,
    generator: torch.Generator | None = None,
    validation: BatchLoader | None = None,
    observer: Observer | None = None,
) -> tuple[list[TrainingResult], KeyboardInterrupt | None]:
    """Train a stack of models.

    Parameters
    ----------
    loader : BatchLoader
        Training data.
    objective : LinearObjective
    optimizer : Optimizer
    weights : Tensor of shape (M, K, D + 1)
        Where to start; moved in place.
    config : TrainingConfig
    generator : torch.Generator, optional
        Shuffles; None keeps the rows in order.
    validation : BatchLoader, optional
        Rows in one batch, whose loss is recorded after each pass.
    observer : Observer, optional
        Told of each iteration; only of a single model.

    Returns
    -------
    results : list of TrainingResult
        One a model, in the order of the stack.
    interrupt : KeyboardInterrupt or None
        What cut the training short. The results are those of the last accepted pass.
    """
    run = _Run(objective, optimizer, weights, config)
    try:
        begun = False
        while run.running.any():
            if observer is not None and optimizer.started and not begun:
                observer.on_pass_begin()
                begun = True
            made = run.pass_over(loader, generator, validation)
            if observer is not None and begun and made:
                begun = False
                run.stop(bool(observer.on_pass_end(run.results[0])))
            run.keep_within_limit()
        run.agree()
    except KeyboardInterrupt as interrupt:
        return run.results, interrupt
    return run.results, None


@dataclass(eq=False)
class _Run:
    """The state of one call of `train`."""

    objective: LinearObjective
    optimizer: Optimizer
    weights: Tensor
    config: TrainingConfig

    def __post_init__(self) -> None:
        weights, config = self.weights, self.config
        self.results = [TrainingResult() for _ in weights]
        self.stack = np.arange(len(weights))
        self.running = np.ones(len(weights), dtype=bool)
        self.n_iter = np.zeros(len(weights), dtype=int)
        self.rate = config.rate.astype(float)
        self.floor = np.broadcast_to(config.floor, self.rate.shape)
        #: Rates of the last pass, here and where the weights are.
        self._told: tuple[np.ndarray, Tensor] | None = None
        keeps = config.early_stopping or config.keeps_best
        rounding = ROUNDING if config.keeps_best else None
        self.best = BestWeights(weights, rounding) if keeps else None
        self.patience: Patience | None = None
        if config.threshold is not None:
            self.patience = Patience(config.threshold, config.patience, config.relative_to_gain)

    def pass_over(
        self,
        loader: BatchLoader,
        generator: torch.Generator | None,
        validation: BatchLoader | None,
    ) -> bool:
        """One pass: move the weights, record what was accepted, let go of what is done.

        A pass that only evaluates the start is no iteration: it is recorded, in case there is no
        other, and the first iteration takes its place. Nor is a pass an iteration of a model whose
        trial step was rejected, unless the model ends with it: what is recorded of a model does
        not depend on the others in its stack.

        Returns
        -------
        made : bool
            Whether it was an iteration of any model.
        """
        started = self.optimizer.started
        rates = self._rates()
        begun = self.weights.clone() if self.config.keeps_best else self.weights
        outcome, largest = self._end_pass(self._step_through(loader, generator))
        moved = self.running & (outcome.moved | outcome.converged | outcome.stuck)
        if not moved.any():
            return False
        self.n_iter += moved & started

        value = outcome.value
        finite = np.isfinite(largest) & np.isfinite(value)
        recorded = finite & moved
        judged, seen, validation_loss = value, None, None
        accepted = outcome.accepted
        if validation is not None or self.best is not None:  # an optimizer may have them on the CPU
            accepted = accepted.to(self.weights.device)
        if validation is not None:
            losses = self.objective.mean_loss(validation.chunks(), accepted)
            validation_loss = losses.numpy(force=True)
        if self.best is not None and validation_loss is not None and started:
            judged, seen = validation_loss, accepted
        elif self.best is not None and self.config.keeps_best:
            # The loss of a single batch is that of the weights before their step.
            seen = begun if loader.n_batches == 1 else accepted

        def write_down() -> None:
            if self.best is not None and seen is not None:
                self.best.update(np.where(recorded, judged, np.inf), seen, self.n_iter)
            self._record(outcome.accepted, value, validation_loss, moved, finite, rates)

        # If Ctrl-C falls into it, it is done again: the result is that of one pass, not of two.
        undone_on_error(write_down, write_down)
        converged = outcome.converged | self._stale(judged, moved & started)
        self._let_go(converged, ~finite, outcome.stuck & ~converged)
        return True

    def _step_through(self, loader: BatchLoader, generator: torch.Generator | None) -> Tensor:
        """Show the optimizer all chunks; return the mean objective of the batches, ``(M,)``."""
        mean: Tensor | None = None
        for chunk in loader.chunks(generator):
            for gradient in self.objective.gradients(chunk, self.weights):
                self.optimizer.step(self.weights, gradient)
            self.optimizer.on_chunk(chunk)
            of_chunk = self.objective.value(chunk)
            mean = of_chunk if mean is None else mean + of_chunk
        assert mean is not None
        self.objective.comm.all_reduce_(mean)
        return mean if loader.n_batches == 1 else mean / loader.n_batches

    def _end_pass(self, mean: Tensor) -> tuple[Step, np.ndarray]:
        """End a pass: what the optimizer says, and a number that is finite if the weights are.

        Each look at a tensor of a device waits for it. An optimizer that steps per batch accepts
        the weights as they are, so one look is enough. That of a full batch has added the squares
        of all weights, times the penalty or zero, to its objective.
        """
        if self.optimizer.full_batch:
            outcome = self.optimizer.end_epoch(self.weights, mean)
            return outcome, outcome.value
        seen, largest = torch.stack([mean, _largest(self.weights)]).cpu()
        return self.optimizer.end_epoch(self.weights, seen), largest.numpy()

    def stop(self, wish: bool) -> None:
        """End the training of the model if that is wished for here or in another process."""
        wishes = torch.tensor(float(wish), dtype=float64, device="cpu")
        self.objective.comm.all_reduce_(wishes)
        if bool(wishes):
            for model in self.stack[self.running]:  # none if it has ended by itself
                self.results[model].converged = True
            self._keep(~self.running)

    def keep_within_limit(self) -> None:
        """Let go of models that have made all iterations that they may make."""
        self._keep(self.n_iter < self.config.max_iter)

    def agree(self) -> None:
        """Give all processes the first one's weights.

        They all had the same sums, but processors of two kinds round what follows differently.
        """
        for result in self.results:
            if result.weights is not None:
                self.objective.comm.broadcast_(result.weights)

    def _rates(self) -> np.ndarray:
        """Hand the optimizer this pass's learning rates; return them, shape ``(M,)``."""
        config = self.config
        epoch = config.first_pass + int(self.n_iter.max())
        factor = SCHEDULES[config.schedule](epoch, config.horizon)
        rates = self.rate * factor
        if self.optimizer.full_batch:  # it finds the length of its steps itself
            return rates
        if self._told is None or not np.array_equal(rates, self._told[0]):
            stacked = stack(rates, dtype=self.weights.dtype, device=self.weights.device)
            if config.units is not None:
                stacked = stacked * torch.from_numpy(config.units).to(stacked).view(1, -1, 1)
            self._told = rates, stacked
        self.optimizer.set_learning_rate(self._told[1])
        return rates

    def _record(
        self,
        accepted: Tensor,
        value: np.ndarray,
        validation_loss: np.ndarray | None,
        moved: np.ndarray,
        finite: np.ndarray,
        rates: np.ndarray,
    ) -> None:
        kept = accepted if self.best is None else self.best.weights
        losses, weights, each_rate = value.tolist(), kept.unbind(), rates.tolist()
        for i in np.flatnonzero(moved).tolist():
            result = self.results[self.stack[i]]
            n_iter = max(1, int(self.n_iter[i]))
            result.n_iter, result.rate = n_iter, each_rate[i]
            result.moved = bool(self.n_iter[i])
            if not finite[i]:
                continue
            result.loss_curve[n_iter - 1 :] = [losses[i]]
            if validation_loss is not None:
                result.validation_loss_curve[n_iter - 1 :] = [float(validation_loss[i])]
            result.weights = weights[i]
            best = 0 if self.best is None else int(self.best.n_iter[i])
            result.best_iter = best or n_iter

    def _stale(self, judged: np.ndarray, iterated: np.ndarray) -> np.ndarray:
        """Which models have stopped improving; on an adaptive schedule, at the lowest rate."""
        if self.patience is None:
            return np.zeros(len(judged), dtype=bool)
        stale = self.patience.update(judged, iterated)
        if self.config.schedule == "adaptive":
            self.rate = np.where(stale, self.rate / ADAPTIVE_DIVISOR, self.rate)
            self.patience.forgive(stale)
            stale = stale & (self.rate < self.floor)
        return stale

    def _let_go(self, converged: np.ndarray, diverged: np.ndarray, stuck: np.ndarray) -> None:
        """Write down how models have ended."""
        done = (converged | diverged | stuck) & self.running
        if not done.any():
            return
        for i in np.flatnonzero(done):
            result = self.results[self.stack[i]]
            result.diverged = bool(diverged[i])
            result.stuck = bool(stuck[i])
            result.converged = not result.diverged and not result.stuck
            if result.converged and self.config.constant_loss is not None:
                curve, constant = result.loss_curve, self.config.constant_loss[self.stack[i]]
                result.diverged_slowly = bool(curve[-1] > BLOWN_UP * max(curve[0], constant))
        self._keep(~done)

    def _keep(self, keep: np.ndarray) -> None:
        """Go on with some of the models only, and take off the stack what no set needs any more."""
        if keep.all():
            return
        self.running = self.running & keep
        sets = self.objective.sets
        keep = np.tile(self.running.reshape(sets, -1).any(axis=0), sets)
        if keep.all() or not keep.any():
            return
        self._told = None
        index = torch.from_numpy(np.flatnonzero(keep)).to(self.weights.device)
        self.objective.select(index)
        self.optimizer.select(index)
        for holder in (self, self.patience, self.best):
            if holder is not None:
                select_models(holder, index)


def _largest(weights: Tensor) -> Tensor:
    """The largest magnitude of each model's weights, shape ``(M,)``, in double precision."""
    largest: Tensor = torch.linalg.vector_norm(weights, torch.inf, dim=(1, 2))
    return largest.to(float64)


class Patience:
    """Counts passes since a curve last improved by more than a threshold, model by model.

    Improvements add up: many small ones count as one as soon as together they pass the threshold.

    Parameters
    ----------
    threshold : ndarray of shape (M,)
        How much a value has to fall below the best one to count as an improvement.
    passes : int
        Passes without improvement until a model is stale.
    constant_loss : ndarray of shape (M,), optional
        With it the threshold is relative to what has been gained over the best constant model.
    """

    def __init__(
        self, threshold: np.ndarray, passes: int, constant_loss: np.ndarray | None = None
    ) -> None:
        self.threshold = threshold
        self.passes = passes
        self.constant_loss = constant_loss
        self.best = np.full(len(threshold), np.inf)
        self.waited = np.zeros(len(threshold), dtype=int)

    def update(self, value: np.ndarray, iterated: np.ndarray) -> np.ndarray:
        """Take in one pass's values, of shape ``(M,)``; return which models are stale.

        Only models that `iterated` have a new value.
        """
        threshold = self.threshold
        if self.constant_loss is not None:
            best = np.minimum(self.best, self.constant_loss)
            threshold = threshold * (self.constant_loss - best)
        improved = iterated & (value < self.best - threshold)
        self.waited = np.where(improved, 0, self.waited + iterated)
        self.best = np.where(improved, value, self.best)
        stale: np.ndarray = iterated & (self.waited >= self.passes)
        return stale

    def forgive(self, models: np.ndarray) -> None:
        """Let some models start waiting anew, as after a change of rate."""
        self.waited = np.where(models, 0, self.waited)


class BestWeights:
    """The weights of the pass with the lowest loss that is watched, model by model.

    Parameters
    ----------
    weights : Tensor of shape (M, K, D + 1)
        Where training starts.
    rounding : float
        Of losses that differ by no more than this share of the lowest, the last one counts.
    """

    def __init__(self, weights: Tensor, rounding: float | None = None) -> None:
        self.rounding = rounding
        self.value = np.full(len(weights), np.inf)
        self.weights = weights.clone()
        self.n_iter = np.zeros(len(weights), dtype=int)

    def update(self, value: np.ndarray, weights: Tensor, n_iter: np.ndarray) -> None:
        """Take in one pass's values, of shape ``(M,)``, and the weights they belong to."""
        better = value < self.value
        if self.rounding is not None:
            better = value <= (1.0 + self.rounding) * self.value
        lowest = np.where(better, np.minimum(value, self.value), self.value)
        n_iter = np.where(better, n_iter, self.n_iter)
        if better.all():
            weights = weights.clone()
        elif not better.any():
            weights = self.weights
        else:
            mask = torch.from_numpy(better).to(weights.device).view(-1, 1, 1)
            weights = torch.where(mask, weights, self.weights)
        # At once: Ctrl-C does not come in between.
        self.value, self.n_iter, self.weights = lowest, n_iter, weights
