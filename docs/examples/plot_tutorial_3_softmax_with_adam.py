"""
==============================
Tutorial 3: softmax with Adam
==============================

A table of measurements and a quality from 3 to 8, cross-entropy on logits, a hundred full-batch
passes of Adam at 0.01. The table here is drawn at random, with the shape and the scales of the
published one.
"""

# %%
# The table
# ---------

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
X_train, X_test, y_train, y_test = train_test_split(table, quality, test_size=0.2, random_state=42)

# %%
# The loop, and no loop
# ---------------------
# The hundred passes of Adam, and the default, which stops by itself.

adam = make_pipeline(
    StandardScaler(),
    TorchSoftmaxClassifier(
        alpha=0, optimizer="adam", learning_rate=0.01, batch_size=None, max_iter=100, tol=None
    ),
).fit(X_train, y_train)
free = TorchSoftmaxClassifier(alpha=0).fit(X_train, y_train)
print(f"Adam: accuracy {adam.score(X_test, y_test):.3f}")
print(f"default: accuracy {free.score(X_test, y_test):.3f} after {free.n_iter_} passes")

# %%
# The picture
# -----------
# The curve flattens near pass 60, but Adam is not there yet.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
LossCurveDisplay.from_estimator(adam, name="Adam, 100 passes", ax=axes[0])
LossCurveDisplay.from_estimator(free, name="default, raw features", ax=axes[0])
ConfusionMatrixDisplay.from_estimator(free, X_test, y_test, ax=axes[1], colorbar=False)
plt.show()
