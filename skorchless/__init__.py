"""Linear and softmax regression for scikit-learn, trained by PyTorch.

Only the names in ``__all__`` are public.
"""

import typing

from skorchless._version import __version__ as __version__
from skorchless.display import LossCurveDisplay
from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier

if typing.TYPE_CHECKING:
    from skorchless.model_selection import BatchedGridSearchCV, BatchedRandomizedSearchCV

__all__ = [
    "BatchedGridSearchCV",
    "BatchedRandomizedSearchCV",
    "LossCurveDisplay",
    "TorchLinearRegressor",
    "TorchSoftmaxClassifier",
]


def __getattr__(name: str) -> typing.Any:
    """Import the searches when they are asked for: they need more of scikit-learn than a fit."""
    if name in ("BatchedGridSearchCV", "BatchedRandomizedSearchCV"):
        from skorchless import model_selection

        return getattr(model_selection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
