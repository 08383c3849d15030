"""Softmax regression."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from skorchless.estimators import scores
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.data import Data, Factors, class_weights
from skorchless.estimators.labels import (
    checked_classes,
    checked_labels,
    classes_of,
    encode,
    labels_at,
    united,
)
from skorchless.estimators.out_of_memory import memory_errors
from skorchless.reducer import Reducer


class TorchSoftmaxClassifier(ClassifierMixin, TorchLinearModel):
    r"""Softmax (multinomial logistic) regression with elastic-net penalty, trained by PyTorch.

    Minimises

    .. math:: \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(W x_i + b, y_i)
        + \alpha \left( \rho \|W\|_1 + \tfrac12 (1 - \rho) \|W\|^2 \right)

    over coefficients W and intercepts b, :math:`\ell` being the cross-entropy of
    :math:`\mathrm{softmax}(W x_i + b)`, s the weights and :math:`\rho` = ``l1_ratio``. Two classes
    train one logit. The same ``alpha`` gives the same optimum as in
    :class:`~sklearn.linear_model.SGDClassifier`;
    :class:`~sklearn.linear_model.LogisticRegression` needs ``C = 1 / (alpha * sum(s))``.

    Parameters
    ----------
    alpha : float, default=1e-4
        Strength of the penalty. The intercept is never penalised.
    l1_ratio : float, default=0.0
        Share of L1 in the penalty, between 0 and 1.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    optimizer : {"auto", "sgd", "adam"}, default="auto"
        ``"auto"`` needs no tuning and works on features as they come: a quasi-Newton method
        [1]_, or Adam [2]_ where ``learning_rate`` is a number. ``"sgd"`` and ``"adam"`` are the
        textbook mini-batch updates of :class:`torch.optim.SGD` and :class:`torch.optim.Adam`.
    learning_rate : float or "auto", default="auto"
        A number is exactly that number, on the features as given. ``"auto"``: the estimator
        chooses step and scaling.
    schedule : {"constant", "invscaling", "cosine", "adaptive"}, default="constant"
        Factor on the learning rate in epoch e = 0, 1, ...: 1; 1 / sqrt(1 + e); half a cosine wave
        over ``max_iter`` epochs; or a division by 5 at each plateau, done below 1e-6.
    momentum : float, default=0.0
        Momentum of SGD, in [0, 1).
    nesterov : bool, default=False
        Whether SGD's momentum is Nesterov's.
    betas : pair of float, default=(0.9, 0.999)
        Adam's decay rates.
    batch_size : int, None or "auto", default="auto"
        Rows a batch; None is the full batch, ``"auto"`` min(n_samples, 256).
    max_iter : int, default=1000
        Maximum number of epochs of SGD and Adam, which are passes over the data, and of accepted
        steps of the quasi-Newton method, whose start and rejected steps take further passes.
    tol : float or None, default=1e-4
        The quasi-Newton method stops when the objective is estimated to be within ``tol`` times
        its own value of the optimum, or ``tol`` times what has been gained over the best constant
        model if that is less. Objectives below a thousandth of the best constant model's count as
        that much. SGD and Adam stop when the best epoch loss has not improved by more than ``tol``
        times the best constant model's objective for ``n_iter_no_change`` epochs; with
        ``learning_rate="auto"`` by more than ``tol`` times what has been gained over it.
        None makes ``max_iter`` epochs (the quasi-Newton method ends where rounding does).
    n_iter_no_change : int, default=5
        Epochs without improvement before stopping; with ``learning_rate="auto"`` SGD and Adam make
        at least 50 steps in these.
    shuffle : bool, default=True
        Whether to shuffle the rows before each epoch. Those of an X above 512 MiB, or a quarter of
        the memory, are shuffled by blocks of 128 KiB, and within windows of 64 MiB of them.
    early_stopping : bool, default=False
        Whether to stop on the validation loss and keep the weights that were best on it.
    validation_fraction : float, default=0.1
        Share of the rows held out for early stopping unless `fit` is given ``X_val``.
    class_weight : dict or "balanced", default=None
        Weights of the classes, on top of the rows'. ``"balanced"`` gives all classes the same
        total weight.
    warm_start : bool, default=False
        Whether `fit` starts from the previous solution.
    device : str, int or torch.device, default="auto"
        Where to train. ``"auto"``: a tensor's own device, else CUDA where there is one and the
        work is worth it, else the CPU.
    distributed : bool, default=False
        Whether X and y are one rank's share of the rows of all ranks of the initialised
        ``torch.distributed`` group, which then train the same model.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling and of the held-out split. NumPy's and torch's global generators are
        never touched.
    verbose : int, default=0
        1 prints a line an epoch, 2 adds rate and time.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, in the dtype of X if that is float32 or float64, and else in float64.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
        Intercepts; zero with ``fit_intercept=False``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a frame with string column names.
    n_iter_ : int
        Number of epochs, or of accepted steps.
    best_iter_ : int
        The epoch whose coefficients were kept.
    converged_ : bool
        Whether training ended because ``tol`` was reached or as it was asked to (early stopping,
        ``tol=None``, a callback), and neither the coefficients nor their predictions lost by
        rounding what it had gained. A ``ConvergenceWarning`` says why where it is False. Not set by
        `partial_fit`, which also removes it.
    loss_curve_ : ndarray of shape (n_epochs,)
        Objective, penalty included. SGD and Adam: mean over an epoch's batches, each taken before
        its update. Quasi-Newton: at the accepted coefficients after each iteration, so it never
        rises.
    validation_loss_curve_ : ndarray of shape (n_epochs,)
        Mean loss on the validation rows after each pass, without penalty. Only with ``X_val`` or
        ``early_stopping``.
    learning_rate_ : float
        The learning rate of the first epoch; 1 for the quasi-Newton method, which searches.
    optimizer_ : {"quasi-newton", "sgd", "adam"}
        What ran.
    device_ : str
        Where it ran.

    See Also
    --------
    TorchLinearRegressor : The same for numbers.
    LossCurveDisplay : Draws the loss curves.

    References
    ----------
    .. [1] Liu, D. C., & Nocedal, J. (1989). On the limited memory BFGS method for large scale
       optimization. Mathematical Programming, 45, 503-528.
    .. [2] Kingma, D. P., & Ba, J. (2015). Adam: A method for stochastic optimization. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skorchless import TorchSoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = TorchSoftmaxClassifier().fit(X, y)
    >>> round(model.score(X, y), 2)
    0.98
    """

    _set_by_fit = ("coef_", "intercept_", "classes_")

    def __init__(
        self,
        *,
        alpha: float = 1e-4,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        optimizer: str = "auto",
        learning_rate: float | str = "auto",
        schedule: str = "constant",
        momentum: float = 0.0,
        nesterov: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        batch_size: int | str | None = "auto",
        max_iter: int = 1000,
        tol: float | None = 1e-4,
        n_iter_no_change: int = 5,
        shuffle: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        device: Any = "auto",
        distributed: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.momentum = momentum
        self.nesterov = nesterov
        self.betas = betas
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.device = device
        self.distributed = distributed
        self.random_state = random_state
        self.verbose = verbose

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, classes: Any = None
    ) -> Self:
        """Make one pass over some rows, going on from the passes before.

        With a number for ``learning_rate``, k calls on the same data equal
        ``fit(max_iter=k, tol=None)`` bit for bit. With ``"auto"`` it is a pass of Adam on columns
        standardised by all rows seen so far.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.
        y : array-like or Tensor of shape (n_samples,)
            Labels.
        sample_weight : array-like or Tensor of shape (n_samples,), optional
            Weights of the rows.
        classes : array-like of shape (n_classes,), optional
            All labels that any call will bring. Needed in the first call.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            As `fit`; also without `classes` in the first call, for a label that is not among
            them, and with ``early_stopping=True`` or ``class_weight="balanced"``.
        KeyboardInterrupt
            At Ctrl-C. The estimator is then as it was before.
        """
        first = not hasattr(self, "classes_")
        return self._partial_fit(X, y, sample_weight, first=first, classes=classes)

    def decision_function(self, X: Any) -> Any:
        """Compute the logits.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        scores : ndarray or Tensor of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes, the logit of ``classes_[1]``. Always finite: logits that overflow are
            shifted or cut off, which the probabilities do not show.
        """
        raw = self._raw_predictions(X)
        return raw[:, 0] if len(self.classes_) == 2 else raw

    @memory_errors()
    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : ndarray or Tensor of shape (n_samples,)
            Labels; a tensor on X's device if X is one and the labels are numbers that torch has a
            dtype for.
        """
        scores = self.decision_function(X)
        if isinstance(scores, Tensor):
            index = (scores > 0).long() if scores.ndim == 1 else scores.argmax(dim=1)
            return labels_at(self.classes_, index)
        index = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[index]

    @memory_errors()
    def predict_proba(self, X: Any) -> Any:
        """Compute the probabilities of the classes.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        p : ndarray or Tensor of shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to 1.
        """
        log_p = self.predict_log_proba(X)
        return log_p.exp() if isinstance(log_p, Tensor) else np.exp(log_p)

    @memory_errors()
    def predict_log_proba(self, X: Any) -> Any:
        """Compute the logarithms of the probabilities, exact where these underflow.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_p : ndarray or Tensor of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        raw = self._raw_predictions(X)
        two_classes = len(self.classes_) == 2  # one logit, the other is 0
        if isinstance(raw, Tensor):
            if two_classes:
                raw = torch.cat([torch.zeros_like(raw), raw], dim=1)
            return torch.log_softmax(raw, dim=1)
        if two_classes:
            raw = np.hstack([np.zeros_like(raw), raw])
        shifted = raw - raw.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.
        y : array-like or Tensor of shape (n_samples,)
            True labels.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Share of the rows that `predict` gets right.
        """
        return scores.accuracy(y, self.predict(X), sample_weight)

    def to_sklearn(self) -> LogisticRegression:
        """Return a fitted LogisticRegression with the same predictions.

        Returns
        -------
        model : LogisticRegression
            With copies of the coefficients, for whatever takes scikit-learn's own.
        """
        model = self._copy_fit(LogisticRegression(fit_intercept=self.fit_intercept))
        model.classes_ = self.classes_.copy()
        return model

    def to_torch(self) -> nn.Module:
        """Return a module that maps X to logits, one a class.

        Returns
        -------
        module : torch.nn.Linear
            On the CPU, in the dtype of the coefficients. For two classes the first logit is 0.
        """
        coef, intercept = self._weights()
        if len(self.classes_) == 2:
            coef = np.vstack([np.zeros_like(coef), coef])
            intercept = np.append(np.zeros_like(intercept), intercept)
        return self._linear_module(coef, intercept)

    def _loss_name(self, n_outputs: int) -> str:
        return "logistic" if n_outputs == 1 else "softmax"

    def _check_target(self, y: Any, name: str) -> np.ndarray | Tensor:
        return checked_labels(y, name)

    def _encode(
        self, y: np.ndarray | Tensor, name: str, reducer: Reducer, *, reset: bool
    ) -> tuple[Tensor, int]:
        if reset:
            announced = self.__dict__.pop("_announced", None)
            own = classes_of(y) if announced is None else announced
            self.classes_: np.ndarray = united(reducer.exchange(own))
        encoded = encode(y, self.classes_, name)
        if len(self.classes_) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {self.classes_.tolist()[0]!r}. {name} has to name "
                "another one in some row that weighs more than 0."
            )
        if len(self.classes_) == 2:
            return encoded.to(torch.float64).unsqueeze(1), 1
        return encoded, len(self.classes_)

    def _check_pass(self, *, first: bool, classes: Any) -> None:
        super()._check_pass(first=first, classes=classes)
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced': it cannot know how frequent "
                "the classes will be. Compute weights with compute_class_weight('balanced', ...) "
                "and pass them as a dict."
            )
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if first:
            self._announced = checked_classes(classes, None)  # until `_encode` learns them
        elif classes is not None:
            checked_classes(classes, self.classes_)

    def _class_weights(self, data: Data, reducer: Reducer) -> Factors | None:
        if self.class_weight is None:
            return None
        return class_weights(self.class_weight, self.classes_, data, reducer)

    def _coef_shape(self, n_outputs: int, n_features: int) -> tuple[int, ...]:
        return (n_outputs, n_features)
