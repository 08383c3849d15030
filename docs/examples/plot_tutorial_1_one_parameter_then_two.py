"""
===================================
Tutorial 1: one parameter, then two
===================================

A line through a hundred noisy points by full-batch gradient descent on the mean squared error, as
PyTorch courses begin: first the slope alone, then slope and intercept.
"""

# %%
# One parameter
# -------------
# The loop starts at w = −10 with rate 0.1. Our loss is half the squared error, so its rate counts
# twice and the losses that it prints are twice ours.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import TorchLinearRegressor

x = np.arange(-50, 50) / 10
y = -5 * x + 0.4 * np.random.default_rng(1).normal(size=100)

loop = {"optimizer": "sgd", "learning_rate": 0.2, "batch_size": None, "max_iter": 20, "tol": None}
slope = TorchLinearRegressor(fit_intercept=False, **loop).fit(x[:, None], y, coef_init=[-10.0])
losses = 2 * slope.loss_curve_
print(f"loss {losses[0]:.2f} to {losses[-1]:.4f}, w = {slope.coef_[0]:.3f}")

# %%
# Two parameters
# --------------
# From w = −10 and b = −20. The intercept has not quite arrived after twenty passes.

line = TorchLinearRegressor(**loop).fit(x[:, None], y, coef_init=[-10.0], intercept_init=-20.0)
losses = 2 * line.loss_curve_
print(f"loss {losses[0]:.2f} to {losses[-1]:.4f}, b = {line.intercept_:.3f}")

# %%
# The way there
# -------------

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].plot(x, y, ".", color="grey", label="data")
axes[0].plot(x, line.predict(x[:, None]), label="line after 20 passes")
axes[0].legend()
for name, model in (("one parameter", slope), ("two parameters", line)):
    axes[1].plot(range(1, 21), 2 * model.loss_curve_, label=name)
axes[1].set(xlabel="pass", ylabel="mean squared error", yscale="log", xticks=range(0, 21, 5))
axes[1].legend()
plt.show()
