"""Linear and softmax regression for scikit-learn, trained by PyTorch.

Only the names in ``__all__`` are public.
"""

from typing import NoReturn

from skorchless._version import __version__ as __version__
from skorchless.display import LossCurveDisplay
from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier

__all__ = ["LossCurveDisplay", "TorchLinearRegressor", "TorchSoftmaxClassifier"]

_TO_COME = ("BatchedGridSearchCV", "BatchedRandomizedSearchCV")


def __getattr__(name: str) -> NoReturn:
    if name in _TO_COME:
        raise ImportError(
            f"{name} is not available in skorchless {__version__}; it is planned for a later "
            "version."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
