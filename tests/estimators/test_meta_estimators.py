"""What people wrap: scikit-learn's meta-estimators, inspections and displays around ours."""

import matplotlib
import numpy as np
import pytest
from sklearn import ensemble, feature_selection, inspection, linear_model, model_selection
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.impute import IterativeImputer
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import (
    ClassifierChain,
    MultiOutputClassifier,
    MultiOutputRegressor,
    RegressorChain,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

rng = np.random.default_rng(0)
X = rng.normal(size=(150, 5))
numbers = X @ [3.0, -2.0, 1.0, 0.0, 0.0] + 0.3 * rng.normal(size=150)
classes = np.array(["low", "middle", "high"])[np.digitize(numbers, [-2.0, 2.0])]
yes = np.where(numbers > 0, "yes", "no")
targets = np.column_stack([numbers, X @ [0.0, 1.0, 1.0, 1.0, 0.0]])
labels = np.column_stack([yes, np.where(X[:, 1] > 0, "yes", "no")])
known = np.where(np.arange(150) % 3 == 0, (numbers > 0).astype(int), -1)  # -1: label unknown

regressor, classifier = TorchLinearRegressor(), TorchSoftmaxClassifier()
named = {"regressor": [("a", regressor), ("b", TorchLinearRegressor(alpha=0.1))]}
named["classifier"] = [("a", classifier), ("b", TorchSoftmaxClassifier(alpha=0.1))]
grid = {"alpha": [1e-4, 1e-2]}

# Each wraps one of ours, is fitted to a target, and scores at least so much.
WRAPPERS = {
    "BaggingRegressor": (ensemble.BaggingRegressor(regressor, 3), numbers),
    "BaggingClassifier": (ensemble.BaggingClassifier(classifier, 3), classes),
    "StackingRegressor": (ensemble.StackingRegressor(named["regressor"], regressor, cv=3), numbers),
    "StackingClassifier": (
        ensemble.StackingClassifier(named["classifier"], classifier, cv=3),
        classes,
    ),
    "VotingRegressor": (ensemble.VotingRegressor(named["regressor"]), numbers),
    "VotingClassifier": (ensemble.VotingClassifier(named["classifier"], voting="soft"), classes),
    "AdaBoostRegressor": (ensemble.AdaBoostRegressor(regressor, n_estimators=3), numbers),
    "AdaBoostClassifier": (ensemble.AdaBoostClassifier(classifier, n_estimators=3), classes),
    "CalibratedClassifierCV": (CalibratedClassifierCV(classifier, cv=3), classes),
    "CalibratedClassifierCV, isotonic": (
        CalibratedClassifierCV(classifier, method="isotonic", cv=3),
        classes,
    ),
    "OneVsRestClassifier": (OneVsRestClassifier(classifier), classes),
    "OneVsOneClassifier": (OneVsOneClassifier(classifier), classes),
    "MultiOutputRegressor": (MultiOutputRegressor(regressor), targets),
    "MultiOutputClassifier": (MultiOutputClassifier(classifier), labels),
    "RegressorChain": (RegressorChain(regressor), targets),
    "ClassifierChain": (ClassifierChain(classifier), (labels == "yes").astype(int)),
    "TransformedTargetRegressor": (
        TransformedTargetRegressor(regressor, func=np.arcsinh, inverse_func=np.sinh),
        np.sinh(numbers / 3),
    ),
    "TransformedTargetRegressor, scaler": (
        TransformedTargetRegressor(regressor, transformer=StandardScaler()),
        numbers,
    ),
    "RANSACRegressor": (linear_model.RANSACRegressor(regressor, min_samples=10), numbers),
    "SelfTrainingClassifier": (SelfTrainingClassifier(classifier), known),
    "TunedThresholdClassifierCV": (
        model_selection.TunedThresholdClassifierCV(classifier, cv=3),
        yes,
    ),
    "FixedThresholdClassifier": (
        model_selection.FixedThresholdClassifier(classifier, threshold=0.4, pos_label="yes"),
        yes,
    ),
    "FrozenEstimator": (FrozenEstimator(TorchSoftmaxClassifier().fit(X, classes)), classes),
    "CalibratedClassifierCV, frozen": (
        CalibratedClassifierCV(FrozenEstimator(TorchSoftmaxClassifier().fit(X, classes))),
        classes,
    ),
    "RFE": (feature_selection.RFE(regressor, n_features_to_select=3), numbers),
    "RFE, classifier": (feature_selection.RFE(classifier, n_features_to_select=3), classes),
    "RFECV": (feature_selection.RFECV(regressor, cv=3), numbers),
    "RFECV, classifier": (feature_selection.RFECV(classifier, cv=3), classes),
    "SelectFromModel": (
        make_pipeline(feature_selection.SelectFromModel(classifier, threshold=0.5), classifier),
        classes,
    ),
    "SequentialFeatureSelector": (
        make_pipeline(
            feature_selection.SequentialFeatureSelector(regressor, n_features_to_select=3, cv=3),
            regressor,
        ),
        numbers,
    ),
    "IterativeImputer": (
        make_pipeline(IterativeImputer(regressor, max_iter=2, tol=10.0), regressor),
        numbers,
    ),
    "GridSearchCV": (model_selection.GridSearchCV(regressor, grid, cv=3), numbers),
    "RandomizedSearchCV": (
        model_selection.RandomizedSearchCV(classifier, grid, n_iter=2, cv=3),
        classes,
    ),
    "HalvingGridSearchCV": (
        model_selection.HalvingGridSearchCV(classifier, grid, cv=3),
        classes,
    ),
    "HalvingRandomSearchCV": (
        model_selection.HalvingRandomSearchCV(regressor, grid, n_candidates=2, cv=3),
        numbers,
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_people_wrap(name):
    wrapper, y = WRAPPERS[name]
    if "random_state" in wrapper.get_params(deep=False):
        wrapper = wrapper.set_params(random_state=0)
    rows = X
    if name == "IterativeImputer":
        rows = np.where(np.random.default_rng(1).random(X.shape) < 0.05, np.nan, X)
    fitted = wrapper.fit(rows, y)
    predictions = fitted.predict(rows)
    assert predictions.shape == np.shape(y)
    right = y if name != "SelfTrainingClassifier" else (numbers > 0).astype(int)
    least = 0.7 if name in ("IterativeImputer", "MultiOutputClassifier") else 0.85
    assert fitted.score(rows, right) >= least


def test_features_are_ranked_by_their_coefficients():
    support = feature_selection.RFE(regressor, n_features_to_select=3).fit(X, numbers).support_
    assert support.tolist() == [True, True, True, False, False]
    chosen = feature_selection.SelectFromModel(classifier, max_features=2).fit(X, yes)
    assert chosen.get_support().tolist() == [True, True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "y"), [(regressor, numbers), (classifier, yes)])
def test_what_people_look_at_models_with(model, y):
    importances = inspection.permutation_importance(model.fit(X, y), X, y, random_state=0)
    assert importances.importances_mean.argmax() == 0
    average = inspection.partial_dependence(model, X, [0], kind="average")["average"]
    assert np.ptp(average) > 0.3
    plt.close("all")
    inspection.PartialDependenceDisplay.from_estimator(model, X, [0, (0, 1)])
    display = model_selection.LearningCurveDisplay.from_estimator(
        model, X, y, train_sizes=[0.3, 1.0], cv=3, shuffle=True, random_state=0
    )
    assert np.isfinite(display.test_scores).all()
    model_selection.ValidationCurveDisplay.from_estimator(
        model, X, y, param_name="alpha", param_range=[1e-3, 1e-1], cv=3
    )
    if model is classifier:
        inspection.DecisionBoundaryDisplay.from_estimator(
            TorchSoftmaxClassifier().fit(X[:, :2], classes), X[:, :2]
        )
    plt.close("all")
