"""The estimators: validation, training and attributes in scikit-learn's terms."""

from skorchless.estimators.classifier import TorchSoftmaxClassifier
from skorchless.estimators.regressor import TorchLinearRegressor

__all__ = ["TorchLinearRegressor", "TorchSoftmaxClassifier"]
