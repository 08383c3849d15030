"""What both estimators share: validate, train, publish."""

import inspect
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial, update_wrapper
from types import FunctionType
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skorchless.distributed import SINGLE_PROCESS, Communicator
from skorchless.estimators import checks
from skorchless.estimators.callbacks import (
    CallbackSupportMixin,
    FitObserver,
    has_callbacks,
    with_callbacks,
)
from skorchless.estimators.evaluation import raw_predictions
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import (
    PARAMETERS,
    check_parameters,
    note_clone,
    warn_of_unused,
)
from skorchless.estimators.problem import Dataset, FitProblem, FitResult, class_weights, hold_out
from skorchless.estimators.runtime import (
    check_agreement,
    check_some_rows,
    check_start,
    communicator_of,
    facts_of,
    generator_of_rank,
    is_worth_moving,
    memory_errors,
    on_enough_threads,
    resolve_device,
    where_double_is,
)
from skorchless.estimators.solve import fit_stack
from skorchless.restoring import restore
from skorchless.training import TrainingResult

#: Where the documentation is; pyproject.toml names it too.
DOCUMENTATION = "https://skorchless.readthedocs.io/en/stable/"

#: X, y and sample_weight, as the user passes them.
Rows = tuple[Any, Any, Any]

#: Attributes that the next fit may not set, or only in its end.
RESET_BY_FIT = (
    "validation_loss_curve_",
    "converged_",
    "learning_rate_",
    "optimizer_",
    "device_",
    "_memory",
)


