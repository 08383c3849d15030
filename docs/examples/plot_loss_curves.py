"""
===========
Loss curves
===========

:class:`~skorchless.LossCurveDisplay` draws how a fit went: one model, several on one axis, or the
best of a search.
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

from skorchless import LossCurveDisplay, TorchSoftmaxClassifier

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

textbook = {"max_iter": 40, "tol": None, "batch_size": 16, "random_state": 0}
contenders = {
    "tuning-free": TorchSoftmaxClassifier(),
    "SGD, rate 0.02": TorchSoftmaxClassifier(optimizer="sgd", learning_rate=0.02, **textbook),
    "SGD, momentum 0.9": TorchSoftmaxClassifier(
        optimizer="sgd", learning_rate=0.02, momentum=0.9, **textbook
    ),
    "Adam, rate 0.02": TorchSoftmaxClassifier(optimizer="adam", learning_rate=0.02, **textbook),
}
figure, ax = plt.subplots()
for name, contender in contenders.items():
    pipeline = make_pipeline(StandardScaler(), contender).fit(X_train, y_train)
    LossCurveDisplay.from_estimator(pipeline, name=name, ax=ax)
ax.set_title("Wine, standardised")

# %%
# The best of a search
# --------------------
# Of a search the curve is that of the model that was fitted last, on all rows, with the best
# parameters.

search = GridSearchCV(
    make_pipeline(StandardScaler(), TorchSoftmaxClassifier(optimizer="sgd", **textbook)),
    {"torchsoftmaxclassifier__learning_rate": [0.001, 0.01, 0.1]},
    scoring="neg_log_loss",
).fit(X_train, y_train)
rate = search.best_params_["torchsoftmaxclassifier__learning_rate"]
display = LossCurveDisplay.from_estimator(search, name=f"best rate: {rate:g}")
display.ax_.set_title("Wine, a grid of learning rates")
plt.show()
