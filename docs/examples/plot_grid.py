"""
=========================
A grid of learning rates
=========================

Cross-validate twenty learning rates of a textbook SGD loop in one search, and look at what each of
them does: its loss on the training rows, pass by pass, and its score on the held-out ones.
"""

# %%
# One search
# ----------
# ``BatchedGridSearchCV`` takes ``GridSearchCV``'s place. All rates of a fold train at once, on the
# same batches that each would have by itself, and the scaler is fitted once a fold.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier

X, y = load_digits(return_X_y=True)
model = TorchSoftmaxClassifier(
    optimizer="sgd", batch_size=64, max_iter=20, tol=None, random_state=0
)
rates = np.logspace(-3.5, 1.0, 20)
search = BatchedGridSearchCV(
    Pipeline([("scale", StandardScaler()), ("model", model)]), {"model__learning_rate": rates}
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    search.fit(X, y)
best = search.best_params_["model__learning_rate"]
print(f"best learning rate {best:.3g}, mean accuracy {search.best_score_:.3f}")

# %%
# What each rate does
# -------------------
# ``loss_curves_`` holds, for each candidate, one curve a fold. Small rates are slow, large ones
# bounce; between them lies the best score.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
colours = plt.colormaps["viridis"](np.linspace(0, 1, len(rates)))
for rate, curves, colour in zip(rates, search.loss_curves_, colours, strict=True):
    curve = np.mean(curves, axis=0)
    is_best = rate == best
    left.plot(
        range(1, len(curve) + 1),
        curve,
        color="crimson" if is_best else colour,
        linewidth=2.5 if is_best else 1.0,
        label=f"best: {rate:.3g}" if is_best else None,
        zorder=3 if is_best else 2,
    )
left.set(xlabel="epoch", ylabel="penalised training loss, mean of folds", yscale="log")
left.legend()
scale = plt.cm.ScalarMappable(
    cmap="viridis", norm=plt.matplotlib.colors.LogNorm(rates[0], rates[-1])
)
figure.colorbar(scale, ax=left, label="learning rate")

mean = search.cv_results_["mean_test_score"]
deviation = search.cv_results_["std_test_score"]
right.fill_between(rates, mean - deviation, mean + deviation, alpha=0.2)
right.plot(rates, mean, marker="o")
right.axvline(best, color="crimson", linewidth=1)
right.set(xlabel="learning rate", ylabel="accuracy on held-out rows", xscale="log")
plt.show()
