"""
===================================
Tutorial 1: one parameter, then two
===================================

Fit a line to a hundred noisy points by full-batch gradient descent on the mean squared error:
first the slope alone, then slope and intercept.

Source: `Training a Linear Regression Model in PyTorch
<https://machinelearningmastery.com/training-a-linear-regression-model-in-pytorch/>`_, Machine
Learning Mastery. The noise is drawn with a different generator here.
"""

# %%
# One parameter
# -------------
# The tutorial starts at w = −10 with a learning rate of 0.1. The loss of skorchless is half the
# squared error. The learning rate is therefore doubled, and the losses that the tutorial prints
# are twice ``loss_curve_``.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import LossCurveDisplay, TorchLinearRegressor

x = np.arange(-50, 50) / 10
y = -5 * x + 0.4 * np.random.default_rng(1).normal(size=100)

X = x[:, None]
loop = {"optimizer": "sgd", "learning_rate": 0.2, "batch_size": None, "max_iter": 20}
loop["tol"] = None
slope = TorchLinearRegressor(fit_intercept=False, **loop).fit(X, y, coef_init=[-10.0])
losses = 2 * slope.loss_curve_
print(f"loss: first {losses[0]:.2f}, last {losses[-1]:.4f}; w = {slope.coef_[0]:.3f}")

# %%
# Two parameters
# --------------
# The tutorial starts at w = −10 and b = −20. After twenty epochs the intercept is close to its
# optimum, but has not reached it.

line = TorchLinearRegressor(**loop).fit(X, y, coef_init=[-10.0], intercept_init=-20.0)
losses = 2 * line.loss_curve_
print(f"loss: first {losses[0]:.2f}, last {losses[-1]:.4f}; b = {line.intercept_:.3f}")

# %%
# The fitted line
# ---------------

figure, ax = plt.subplots(layout="constrained")
ax.plot(x, y, ".", color="grey", label="data")
ax.plot(x, line.predict(X), label="line after 20 epochs")
ax.set(title="The fitted line", xlabel="x", ylabel="y")
ax.legend()

# %%
# The loss
# --------

figure, ax = plt.subplots(layout="constrained")
LossCurveDisplay.from_estimator(slope, name="one parameter", ax=ax)
LossCurveDisplay.from_estimator(line, name="two parameters", ax=ax)
ax.set(title="Training loss", xlabel="epoch", ylabel="half the mean squared error")
ax.set_xticks(range(0, 21, 5))
plt.show()
