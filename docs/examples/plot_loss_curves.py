"""
===========
Loss curves
===========

:class:`~skorchless.LossCurveDisplay` draws how a fit went: one model, several on one axis, the best
of a search, or all of its candidates.
"""

# %%
# One model
# ---------
# Scikit-learn's wine data as they come, in units from tenths to thousands. With ``X_val`` the loss
# on held-out rows is recorded too; ``early_stopping`` stops on it and keeps the best weights.

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
display.ax_.set_title("Wine, features as they come")

# %%
# Several models on one axis
# --------------------------
# Pass a display's ``ax_`` on. The textbook rules want scaled features; a pipeline is as good as a
# model.

textbook = {"learning_rate": 0.02, "batch_size": 16, "max_iter": 40, "tol": None, "random_state": 0}
contenders = {
    "tuning-free": TorchSoftmaxClassifier(),
    "SGD": TorchSoftmaxClassifier(optimizer="sgd", **textbook),
    "SGD, momentum 0.9": TorchSoftmaxClassifier(optimizer="sgd", momentum=0.9, **textbook),
    "Adam": TorchSoftmaxClassifier(optimizer="adam", **textbook),
}
figure, ax = plt.subplots(layout="constrained")
for name, contender in contenders.items():
    pipeline = make_pipeline(StandardScaler(), contender).fit(X_train, y_train)
    LossCurveDisplay.from_estimator(pipeline, name=name, ax=ax)
ax.set_title("Wine, standardised")

# %%
# The best of a search
# --------------------
# Of a search the curve is that of the model that was fitted last, on all rows, with the best
# parameters.

sgd = make_pipeline(StandardScaler(), TorchSoftmaxClassifier(optimizer="sgd", **textbook))
rates = {"torchsoftmaxclassifier__learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1]}
search = GridSearchCV(sgd, rates, scoring="neg_log_loss").fit(X_train, y_train)
best = search.best_params_["torchsoftmaxclassifier__learning_rate"]
display = LossCurveDisplay.from_estimator(search, name=f"rate {best:g}")
display.ax_.set_title("Wine, the best of a grid")

# %%
# All candidates of a search
# --------------------------
# :class:`~skorchless.BatchedGridSearchCV` takes ``GridSearchCV``'s place and keeps the curves of
# all candidates. Each is a line, the mean over the splits.

search = BatchedGridSearchCV(sgd, rates, scoring="neg_log_loss").fit(X_train, y_train)
display = LossCurveDisplay.from_estimator(search)
display.ax_.set_title("Wine, a grid of learning rates")
plt.show()
