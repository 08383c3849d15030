"""
===========================
Linear probes on embeddings
===========================

Train a softmax regression on the features of a frozen network, for thirty penalties, and choose
the penalty by the log loss on a validation set.
"""

# %%
# Features of a frozen network
# ----------------------------
# Real features would come from an image or text model. These are made on the spot and look like
# them: rows of unit norm, a mean that all rows share, class means in a subspace of few dimensions,
# and noise that is strong in a few directions. Like saved features often are, they are in half
# precision; skorchless computes in float32 then. Tensors work too, also in bfloat16.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import PredefinedSplit

from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier

n_features, n_classes, rank = 128, 20, 16
rng = np.random.default_rng(0)
basis, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
spectrum = (1.0 + np.arange(n_features)) ** -0.5
mixing = basis * (spectrum / np.linalg.norm(spectrum))
subspace = rng.normal(size=(rank, n_features)) / np.sqrt(rank * n_features)
means = 0.17 * rng.normal(size=(n_classes, rank)) @ subspace
shared = 1.5 * rng.normal(size=n_features) / np.sqrt(n_features)


def embed(n):
    """Features of n images, and their classes."""
    y = rng.integers(0, n_classes, n)
    X = shared + means[y] + rng.normal(size=(n, n_features)) @ mixing.T
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float16), y


X_train, y_train = embed(3000)
X_val, y_val = embed(1000)
X_test, y_test = embed(1000)

# %%
# Thirty penalties, one validation set
# ------------------------------------
# ``PredefinedSplit`` makes the validation set the only fold: its samples have the number 0, those
# to train on have -1. All penalties are trained in one call. ``refit=True``, the default, trains
# the best one again on both sets.

X, y = np.concatenate([X_train, X_val]), np.concatenate([y_train, y_val])
split = PredefinedSplit(np.repeat([-1, 0], [len(X_train), len(X_val)]))
alphas = np.logspace(-7, -1, 30)
search = BatchedGridSearchCV(
    TorchSoftmaxClassifier(),
    {"alpha": alphas},
    cv=split,
    scoring=["neg_log_loss", "accuracy"],
    refit="neg_log_loss",
    return_train_score=True,
)
search.fit(X, y)
best = search.best_params_["alpha"]
print(f"best penalty: {best:.1e}")
print(f"accuracy on the test set: {search.best_estimator_.score(X_test, y_test):.3f}")

# %%
# Too little and too much
# -----------------------
# With small penalties the probe fits the training set better and better, and the validation set
# worse: its probabilities become too certain. With large ones, it learns next to nothing. Here
# the penalty matters more for the log loss than for the accuracy.

results = search.cv_results_
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, metric, sign in zip(axes, ("neg_log_loss", "accuracy"), (-1, 1), strict=True):
    for part, label in (("train", "training set"), ("test", "validation set")):
        ax.plot(alphas, sign * results[f"mean_{part}_{metric}"], marker=".", label=label)
    ax.axvline(best, color="crimson", linestyle="--", label=f"best: {best:.1e}")
    ax.set(xscale="log", xlabel="alpha", title=metric.removeprefix("neg_").replace("_", " "))
axes[0].legend()
plt.show()
