"""Linear regression."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.utils import Tags
from torch import Tensor, nn

from skorchless.estimators import inputs, scores
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.ranks import check_agreement
from skorchless.reducer import Reducer


class TorchLinearRegressor(RegressorMixin, TorchLinearModel):
    r"""Linear regression with squared or Huber loss and elastic-net penalty, trained by PyTorch.

    Minimises

    .. math:: \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(W x_i + b, y_i)
        + \alpha \left( \rho \|W\|_1 + \tfrac12 (1 - \rho) \|W\|^2 \right)

    over coefficients W and intercept b, with weights s, :math:`\rho` = ``l1_ratio``, and
    :math:`\ell` summed over the outputs. The same ``alpha`` gives the same optimum as in
    :class:`~sklearn.linear_model.SGDRegressor` and :class:`~sklearn.linear_model.ElasticNet`;
    :class:`~sklearn.linear_model.Ridge` needs ``alpha * sum(s)``.

    Parameters
    ----------
    loss : {"squared_error", "huber"}, default="squared_error"
        ``"squared_error"`` is :math:`\tfrac12 (y - \hat y)^2`; ``"huber"`` is
        :class:`torch.nn.HuberLoss` [3]_.
    delta : float, default=1.0
        Where Huber's loss turns from squared to linear, in units of y.
    alpha : float, default=0.0
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
        that much, and squared error without L1 is solved to rounding whatever ``tol`` is. SGD and
        Adam stop when the best epoch loss has not improved by more than ``tol`` times the best
        constant model's objective for ``n_iter_no_change`` epochs; with ``learning_rate="auto"`` by
        more than ``tol`` times what has been gained over it. None makes ``max_iter`` epochs (the
        quasi-Newton method ends where rounding does).
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
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients, in the dtype of X if that is float32 or float64, and else in float64; 1-d for
        a 1-d y.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept; zero with ``fit_intercept=False``.
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
    TorchSoftmaxClassifier : The same for classes.
    LossCurveDisplay : Draws the loss curves.

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
        """Make one pass over some rows, going on from the passes before.

        With a number for ``learning_rate``, k calls on the same data equal
        ``fit(max_iter=k, tol=None)`` bit for bit. With ``"auto"`` it is a pass of Adam on columns
        standardised by all rows seen so far.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like or Tensor of shape (n_samples,), optional
            Weights of the rows.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            As `fit`; also with ``early_stopping=True``.
        KeyboardInterrupt
            At Ctrl-C. The estimator is then as it was before.
        """
        return self._partial_fit(X, y, sample_weight, first=not hasattr(self, "_n_outputs"))

    def predict(self, X: Any) -> Any:
        """Predict targets.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : ndarray or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Predictions in X's precision; a tensor on X's device if X is one.
        """
        raw = self._raw_predictions(X)
        return raw[:, 0] if np.ndim(self.coef_) == 1 else raw

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the coefficient of determination.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Rows.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            R² of `predict`.
        """
        return scores.r_squared(y, self.predict(X), sample_weight)

    def to_sklearn(self) -> LinearRegression:
        """Return a fitted LinearRegression with the same predictions.

        Returns
        -------
        model : LinearRegression
            With copies of the coefficients, for whatever takes scikit-learn's own.
        """
        return self._copy_fit(LinearRegression(fit_intercept=self.fit_intercept))

    def to_torch(self) -> nn.Module:
        """Return a module that maps X to predictions.

        Returns
        -------
        module : torch.nn.Module
            On the CPU, in the dtype of the coefficients.
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
