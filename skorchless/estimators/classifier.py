"""Softmax regression."""

from typing import Any, Self

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from skorchless.distributed import Communicator
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.checks import (
    check_classes,
    check_y_classes,
    encode,
    labels_at,
    union_of_classes,
)
from skorchless.estimators.evaluation import score
from skorchless.estimators.runtime import memory_errors


class TorchSoftmaxClassifier(ClassifierMixin, TorchLinearModel):
    r"""Softmax (multinomial logistic) regression with elastic-net penalty, trained by PyTorch.

    Minimises

    .. math:: \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(W x_i + b, y_i)
        + \alpha \left( \rho \|W\|_1 + \tfrac12 (1 - \rho) \|W\|^2 \right)

    over the coefficients W and the intercepts b, where :math:`\ell` is the cross-entropy of
    :math:`\mathrm{softmax}(W x_i + b)`, s are the sample weights and :math:`\rho` is ``l1_ratio``.
    With two classes, a single logit is trained. The same ``alpha`` gives the same optimum as in
    :class:`~sklearn.linear_model.SGDClassifier`;
    :class:`~sklearn.linear_model.LogisticRegression` needs ``C = 1 / (alpha * sum(s))``.

    Parameters
    ----------
    alpha : float, default=1e-4
        Strength of the penalty, relative to the mean loss. The intercept is never penalised.
    class_weight : dict or "balanced", default=None
        Class weights, multiplied with ``sample_weight``. ``"balanced"`` gives all classes the same
        total weight.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, in float32 if X is of float32 or half precision, and otherwise in float64.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
        Intercepts; zero with ``fit_intercept=False``.

    See Also
    --------
    TorchLinearRegressor : Linear regression with the same options.
    BatchedGridSearchCV : Grid search that trains all candidates of a fold together.
    LossCurveDisplay : Plot of the loss curves.

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
        """Make one epoch over some samples, continuing from previous calls.

        With a float for ``learning_rate``, k calls on the same data give the same result as
        ``fit(max_iter=k, tol=None)``, bit for bit. With ``"auto"``, each call makes one epoch of
        Adam on features that are standardised by all samples so far.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,)
            Labels.
        sample_weight : array-like or Tensor of shape (n_samples,), optional
            Sample weights.
        classes : array-like of shape (n_classes,), optional
            All labels that occur in any call. Required in the first call.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            As in `fit`. Also if ``classes`` is missing in the first call, if a label is not in
            ``classes``, or with ``early_stopping=True`` or ``class_weight="balanced"``.
        KeyboardInterrupt
            On Ctrl-C. The estimator is then unchanged.
        """
        first = not hasattr(self, "classes_")
        return self._partial_fit(X, y, sample_weight, first=first, classes=classes)

    def decision_function(self, X: Any) -> Any:
        """Compute the logits.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        scores : ndarray or Tensor of shape (n_samples, n_classes), or (n_samples,) for two classes
            Logits; for two classes, the logit of ``classes_[1]``. They are always finite: logits
            that overflow are shifted or clipped, without an effect on the probabilities.
        """
        raw = self._raw_predictions(X)
        return raw[:, 0] if len(self.classes_) == 2 else raw

    @memory_errors()
    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray or Tensor of shape (n_samples,)
            Labels. They are a tensor on the device of X if X is a tensor and torch has a dtype for
            the labels.
        """
        scores = self.decision_function(X)
        if isinstance(scores, Tensor):
            index = (scores > 0).long() if scores.ndim == 1 else scores.argmax(dim=1)
            return labels_at(self.classes_, index)
        index = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[index]

    @memory_errors()
    def predict_proba(self, X: Any) -> Any:
        """Compute class probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        p : ndarray or Tensor of shape (n_samples, n_classes)
            Probabilities, with columns in the order of ``classes_``. Each row sums to 1.
        """
        log_p = self.predict_log_proba(X)
        return log_p.exp() if isinstance(log_p, Tensor) else np.exp(log_p)

    @memory_errors()
    def predict_log_proba(self, X: Any) -> Any:
        """Compute logarithms of class probabilities, also where the probabilities underflow.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_p : ndarray or Tensor of shape (n_samples, n_classes)
            Logarithms, with columns in the order of ``classes_``.
        """
        raw = self._raw_predictions(X)
        two_classes = len(self.classes_) == 2  # one logit, the other is 0
        if isinstance(raw, Tensor):
            if two_classes:
                raw = torch.cat([torch.zeros_like(raw), raw], dim=1)
            return torch.log_softmax(raw, dim=1)
        if two_classes:
            raw = np.hstack([np.zeros_like(raw), raw])
        return log_softmax(raw, axis=1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,)
            True labels.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        score : float
            Share of the samples whose label `predict` returns, weighted by ``sample_weight``.
        """
        return score(accuracy_score, y, self.predict(X), sample_weight)

    def to_sklearn(self) -> LogisticRegression:
        """Return a fitted LogisticRegression with the same predictions.

        Returns
        -------
        model : LogisticRegression
            Model with copies of the coefficients, for tools that need an estimator of scikit-learn.
        """
        model = self._copy_fit(LogisticRegression(fit_intercept=self.fit_intercept))
        model.classes_ = self.classes_.copy()
        return model

    def to_torch(self) -> nn.Module:
        """Return a module that maps X to logits, one per class.

        Returns
        -------
        module : torch.nn.Linear
            Module on the CPU, in the dtype of the coefficients. With two classes, the first of the
            two logits is 0.
        """
        coef, intercept = self._weights()
        if len(self.classes_) == 2:
            coef = np.vstack([np.zeros_like(coef), coef])
            intercept = np.append(np.zeros_like(intercept), intercept)
        return self._linear_module(coef, intercept)

    def _loss_name(self, n_outputs: int) -> str:
        return "logistic" if n_outputs == 1 else "softmax"

    def _check_target(self, y: Any, name: str) -> Any:
        return check_y_classes(y, name)

    def _encode(
        self, y: Any, name: str, comm: Communicator, classes: np.ndarray | None, *, reset: bool
    ) -> tuple[Tensor, int]:
        if reset:
            if classes is None:
                classes = np.unique(y)
            self.classes_: np.ndarray = union_of_classes(comm.all_gather_object(classes))
        encoded = encode(y, self.classes_, name)
        if len(self.classes_) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {self.classes_.tolist()[0]!r}. {name} must contain "
                "another one in at least one sample with a positive weight."
            )
        if len(self.classes_) == 2:
            return encoded.to(torch.float64).unsqueeze(1), 1
        return encoded, len(self.classes_)

    def _check_pass(self, *, first: bool, classes: Any) -> np.ndarray | None:
        super()._check_pass(first=first, classes=classes)
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced': it cannot know how frequent "
                "the classes will be. Compute weights with compute_class_weight('balanced', ...) "
                "and pass them as a dict."
            )
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is None:
            return None
        return check_classes(classes, None if first else self.classes_)

    def _coef_shape(self, n_outputs: int, n_features: int) -> tuple[int, ...]:
        return (n_outputs, n_features)
