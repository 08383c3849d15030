"""Linear and softmax regression for scikit-learn, trained by PyTorch.

Only the names in ``__all__`` are public.
"""

from typing import NoReturn

from skorchless._version import __version__
from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection import BatchedGridSearchCV, BatchedRandomizedSearchCV

__all__ = [
    "BatchedGridSearchCV",
    "BatchedRandomizedSearchCV",
    "TorchLinearRegressor",
    "TorchSoftmaxClassifier",
]

_TO_COME = ("LossCurveDisplay",)


def __getattr__(name: str) -> NoReturn:
    if name in _TO_COME:
        raise ImportError(
            f"{name} is not available in skorchless {__version__}; it is planned for a later "
            "version."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
