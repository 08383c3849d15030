"""
==========
Quickstart
==========

Softmax and linear regression on scikit-learn's bundled digits and diabetes data: a pipeline, a
search over learning rates, a pickle round trip, a table of scores beside scikit-learn's own linear
models, and a loss curve.
"""

# %%
# A pipeline and a search
# -----------------------
# The estimators are ordinary scikit-learn estimators, so everything that takes one takes these.
# With a number for ``learning_rate``, ``optimizer="sgd"`` makes the textbook mini-batch updates.

import pickle
import sys
from time import perf_counter

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import LossCurveDisplay, TorchLinearRegressor, TorchSoftmaxClassifier

digits = train_test_split(*load_digits(return_X_y=True), random_state=0)
diabetes = train_test_split(*load_diabetes(return_X_y=True, scaled=False), random_state=0)

X_train, X_test, y_train, y_test = digits
search = GridSearchCV(
    make_pipeline(StandardScaler(), TorchSoftmaxClassifier(optimizer="sgd", random_state=0)),
    {"torchsoftmaxclassifier__learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0]},
)
search.fit(X_train, y_train)
rate = search.best_params_["torchsoftmaxclassifier__learning_rate"]
print(f"best learning rate of the search: {rate:g}")

# %%
# A pickle round trip
# -------------------
# A fitted model is a few NumPy arrays. What comes back predicts the same to the last bit.

pickled = pickle.dumps(search.best_estimator_)
restored = pickle.loads(pickled)
if (restored.predict_proba(X_test) != search.predict_proba(X_test)).any():
    raise RuntimeError("the restored model predicts something else")
print(f"a pickled pipeline of {len(pickled)} bytes predicts the same")

# %%
# Beside scikit-learn
# -------------------
# All models of a data set minimise the same penalised loss: ``alpha`` weighs the penalty against
# the mean loss, which is ``C = 1 / (alpha * n)`` for LogisticRegression and ``alpha * n`` for
# Ridge. SGDClassifier alone trains one binary model per class. The score is the accuracy or R² on
# the test set; the time is that of one ``fit``.

alpha = 1e-3
n_digits, n_diabetes = len(digits[0]), len(diabetes[0])
sgd = {"optimizer": "sgd", "random_state": 0}
contests = {
    "digits": (
        digits,
        {
            "TorchSoftmaxClassifier": TorchSoftmaxClassifier(alpha=alpha, random_state=0),
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
            "TorchLinearRegressor": TorchLinearRegressor(alpha=alpha, random_state=0),
            "TorchLinearRegressor, SGD": TorchLinearRegressor(
                alpha=alpha, learning_rate=0.03, **sgd
            ),
            "Ridge": Ridge(alpha=alpha * n_diabetes),
            "SGDRegressor": SGDRegressor(alpha=alpha, random_state=0),
        },
    ),
}

print(f"\n{'data':<10}{'model':<29}{'score':>7}{'fit':>11}")
fitted = {}
for data, ((X_train, X_test, y_train, y_test), models) in contests.items():
    for name, model in models.items():
        pipeline = make_pipeline(StandardScaler(), model)
        start = perf_counter()
        pipeline.fit(X_train, y_train)
        milliseconds = 1e3 * (perf_counter() - start)
        score = pipeline.score(X_test, y_test)
        print(f"{data:<10}{name:<29}{score:>7.3f}{milliseconds:>8.1f} ms")
        fitted[name] = model

# %%
# The loss curve
# --------------
# Every fit keeps the penalised loss of each pass.

figure, axes = plt.subplots()
for name in ("TorchSoftmaxClassifier", "TorchSoftmaxClassifier, SGD"):
    LossCurveDisplay.from_estimator(fitted[name], name=name, ax=axes)
axes.set_title("Digits")

path = sys.argv[1] if len(sys.argv) > 1 else "quickstart_loss_curve.png"
figure.savefig(path)
print(f"\nloss curves written to {path}")
