"""Linear and softmax regression for scikit-learn, trained by PyTorch.

Only the names in ``__all__`` are public.
"""

from skorchless._version import __version__ as __version__
from skorchless.display import LossCurveDisplay
from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection import BatchedGridSearchCV, BatchedRandomizedSearchCV

__all__ = [
    "BatchedGridSearchCV",
    "BatchedRandomizedSearchCV",
    "LossCurveDisplay",
    "TorchLinearRegressor",
    "TorchSoftmaxClassifier",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
