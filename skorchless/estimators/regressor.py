"""Linear regression."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from torch import Tensor, nn

from skorchless.distributed import Communicator
from skorchless.estimators import checks
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.evaluation import score
from skorchless.estimators.runtime import check_agreement


class TorchLinearRegressor(RegressorMixin, TorchLinearModel):
    r"""Linear regression with squared or Huber loss and elastic-net penalty, trained by PyTorch.

    Minimises

    .. math:: \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(W x_i + b, y_i)
        + \alpha \left( \rho \|W\|_1 + \tfrac12 (1 - \rho) \|W\|^2 \right)

    over the coefficients W and the intercept b, where s are the sample weights, :math:`\rho` is
    ``l1_ratio``, and the loss :math:`\ell` is summed over the outputs. The same ``alpha`` gives the
    same optimum as in
    :class:`~sklearn.linear_model.SGDRegressor` and :class:`~sklearn.linear_model.ElasticNet`;
    :class:`~sklearn.linear_model.Ridge` needs ``alpha * sum(s)``.

    Parameters
    ----------
    loss : {"squared_error", "huber"}, default="squared_error"
        ``"squared_error"`` is :math:`\tfrac12 (y - \hat y)^2`; ``"huber"`` is the loss of
        :class:`torch.nn.HuberLoss` [3]_. By default, squared error without L1 is solved to rounding
        accuracy, whatever ``tol`` is.
    delta : float, default=1.0
        Error at which Huber's loss changes from squared to linear, in units of y. Used with
        ``loss="huber"``.
    alpha : float, default=0.0
        Strength of the penalty, relative to the mean loss. The intercept is never penalised.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients, in float32 if X is of float32 or half precision, and otherwise in float64. The
        array is one-dimensional if y is.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept; zero with ``fit_intercept=False``.

    See Also
    --------
    TorchSoftmaxClassifier : Softmax regression with the same options.
    BatchedGridSearchCV : Grid search that trains all candidates of a fold together.
    LossCurveDisplay : Plot of the loss curves.

    References
    ----------
    .. [1] Liu, D. C., & Nocedal, J. (1989). On the limited memory BFGS method for large scale
       optimization. Mathematical Programming, 45, 503-528.
    .. [2] Kingma, D. P., & Ba, J. (2015). Adam: A method for stochastic optimization. ICLR.
    .. [3] Huber, P. J. (1964). Robust estimation of a location parameter. The Annals of
       Mathematical Statistics, 35(1), 73-101.

    Examples
    --------
    >>> import numpy as np
    >>> from skorchless import TorchLinearRegressor
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = TorchLinearRegressor().fit(X, 2 * X[:, 0] + 1)
    >>> model.predict([[10.0]]).round(6)
    array([21.])
    """

    def __init__(
        self,
        *,
        loss: str = "squared_error",
        delta: float = 1.0,
        alpha: float = 0.0,
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
        warm_start: bool = False,
        device: Any = "auto",
        distributed: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.loss = loss
        self.delta = delta
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
        self.warm_start = warm_start
        self.device = device
        self.distributed = distributed
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Make one epoch over some samples, continuing from previous calls.

        With a float for ``learning_rate``, k calls on the same data give the same result as
        ``fit(max_iter=k, tol=None)``, bit for bit. With ``"auto"``, each call makes one epoch of
        Adam on features that are standardised by all samples so far.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like or Tensor of shape (n_samples,), optional
            Sample weights.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            As in `fit`. Also with ``early_stopping=True``.
        KeyboardInterrupt
            On Ctrl-C. The estimator is then unchanged.
        """
        return self._partial_fit(X, y, sample_weight, first=not hasattr(self, "_n_outputs"))

    def predict(self, X: Any) -> Any:
        """Predict targets.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, in the precision of X. They are a tensor on the device of X if X is a
            tensor.
        """
        raw = self._raw_predictions(X)
        return raw[:, 0] if np.ndim(self.coef_) == 1 else raw

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the coefficient of determination, R².

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        score : float
            R² of the predictions, the mean over the outputs.
        """
        return score(r2_score, y, self.predict(X), sample_weight)

    def to_sklearn(self) -> LinearRegression:
        """Return a fitted LinearRegression with the same predictions.

        Returns
        -------
        model : LinearRegression
            Model with copies of the coefficients, for tools that need an estimator of scikit-learn.
        """
        return self._copy_fit(LinearRegression(fit_intercept=self.fit_intercept))

    def to_torch(self) -> nn.Module:
        """Return a module that maps X to predictions.

        Returns
        -------
        module : torch.nn.Module
            Module on the CPU, in the dtype of the coefficients.
        """
        linear = self._linear_module(*self._weights())
        return nn.Sequential(linear, nn.Flatten(0)) if np.ndim(self.coef_) == 1 else linear

    def _loss_name(self, n_outputs: int) -> str:
        return self.loss

    def _check_target(self, y: Any, name: str) -> Any:
        return checks.check_y_numeric(y, name)

    def _encode(
        self, y: Any, name: str, comm: Communicator, classes: np.ndarray | None, *, reset: bool
    ) -> tuple[Tensor, int]:
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if reset:
            check_agreement(comm, {"the shape of y's rows": tuple(y.shape[1:])})
            self._flat, self._n_outputs = y.ndim == 1, n_outputs
        if n_outputs != self._n_outputs:
            raise ValueError(f"{name} has {n_outputs} outputs, but y had {self._n_outputs} in fit.")
        return y.reshape(-1, n_outputs), n_outputs

    def _coef_shape(self, n_outputs: int, n_features: int) -> tuple[int, ...]:
        return (n_features,) if self._flat else (n_outputs, n_features)
