"""
==========
Quickstart
==========

Softmax and linear regression on the digits and diabetes data that scikit-learn brings along: a grid
search beside scikit-learn's, a pickle round trip, scores and times beside scikit-learn's linear
models, and loss curves.
"""

# %%
# How times are measured
# ----------------------
# The first fit in a process also pays for what is loaded only then. So every fit is repeated: the
# first time is left out, and the median of the others is shown.

import pickle
import sys
from functools import partial
from statistics import median
from time import perf_counter

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    LossCurveDisplay,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)


def milliseconds(fit, repeats):
    """Median time of a call, after one that is not counted."""
    times = []
    for _ in range(1 + repeats):
        start = perf_counter()
        fit()
        times.append(1e3 * (perf_counter() - start))
    return median(times[1:])


# %%
# A search
# --------
# ``BatchedGridSearchCV`` takes the place of ``GridSearchCV`` and trains all candidates of a fold
# together. Both find the same best one of 15 candidates: 5 learning rates of SGD times 3 penalties.

digits = train_test_split(*load_digits(return_X_y=True), random_state=0)
X_train, X_test, y_train, y_test = digits
sgd = {"optimizer": "sgd", "batch_size": 32, "random_state": 0}
grid = {
    "torchsoftmaxclassifier__learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0],
    "torchsoftmaxclassifier__alpha": [1e-4, 1e-3, 1e-2],
}

print(f"{'search':<21}{'best learning rate':>20}{'best alpha':>12}{'score':>7}{'time':>10}")
for Search in (GridSearchCV, BatchedGridSearchCV):
    model = TorchSoftmaxClassifier(max_iter=5, tol=None, **sgd)
    search = Search(make_pipeline(StandardScaler(), model), grid)
    time = milliseconds(partial(search.fit, X_train, y_train), repeats=3)
    rate, alpha = (search.best_params_[name] for name in grid)
    score = search.score(X_test, y_test)
    print(f"{Search.__name__:<21}{rate:>20g}{alpha:>12g}{score:>7.3f}{time:>7.0f} ms")

# %%
# A pickle round trip
# -------------------
# A fitted model consists of a few NumPy arrays. The restored model makes the same predictions.

pickled = pickle.dumps(search.best_estimator_)
restored = pickle.loads(pickled)
if (restored.predict_proba(X_test) != search.predict_proba(X_test)).any():
    raise RuntimeError("the restored model makes other predictions")
print(f"\nThe restored model, from a pickle of {len(pickled)} bytes, makes the same predictions.")

# %%
# Beside scikit-learn
# -------------------
# All models of a data set minimise the same penalised loss: ``alpha`` weighs the penalty against
# the mean loss, which is ``C = 1 / (alpha * n)`` for LogisticRegression and ``alpha * n`` for
# Ridge. Only SGDClassifier trains one binary model per class. The score is the accuracy or R² on
# the test set.

alpha = 1e-3
diabetes = train_test_split(*load_diabetes(return_X_y=True, scaled=False), random_state=0)
n_digits, n_diabetes = len(digits[0]), len(diabetes[0])
contests = {
    "digits": (
        digits,
        {
            "TorchSoftmaxClassifier": TorchSoftmaxClassifier(alpha=alpha),
            "TorchSoftmaxClassifier, SGD": TorchSoftmaxClassifier(
                alpha=alpha, learning_rate=rate, **sgd
            ),
            "LogisticRegression": LogisticRegression(C=1 / (alpha * n_digits), max_iter=1000),
            "SGDClassifier": SGDClassifier(loss="log_loss", alpha=alpha, random_state=0),
        },
    ),
    "diabetes": (
        diabetes,
        {
            "TorchLinearRegressor": TorchLinearRegressor(alpha=alpha),
            "TorchLinearRegressor, SGD": TorchLinearRegressor(
                alpha=alpha, learning_rate=0.03, **sgd
            ),
            "Ridge": Ridge(alpha=alpha * n_diabetes),
            "SGDRegressor": SGDRegressor(alpha=alpha, random_state=0),
        },
    ),
}

print(f"\n{'data':<10}{'model, on scaled features':<29}{'score':>7}{'fit':>11}")
fitted = {}
for data, ((X_train, X_test, y_train, y_test), models) in contests.items():
    for name, model in models.items():
        pipeline = make_pipeline(StandardScaler(), model)
        time = milliseconds(partial(pipeline.fit, X_train, y_train), repeats=5)
        print(f"{data:<10}{name:<29}{pipeline.score(X_test, y_test):>7.3f}{time:>8.1f} ms")
        fitted[name] = model

# %%
# Loss curves
# -----------
# Every fit keeps its penalised loss: after each iteration of the default solver, and the mean over
# each epoch of SGD.

figure, axes = plt.subplots()
for name in ("TorchSoftmaxClassifier", "TorchSoftmaxClassifier, SGD"):
    LossCurveDisplay.from_estimator(fitted[name], name=name, ax=axes)
axes.set_title("Digits")

path = sys.argv[1] if len(sys.argv) > 1 else "quickstart_loss_curve.png"
figure.savefig(path)
print(f"\nDrew the loss curves of both softmax models on the digits into the file {path}")
