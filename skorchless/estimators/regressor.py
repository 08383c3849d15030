"""Linear regression."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from torch import Tensor, nn

from skorchless.estimators import inputs
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.predictions import score
from skorchless.estimators.ranks import check_agreement
from skorchless.reducer import Reducer


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
        :class:`torch.nn.HuberLoss` [3]_.
    delta : float, default=1.0
        Error at which Huber's loss changes from squared to linear, in units of y. Used with
        ``loss="huber"``.
    alpha : float, default=0.0
        Strength of the penalty, relative to the mean loss. The intercept is never penalised.
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
        constant model's counts as that value. Squared error without
        L1 is solved to rounding accuracy, whatever ``tol`` is.)
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
        Whether to shuffle the samples before each epoch. If X takes more than 512 MiB, or a quarter
        of the memory, blocks of 128 KiB are shuffled, and the samples within windows of 64 MiB.
        Used by SGD and Adam.
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
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients, in the dtype of X if that is float32 or float64, and otherwise in float64. The
        array is one-dimensional if y is.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept; zero with ``fit_intercept=False``.
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

    def _check_target(self, y: Any, name: str) -> np.ndarray | Tensor:
        return inputs.numbers(y, name)

    def _encode(
        self, y: np.ndarray | Tensor, name: str, reducer: Reducer, *, reset: bool
    ) -> tuple[Tensor, int]:
        assert isinstance(y, Tensor)
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if reset:
            check_agreement(reducer, {"the shape of y's rows": tuple(y.shape[1:])})
            self._flat = y.ndim == 1
            self._n_outputs = n_outputs
        elif n_outputs != self._n_outputs:
            raise ValueError(f"{name} has {n_outputs} outputs, but y had {self._n_outputs} in fit.")
        return y.reshape(-1, n_outputs), n_outputs

    def _coef_shape(self, n_outputs: int, n_features: int) -> tuple[int, ...]:
        return (n_features,) if self._flat else (n_outputs, n_features)