class TorchLinearModel(CallbackSupportMixin, BaseEstimator):
    """Base class of the estimators, not meant for direct use.

    Its parameters and attributes are described here once: `__init_subclass__` adds them to the
    docstrings of the estimators.

    Parameters
    ----------
    l1_ratio : float, default=0.0
        Share of L1 in the penalty: 0 is the L2 penalty, 1 is the L1 penalty, and values between are
        the elastic net.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    optimizer : {"auto", "sgd", "adam"}, default="auto"
        ``"auto"`` needs no tuning and no scaled features: it is a quasi-Newton method [1]_, or Adam
        [2]_ if ``learning_rate`` is a number. ``"sgd"`` and ``"adam"`` make the mini-batch updates
        of :class:`torch.optim.SGD` and :class:`torch.optim.Adam`.
    learning_rate : float or "auto", default="auto"
        A float is used unchanged, on the features as given. With ``"auto"`` the estimator chooses
        the step size and scales the features internally.
    schedule : {"constant", "invscaling", "cosine", "adaptive"}, default="constant"
        Factor of the learning rate in epoch e = 0, 1, ...: ``"constant"`` is 1, ``"invscaling"`` is
        1 / sqrt(1 + e), ``"cosine"`` is half a cosine wave over ``max_iter`` epochs, and
        ``"adaptive"`` divides by 5 whenever the loss stops improving and ends training below a
        learning rate of 1e-6. Used by SGD and Adam.
    momentum : float, default=0.0
        Momentum, in [0, 1). Used by SGD.
    nesterov : bool, default=False
        Whether to use Nesterov's momentum. Used by SGD.
    betas : pair of float, default=(0.9, 0.999)
        Decay rates of the moving averages. Used by Adam.
    batch_size : int, None or "auto", default="auto"
        Samples per batch; None means all samples, and ``"auto"`` means min(n_samples, 256). Used by
        SGD and Adam.
    max_iter : int, default=1000
        Maximum number of epochs of SGD and Adam, or of iterations of the quasi-Newton method. Its
        first evaluation and its rejected steps take additional passes over the data.
    tol : float or None, default=1e-4
        Tolerance for stopping. The quasi-Newton method stops when the objective is estimated to be
        within ``tol`` times its own value of the optimum, or, if that is less, within ``tol`` times
        the improvement over the best constant model. (An objective below a thousandth of the best
        constant model's counts as that value.)
        SGD and Adam stop when the best epoch loss has not improved by more than ``tol`` times the
        objective of the best constant model for ``n_iter_no_change`` epochs; with
        ``learning_rate="auto"``, by more than ``tol`` times the improvement over that model.
        None means ``max_iter`` epochs; the quasi-Newton method may end earlier, where rounding
        allows no further progress.
    n_iter_no_change : int, default=5
        Number of epochs without improvement before training stops. Used by SGD and Adam, which
        also make at least 50 steps in these epochs if ``learning_rate="auto"``, and by early
        stopping.
    shuffle : bool, default=True
        Whether to shuffle the samples before each epoch. If X takes more than 512 MiB, blocks of
        128 KiB are shuffled, and the samples within windows of 64 MiB. Used by SGD and Adam.
    early_stopping : bool, default=False
        Whether to stop when the validation loss stops improving, and to keep the weights with the
        lowest validation loss.
    validation_fraction : float, default=0.1
        Share of the samples to hold out for early stopping if ``X_val`` is not passed to `fit`.
    warm_start : bool, default=False
        Whether `fit` starts from the previous solution.
    device : str, int or torch.device, default="auto"
        Device to train on. ``"auto"`` is the device of X if X is a tensor; otherwise it is CUDA if
        a device is available and the problem is large enough, and the CPU if not.
    distributed : bool, default=False
        Whether X and y are the share of this rank in the samples of all ranks of the initialised
        ``torch.distributed`` group. All ranks then train the same model together.
    random_state : int, RandomState instance or None, default=None
        Seed for shuffling and for the held-out samples. The global generators of NumPy and torch
        are not used.
    verbose : int, default=0
        1 prints one line per epoch or iteration; 2 adds learning rate and elapsed time.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a DataFrame with string column names.
    n_iter_ : int
        Number of epochs of SGD and Adam, or of iterations of the quasi-Newton method.
    best_iter_ : int
        Epoch or iteration whose coefficients were kept.
    converged_ : bool
        Whether training ended because ``tol`` was reached, or as requested (by early stopping,
        ``tol=None`` or a callback), without a loss of accuracy by rounding. If it is False, a
        ``ConvergenceWarning`` gives the reason. `partial_fit` removes this attribute.
    loss_curve_ : ndarray of shape (n_iter,)
        Objective, including the penalty. For SGD and Adam, the mean of an epoch's batch losses,
        each computed before its update. For the quasi-Newton method, the value after each
        iteration, which never increases.
    validation_loss_curve_ : ndarray of shape (n_iter,)
        Mean loss on the validation data after each epoch or iteration, without the penalty. Only
        with ``X_val`` or ``early_stopping=True``.
    learning_rate_ : float
        Learning rate of the first epoch; 1 for the quasi-Newton method, which uses a line search.
    optimizer_ : {"quasi-newton", "sgd", "adam"}
        Optimizer that was used.
    device_ : str
        Device that was used.
    """

    # Where the question mark of the HTML representation leads.
    _doc_link_module = "skorchless"
    _doc_link_template = DOCUMENTATION + "generated/skorchless.{estimator_name}.html"

    #: Attributes that predictions need.
    _set_by_fit: tuple[str, ...] = ("coef_", "intercept_")

    n_features_in_: int
    feature_names_in_: np.ndarray
    coef_: np.ndarray
    intercept_: Any
    n_iter_: int
    best_iter_: int
    converged_: bool
    loss_curve_: np.ndarray
    validation_loss_curve_: np.ndarray

    def __init_subclass__(cls, **options: Any) -> None:
        """Complete the docstring of an estimator, and name it in Python's errors about `fit`.

        The defaults are kept for subclasses whose own ``__init__`` leaves parameters out.
        """
        super().__init_subclass__(**options)
        is_ours = TorchLinearModel in cls.__bases__
        parameters = inspect.signature(cls.__init__).parameters
        for name, parameter in parameters.items():
            known = name in PARAMETERS and parameter.default is not parameter.empty
            if known and (is_ours or hasattr(cls, name)):
                setattr(cls, name, parameter.default)
        if is_ours:
            cls.fit = as_method_of(cls, TorchLinearModel.fit)  # type: ignore[method-assign]
            if cls.__doc__ and TorchLinearModel.__doc__:
                cls.__doc__ = _with_shared_entries(
                    cls.__doc__, TorchLinearModel.__doc__, parameters
                )

    # What each estimator has to say for itself.

    def _loss_name(self, n_outputs: int) -> str:
        """Name in LOSSES."""
        raise NotImplementedError

    def _check_target(self, y: Any, name: str) -> Any:
        """Return y checked, without regard to X."""
        raise NotImplementedError

    def _encode(
        self, y: Any, name: str, comm: Communicator, classes: np.ndarray | None, *, reset: bool
    ) -> tuple[Tensor, int]:
        """Return checked targets as a tensor, and the number of outputs.

        With `reset` the shape of the targets is learned, and their classes unless they are passed.
        """
        raise NotImplementedError

    def _check_pass(self, *, first: bool, classes: Any) -> np.ndarray | None:
        """Refuse what `partial_fit` cannot do; return the classes that are announced."""
        if self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: each call makes one pass "
                "over the data. Set early_stopping=False."
            )
        return None

    def _coef_shape(self, n_outputs: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``coef_``."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __sklearn_clone__(self) -> Self:
        clone: Self = super().__sklearn_clone__()
        note_clone(self, clone)
        return clone

    # Training.

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        coef_init: Any = None,
        intercept_init: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Training data: a list, a NumPy array or memory map, a pandas or polars DataFrame, a
            SciPy sparse array or matrix, or a torch tensor on any device. It is never modified.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets. For the classifier, one label of any type per sample.
        sample_weight : array-like or Tensor of shape (n_samples,), optional
            Sample weights. Only their ratios matter. A sample of weight 0 is left out.
        coef_init : array-like of the shape of ``coef_``, optional
            Initial coefficients, which take precedence over ``warm_start``. By default SGD and Adam
            start at zero, and the quasi-Newton method at the best constant model, which also
            replaces initial coefficients with a higher objective.
        intercept_init : float or array-like of the shape of ``intercept_``, optional
            Initial intercept.
        X_val, y_val : as X and y, optional
            Validation data. The loss on them is recorded in ``validation_loss_curve_``. With
            ``early_stopping=True`` it decides when to stop.
        sample_weight_val : array-like or Tensor of shape (n_samples_val,), optional
            Sample weights of the validation data.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If data or a parameter is invalid, or if the loss diverges. The estimator is then
            unchanged.
        TypeError
            If an argument has a type that is not supported.
        MemoryError
            If there is not enough memory.
        KeyboardInterrupt
            On Ctrl-C. The estimator then has the coefficients of the last iteration. It is
            unchanged if there was none, and always with ``distributed=True``.
        RuntimeError
            If another rank fails, with ``distributed=True``.
        """
        warn_of_unused(self, stacklevel=2)
        options = coef_init, intercept_init, X_val, y_val, sample_weight_val
        comm = communicator_of(self.distributed)
        outcome = comm.together(
            partial(self._fit, comm, X, y, sample_weight, *options),
            undo=partial(restore, self, dict(vars(self))),
        )
        if outcome.interrupt is not None:
            raise outcome.interrupt
        if not self.converged_:
            self._warn_not_converged(outcome.results[0])
        return self

    @memory_errors()
    @with_callbacks
    def _fit(self, comm: Communicator, *given: Any) -> FitResult:
        problem = comm.checked(partial(self._prepare, *given, comm=comm))
        # Callbacks see the model between passes: nothing in it may be of the fit before.
        for name in RESET_BY_FIT:
            self.__dict__.pop(name, None)
        return self._train(problem, *given[:3])

    def _partial_fit(
        self, X: Any, y: Any, sample_weight: Any, *, first: bool, classes: Any = None
    ) -> Self:
        """One pass; the `first` call learns shapes, the others go on from where it stopped."""
        if first:
            warn_of_unused(self, one_pass=True, stacklevel=3)
        comm = communicator_of(self.distributed)
        options = {"one_pass": True, "first": first, "classes": classes}
        comm.together(
            partial(self._make_pass, comm, X, y, sample_weight, **options),
            undo=partial(restore, self, dict(vars(self))),
        )
        return self

    @memory_errors()
    def _make_pass(self, comm: Communicator, *data: Any, **options: Any) -> None:
        earlier = self.__dict__.get("loss_curve_", [])
        problem = comm.checked(partial(self._prepare, *data, comm=comm, **options))
        self._memory = self._train(problem).memory
        del self.converged_  # one pass is not meant to converge
        self.loss_curve_ = np.append(earlier, self.loss_curve_)
        self.n_iter_ = self.best_iter_ = len(self.loss_curve_)

    def _prepare(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        coef_init: Any = None,
        intercept_init: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        *,
        comm: Communicator = SINGLE_PROCESS,
        one_pass: bool = False,
        first: bool = True,
        classes: Any = None,
    ) -> FitProblem:
        """Check what `fit` is given, or `partial_fit`, which makes `one_pass`.

        The `first` call learns shapes, and classes unless they are passed.
        """
        check_parameters(self)
        if one_pass:
            classes = self._check_pass(first=first, classes=classes)
        if isinstance(X, Tensor):
            checks.check_same_device(X.device, X_val=X_val)
        previous = dict(self.__dict__)
        facts = {"whether it is the first call": first, "passing X_val": X_val is not None}
        options = {"one_pass": one_pass, "reset": first, "classes": classes}
        data = self._training_data((X, y, sample_weight), comm, facts, **options)
        given = {"coef_init": coef_init, "intercept_init": intercept_init}
        start = self._initial_weights(data, previous, given, go_on=one_pass or self.warm_start)
        check_start(comm, start)
        generator = generator_of_rank(comm, self.random_state)
        by_class = None
        if self._parameters().get("class_weight") is not None:
            by_class = class_weights(self.class_weight, self.classes_, data, comm)
        memory = (one_pass and previous.get("_memory")) or Memory()
        unit = memory.weight_unit if memory.passes else None
        data, unit = data.reweighted(by_class, comm, unit)
        held_out = X_val, y_val, sample_weight_val
        data, validation = self._validation(data, held_out, generator, comm)
        if X_val is not None and validation is not None:
            validation, _ = validation.reweighted(by_class, comm, name="y_val")
        return FitProblem(
            [self._parameters()],
            self._loss_name(data.n_outputs),
            data,
            start,
            generator,
            validation,
            comm,
            replace(memory, weight_unit=unit),
            one_pass,
        )

    def _parameters(self) -> dict[str, Any]:
        """Our own, also of a subclass that has more or fewer."""
        return {name: getattr(self, name) for name in PARAMETERS if hasattr(type(self), name)}

    def _training_data(
        self,
        rows: Rows,
        comm: Communicator,
        facts: dict[str, Any],
        *,
        one_pass: bool,
        **options: Any,
    ) -> Dataset:
        """Check the rows to train on, and put them where training happens."""
        X, y, _ = rows
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        own = X.device if isinstance(X, Tensor) else None
        place = partial(resolve_device, self.device, own, distributed=bool(self.distributed))
        if own is not None:
            place()  # refuses a device before there is work on it
        facts = {"the method": "partial_fit" if one_pass else "fit", **facts}
        data = self._checked_data(rows, comm, facts, **options)
        sizes = comm.all_gather_object((data.X.numel() * data.n_outputs, len(data.X)))
        work, n_rows = map(sum, zip(*sizes, strict=True))
        worth = is_worth_moving(self._parameters(), work, n_rows, one_pass=one_pass)
        return data.to(place(worth_moving=worth))

    def _checked_data(
        self,
        given: Rows,
        comm: Communicator,
        facts: dict[str, Any] | None = None,
        *,
        reset: bool,
        classes: Any = None,
        suffix: str = "",
    ) -> Dataset:
        """Check rows and encode their targets; the ranks must agree on `facts` and parameters.

        Rows that weigh nothing are dropped first, and their classes with them.
        """
        X, y, sample_weight = given
        names = [name + suffix for name in ("X", "y", "sample_weight")]
        own = X.device if isinstance(X, Tensor) else torch.device("cpu")
        checks.check_same_device(own, **dict(zip(names[1:], (y, sample_weight), strict=True)))
        X, y, sample_weight = where_double_is(X, y, sample_weight)
        rows = checks.check_X(self, X, reset=reset, name=names[0], min_rows=2 - min(comm.size, 2))
        if facts is not None and comm.size > 1:
            check_agreement(comm, facts_of(self, rows) | facts)

        def encoded() -> Dataset:
            target, X = self._check_target(y, names[1]), rows
            checks.check_lengths(X, target, names[1])
            weight = checks.check_sample_weight(
                sample_weight, len(X), names[2], all_zero=comm.size > 1
            )
            if weight is not None and not bool((weight > 0).all()):
                weight = weight.to(X.device)
                kept = weight > 0
                X, weight = X.index_select(0, kept.nonzero().view(-1)), weight[kept]
                target = target[kept.numpy(force=True) if isinstance(target, np.ndarray) else kept]
            check_some_rows(comm, len(X), checks.NO_WEIGHT)
            target, n_outputs = self._encode(target, names[1], comm, classes, reset=reset)
            return Dataset(X, target, weight, n_outputs)

        return on_enough_threads(rows.numel(), encoded)

    def _initial_weights(
        self, data: Dataset, previous: dict[str, Any], given: dict[str, Any], *, go_on: bool
    ) -> np.ndarray:
        """Weights to start from, shape ``(1, K, D + 1)``; what is `given` wins."""
        init: dict[str, Any] = {}
        if go_on and "coef_" in previous:
            old: Any = previous.get("classes_")
            new: Any = self.__dict__.get("classes_")
            if old is not None and not np.array_equal(old, new):
                raise ValueError(
                    f"warm_start=True cannot go on from classes {old} with classes {new}. Fit all "
                    "classes at once, or set warm_start=False."
                )
            # Whoever sets coefficients by hand may leave the intercept out.
            init = {n: previous[n] for n in ("coef_", "intercept_") if n in previous}
        init |= {name: value for name, value in given.items() if value is not None}
        shape = self._coef_shape(data.n_outputs, data.X.shape[1])
        dtype = np.float32 if data.X.dtype == torch.float32 else np.float64
        start = np.zeros((1, data.n_outputs, data.X.shape[1] + 1), dtype=dtype)
        for name, value in init.items():
            # Without "_init" it is the fit before.
            cure = "" if name.endswith("_init") else " With warm_start=False, fit starts anew."
            if name.startswith("coef"):
                coef = checks.check_coef_init(value, name, shape, dtype, cure)
                start[0, :, :-1] = coef.reshape(data.n_outputs, -1)
            elif self.fit_intercept:
                start[0, :, -1] = checks.check_coef_init(value, name, shape[:-1], dtype, cure)
        return start

    def _validation(
        self,
        data: Dataset,
        held_out: Rows,
        generator: torch.Generator,
        comm: Communicator,
    ) -> tuple[Dataset, Dataset | None]:
        """The rows to train on and those to validate on, if any."""
        X_val, y_val, sample_weight_val = held_out
        if (X_val is None) != (y_val is None):
            given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
            raise ValueError(f"{given} was passed without {missing}: validation needs both.")
        if X_val is not None:
            validation = self._checked_data(held_out, comm, reset=False, suffix="_val")
            X = validation.X.to(data.X.dtype)
            return data, replace(validation, X=X).to(data.X.device)
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val was passed without X_val and y_val.")
        if not self.early_stopping:
            return data, None
        classes = self.__dict__["classes_"] if is_classifier(self) else None
        return hold_out(data, self.validation_fraction, generator, comm, classes)

    def _train(self, problem: FitProblem, *data: Any) -> FitResult:
        """Train, and set the fitted attributes; callbacks see the `data`."""
        observer = None
        if self.verbose or (data and has_callbacks(self)):
            observer = FitObserver(self, problem, data)
        outcome = fit_stack(problem, None if observer is None else observer.of_training)
        failure = outcome.failure(0)
        if failure is not None:
            raise failure
        if outcome.weights[0] is None and outcome.interrupt is not None:
            raise outcome.interrupt
        self._set_fitted_attributes(outcome, problem)
        if observer is not None:
            observer.on_fit_end()
        return outcome

    def _set_fitted_attributes(
        self, outcome: FitResult, problem: FitProblem, model: int = 0
    ) -> None:
        """Set the fitted attributes to what came of one model of the stack."""
        result, weights = outcome.results[model], outcome.weights[model]
        assert weights is not None
        self.__dict__.pop("validation_loss_curve_", None)
        self.__dict__.update(self._attributes(result, weights))
        # As the user wanted it to, and nothing of it was lost.
        self.converged_ = not result.lost_digits and (result.converged or self.tol is None)
        self.learning_rate_ = float(outcome.rates[model])
        self.optimizer_ = outcome.optimizer
        self.device_ = str(problem.data.X.device)

    def _attributes(self, result: TrainingResult, weights: np.ndarray) -> dict[str, Any]:
        """Return the attributes that change with each pass, for `weights` ``(K, D + 1)``."""
        shape = self._coef_shape(len(weights), weights.shape[1] - 1)
        intercept = weights[:, -1].copy()
        attributes: dict[str, Any] = {
            "coef_": np.ascontiguousarray(weights[:, :-1]).reshape(shape),
            "intercept_": intercept if len(shape) == 2 else intercept[0],
            "n_iter_": result.n_iter,
            "best_iter_": result.best_iter,
            "loss_curve_": np.array(result.loss_curve),
        }
        if result.validation_loss_curve:
            attributes["validation_loss_curve_"] = np.array(result.validation_loss_curve)
        return attributes

    def _warn_not_converged(self, result: TrainingResult) -> None:
        """Say why training ended before `tol` was reached, or what its end lost, and what helps."""
        name, dtype, said = type(self).__name__, np.asarray(self.coef_).dtype, []
        single = dtype == np.float32
        if not result.converged and self.tol is not None and result.stuck:
            said.append(
                f"{name} stopped in iteration {result.n_iter}, before tol={self.tol} was "
                "reached: no step lowers the objective any further, because rounding errors hide "
                f"what remains. {'Pass X as float64, r' if single else 'R'}emove nearly collinear "
                "features, raise alpha, or raise tol."
            )
        elif not result.converged and self.tol is not None:
            quasi_newton = self.optimizer_ == "quasi-newton"
            also = ", transform features that span many orders of magnitude" * quasi_newton
            said.append(
                f"{name} made max_iter={self.max_iter} iterations before tol={self.tol} was "
                f"reached. Raise max_iter or tol{also}, or set tol=None if a fixed number of "
                "iterations is wanted."
            )
        reached = result.loss_curve[result.best_iter - 1]
        if result.lost_digits:
            cure = (
                "Pass X as float64, or subtract the means of the features"
                if single
                else "Subtract the means of the features, remove nearly collinear ones, or raise "
                "alpha"
            )
            said.append(
                f"{name} did not converge: {dtype} cannot hold the optimum or its predictions, "
                "because the means of some features are too large compared with their standard "
                f"deviations or features are nearly collinear. {cure}. The objective of the "
                f"returned model is {result.returned_objective:.10g}; {reached:.10g} was reached "
                "before rounding."
            )
        else:
            said.append(f"The objective is {reached:.6g}.")
        warnings.warn(" ".join(said), ConvergenceWarning, stacklevel=3)

    # Predicting and handing on.

    @memory_errors()
    def _raw_predictions(self, X: Any) -> np.ndarray | Tensor:
        """``X W + b``, shape ``(n, K)``: torch for torch, else NumPy."""
        return raw_predictions(self, X, *self._weights())

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients ``(K, D)`` and intercepts ``(K,)``, which may have been set by hand."""
        check_is_fitted(self, self._set_by_fit)
        coef, intercept = (
            value
            if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f"
            else checks.finite_numbers(value, name)
            for name, value in (("coef_", self.coef_), ("intercept_", self.intercept_))
        )
        coef, intercept = np.atleast_2d(coef), np.ravel(intercept)
        classes = self.__dict__.get("classes_")
        outputs = len(coef) if classes is None else len(classes) - (len(classes) == 2)
        features = getattr(self, "n_features_in_", coef.shape[-1])
        if intercept.size == 1:
            intercept = np.full(outputs, intercept.item())
        for name, found, shape in (
            ("coef_", coef.shape, (outputs, features)),
            ("intercept_", intercept.shape, (outputs,)),
        ):
            if found != shape:
                raise ValueError(f"{name} has shape {found}, but this model needs {shape}.")
        return coef, intercept

    def _copy_fit(self, model: Any) -> Any:
        """Give `model` our coefficients, and with them our predictions."""
        coef, intercept = self._weights()
        model.coef_ = coef.reshape(np.shape(self.coef_)).copy()
        model.intercept_ = intercept.copy() if np.ndim(self.intercept_) else intercept[0]
        model.n_features_in_ = self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            model.feature_names_in_ = self.feature_names_in_.copy()
        return model

    def _linear_module(self, coef: np.ndarray, intercept: np.ndarray) -> nn.Linear:
        """A layer that computes ``X coef.T + intercept``."""
        outputs, features = coef.shape
        weights = torch.from_numpy(coef.copy())
        linear = nn.Linear(features, outputs, device="meta", dtype=weights.dtype)
        linear.weight = nn.Parameter(weights)
        linear.bias = nn.Parameter(torch.from_numpy(np.array(intercept, dtype=coef.dtype)))
        return linear


def _with_shared_entries(doc: str, shared: str, order: Iterable[str]) -> str:
    """Add the entries that the sections of `shared` describe to those of a numpydoc docstring.

    Parameters
    ----------
    doc, shared : str
    order : iterable of str
        Names of the parameters in the order of the signature.
    """
    doc, shared = inspect.cleandoc(doc), inspect.cleandoc(shared)
    for section in ("Parameters", "Attributes"):
        # Up to the next title, or the end.
        pattern = re.compile(rf"(^{section}\n-+\n)(.*?)(?=\n\n\S[^\n]*\n---|\Z)", re.M | re.S)
        entries: dict[str, str] = {}
        for text in (doc, shared):
            found = pattern.search(text)
            for entry in re.split(r"\n(?=\S)", found[2] if found else ""):
                entries.setdefault(entry.split(" :")[0], entry)
        names = [name for name in order if name in entries]
        names += [name for name in entries if name not in names]
        body = "\n".join(entries[name] for name in names)
        doc = pattern.sub(lambda title: title[1] + body, doc, count=1)  # noqa: B023
    return doc + "\n"


def as_method_of(owner: type, function: Any) -> Any:
    """A copy of a function that is called a method of `owner` in error messages."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    update_wrapper(copy, function)
    del copy.__dict__["__wrapped__"]
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = f"{owner.__name__}.{function.__name__}"
    return copy
