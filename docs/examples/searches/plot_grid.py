"""
=========================
A grid of learning rates
=========================

Cross-validate twenty learning rates of mini-batch SGD in one search, and look at the training
loss of each of them and at its score on the held-out folds.
"""

# %%
# One search
# ----------
# ``BatchedGridSearchCV`` replaces ``GridSearchCV``. All learning rates of a fold train
# together, on the same batches that each would have on its own, and the scaler is fitted once
# per fold. A fixed number of epochs is requested (``tol=None``), so no fit stops early.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, LossCurveDisplay, TorchSoftmaxClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

model = TorchSoftmaxClassifier(
    optimizer="sgd", batch_size=64, max_iter=20, tol=None, random_state=0
)
pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])
rates = np.logspace(-3.5, 1.0, 20)
search = BatchedGridSearchCV(pipeline, {"model__learning_rate": rates})
search.fit(X_train, y_train)
best = search.best_params_["model__learning_rate"]
print(f"best learning rate: {best:.3g}")
print(f"accuracy on the test set: {search.score(X_test, y_test):.3f}")

# %%
# The score of each learning rate
# -------------------------------
# Small learning rates are too slow for twenty epochs, large ones do not settle.

mean = search.cv_results_["mean_test_score"]
deviation = search.cv_results_["std_test_score"]
figure, ax = plt.subplots(layout="constrained")
ax.fill_between(rates, mean - deviation, mean + deviation, alpha=0.2)
ax.plot(rates, mean, marker="o")
ax.axvline(best, color="crimson", linestyle="--", label=f"best: {best:.3g}")
ax.set(title="Mean score and standard deviation", xscale="log")
ax.set(xlabel="learning rate", ylabel="accuracy on the held-out folds")
ax.legend()

# %%
# The loss of each learning rate
# ------------------------------
# ``LossCurveDisplay`` plots one line per candidate, the mean of the five folds. The colours
# follow the learning rate, from dark (small) to light (large).

figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
LossCurveDisplay.from_estimator(search, ax=ax)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
ax.set(title="Training loss of twenty learning rates", xlabel="epoch", xticks=range(0, 21, 5))
plt.show()

# sphinx_gallery_thumbnail_number = 1
