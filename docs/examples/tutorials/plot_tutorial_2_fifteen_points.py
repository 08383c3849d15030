"""
==========================
Tutorial 2: fifteen points
==========================

Fit a line to fifteen points in fifty epochs. Given the initial weight, the losses that the
tutorial prints follow.

Source: the fifteen points are those of the linear regression example in
`yunjey/pytorch-tutorial <https://github.com/yunjey/pytorch-tutorial>`_, which many other
tutorials have taken over. This loop uses a learning rate of 0.01 and fifty epochs.
"""

# %%
# The loop
# --------
# A learning rate of 0.01 for the mean squared error is 0.02 for half of it.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import LossCurveDisplay, TorchLinearRegressor

x = "3.3 4.4 5.5 6.71 6.93 4.168 9.779 6.182 7.59 2.167 7.042 10.791 5.313 7.997 3.1"
y = "1.7 2.76 2.09 3.19 1.694 1.573 3.366 2.596 2.53 1.221 2.827 3.465 1.65 2.904 1.3"
x, y = np.array(x.split(), np.float32)[:, None], np.array(y.split(), np.float32)[:, None]

model = TorchLinearRegressor(
    optimizer="sgd", learning_rate=0.02, batch_size=None, max_iter=50, tol=None
).fit(x, y, coef_init=[[0.6189569]])
for epoch in (1, 2, 3, 50):
    print(f"epoch {epoch:>2}: {2 * model.loss_curve_[epoch - 1]:.6f}")

# %%
# The fitted line
# ---------------
# The default optimizer needs no learning rate and returns the least squares solution directly.

best = TorchLinearRegressor().fit(x, y)

figure, ax = plt.subplots(layout="constrained")
ends = np.array([[2.0], [11.0]])
ax.plot(x, y, "o", label="data")
ax.plot(ends, model.predict(ends), label="50 epochs of gradient descent")
ax.plot(ends, best.predict(ends), ":", label="least squares (default optimizer)")
ax.set(title="The fitted line", xlabel="x", ylabel="y")
ax.legend()

# %%
# The loss
# --------

figure, ax = plt.subplots(layout="constrained")
LossCurveDisplay.from_estimator(model, name="50 epochs of gradient descent", ax=ax)
ax.axhline(best.loss_curve_[-1], color="grey", linestyle=":", label="least squares")
ax.set(title="Training loss", xlabel="epoch", ylabel="half the mean squared error")
ax.legend()
plt.show()
