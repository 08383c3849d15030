"""
======================================
Tutorial 5: mini-batches from scratch
======================================

Linear regression on a thousand points in two dimensions, in three epochs with batches of ten:
the lesson in which a training loop is written from scratch.

Source: *Dive into Deep Learning* (Zhang, Lipton, Li and Smola), section `Linear Regression
Implementation from Scratch
<https://d2l.ai/chapter_linear-regression/linear-regression-scratch.html>`_, with the data and
the learning rate of earlier versions of the book.
"""

# %%
# The data
# --------
# The true weights are 2 and −3.4, the intercept is 4.2.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import TorchLinearRegressor

rng = np.random.default_rng(0)
X = rng.normal(size=(1000, 2))
y = X @ [2.0, -3.4] + 4.2 + 0.01 * rng.normal(size=1000)

# %%
# Three epochs
# ------------
# The book prints the loss over all samples after each epoch. Pass the training data as
# validation data to record it.

model = TorchLinearRegressor(
    optimizer="sgd", learning_rate=0.03, batch_size=10, max_iter=3, tol=None, random_state=0
).fit(X, y, X_val=X, y_val=y)
for epoch, loss in enumerate(model.validation_loss_curve_, start=1):
    print(f"epoch {epoch}, loss {loss:.6f}")
print(f"w = {model.coef_.round(4)}, b = {model.intercept_:.4f}")

# %%
# The loss after each epoch
# -------------------------
# After three epochs it has reached the level of the noise.

figure, ax = plt.subplots(layout="constrained")
ax.plot([1, 2, 3], model.validation_loss_curve_, "o-", label="loss over all samples")
ax.axhline(0.01**2 / 2, color="grey", linestyle=":", label="noise")
ax.set(title="Loss after each epoch", xlabel="epoch", ylabel="half the mean squared error")
ax.set(yscale="log", xticks=[1, 2, 3])
ax.legend()
plt.show()
