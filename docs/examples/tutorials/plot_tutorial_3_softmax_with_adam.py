"""
==============================
Tutorial 3: softmax with Adam
==============================

Classify wines by quality, from 3 to 8: cross-entropy of the logits, a hundred full-batch epochs
of Adam with a learning rate of 0.01.

Source: an exercise on a version of the wine quality data of Cortez et al. (2009) with 1143
samples; where it was first published is not known to us. The table here is drawn at random, with
the same shape and similar scales, so that the example needs no download.
"""

# %%
# The data
# --------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import LossCurveDisplay, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
table = rng.normal(size=(1143, 11)) * np.geomspace(0.002, 30, 11) + np.geomspace(0.01, 50, 11)
taste = StandardScaler().fit_transform(table) @ rng.normal(size=11) + rng.normal(size=1143)
quality = 3 + np.digitize(taste, np.quantile(taste, [0.02, 0.1, 0.5, 0.85, 0.98]))
split = train_test_split(table, quality, test_size=0.2, random_state=42)
X_train, X_test, y_train, y_test = split

# %%
# Adam and the default optimizer
# ------------------------------
# Adam makes a hundred epochs, as in the tutorial. The default optimizer stops by itself, and
# needs no scaler.

adam = make_pipeline(
    StandardScaler(),
    TorchSoftmaxClassifier(
        alpha=0, optimizer="adam", learning_rate=0.01, batch_size=None, max_iter=100, tol=None
    ),
).fit(X_train, y_train)
default = TorchSoftmaxClassifier(alpha=0).fit(X_train, y_train)
print(f"Adam: accuracy on the test set {adam.score(X_test, y_test):.3f}")
print(f"default optimizer: accuracy on the test set {default.score(X_test, y_test):.3f}")

# %%
# The loss
# --------
# After a hundred epochs, Adam is still above the optimum, which the default optimizer reaches in
# a few iterations.

figure, ax = plt.subplots(layout="constrained")
LossCurveDisplay.from_estimator(adam, name="Adam, standardised features", ax=ax)
LossCurveDisplay.from_estimator(default, name="default, unscaled features", ax=ax)
ax.set_title("Training loss")

# %%
# The confusion matrix
# --------------------

figure, ax = plt.subplots(layout="constrained")
ConfusionMatrixDisplay.from_estimator(default, X_test, y_test, ax=ax, colorbar=False)
ax.set_title("Confusion matrix of the default optimizer")
plt.show()
