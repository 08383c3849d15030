"""
===========
Loss curves
===========

:class:`~skorchless.LossCurveDisplay` plots how a fit went: for one model, for several models on
the same axes, for the best model of a search, or for all candidates of a search.
"""

# %%
# One model
# ---------
# The features of scikit-learn's wine data range from tenths to thousands. They are used
# unscaled. If ``X_val`` is passed, the loss on the validation data is recorded too.

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, LossCurveDisplay, TorchSoftmaxClassifier

X, y = load_wine(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)

model = TorchSoftmaxClassifier().fit(X_train, y_train, X_val=X_val, y_val=y_val)
display = LossCurveDisplay.from_estimator(model)
display.ax_.set(title="Wine, unscaled features", xlabel="iteration")

# %%
# Several models on the same axes
# -------------------------------
# Pass ``ax``. SGD and Adam with a numeric learning rate need scaled features; a pipeline can be
# plotted like a model. The default optimizer needs few iterations, so its curve is the
# shortest.

epochs = {"learning_rate": 0.02, "batch_size": 16, "max_iter": 40, "tol": None}
epochs["random_state"] = 0
models = {
    "default": TorchSoftmaxClassifier(),
    "SGD": TorchSoftmaxClassifier(optimizer="sgd", **epochs),
    "SGD, momentum 0.9": TorchSoftmaxClassifier(optimizer="sgd", momentum=0.9, **epochs),
    "Adam": TorchSoftmaxClassifier(optimizer="adam", **epochs),
}
figure, ax = plt.subplots(layout="constrained")
for name, model in models.items():
    pipeline = make_pipeline(StandardScaler(), model).fit(X_train, y_train)
    LossCurveDisplay.from_estimator(pipeline, name=name, ax=ax)
ax.set_title("Wine, standardised features")

# %%
# The best model of a search
# --------------------------
# For a search of scikit-learn, the curve is that of the best model, refitted on all samples.

sgd = make_pipeline(StandardScaler(), TorchSoftmaxClassifier(optimizer="sgd", **epochs))
rates = {"torchsoftmaxclassifier__learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1]}
search = GridSearchCV(sgd, rates, scoring="neg_log_loss").fit(X_train, y_train)
best = search.best_params_["torchsoftmaxclassifier__learning_rate"]
display = LossCurveDisplay.from_estimator(search, name=f"learning rate {best:g}")
display.ax_.set(title="Wine, the best of a grid", xlabel="epoch")

# %%
# All candidates of a search
# --------------------------
# :class:`~skorchless.BatchedGridSearchCV` replaces ``GridSearchCV`` and keeps the loss curves
# of all candidates. Each line is the mean over the splits.

search = BatchedGridSearchCV(sgd, rates, scoring="neg_log_loss").fit(X_train, y_train)
display = LossCurveDisplay.from_estimator(search)
display.ax_.set(title="Wine, a grid of learning rates", xlabel="epoch")
plt.show()

# sphinx_gallery_thumbnail_number = 2
