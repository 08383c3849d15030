"""
==========================
Tutorial 2: fifteen points
==========================

Fifteen points, a line, fifty passes at rate 0.01: another first lesson in PyTorch. Its printed
losses follow from the weight that it happened to start from.
"""

import matplotlib.pyplot as plt
import numpy as np

from skorchless import LossCurveDisplay, TorchLinearRegressor

x = "3.3 4.4 5.5 6.71 6.93 4.168 9.779 6.182 7.59 2.167 7.042 10.791 5.313 7.997 3.1"
y = "1.7 2.76 2.09 3.19 1.694 1.573 3.366 2.596 2.53 1.221 2.827 3.465 1.65 2.904 1.3"
x, y = np.array(x.split(), np.float32)[:, None], np.array(y.split(), np.float32)[:, None]

# %%
# The loop's rate of 0.01 on the mean squared error is 0.02 on half of it.

model = TorchLinearRegressor(
    optimizer="sgd", learning_rate=0.02, batch_size=None, max_iter=50, tol=None
).fit(x, y, coef_init=[[0.6189569]])
for epoch in (1, 2, 3, 50):
    print(f"epoch {epoch:>2}: {2 * model.loss_curve_[epoch - 1]:.6f}")

# %%
# Least squares itself needs no passes to speak of: the default goes straight to the optimum.

best = TorchLinearRegressor().fit(x, y)

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
ends = np.array([[2.0], [11.0]])
axes[0].plot(x, y, "o", label="data")
axes[0].plot(ends, model.predict(ends), label="50 passes")
axes[0].plot(ends, best.predict(ends), ":", label="least squares")
axes[0].legend()
LossCurveDisplay.from_estimator(model, name="50 passes", ax=axes[1])
axes[1].axhline(best.loss_curve_[-1], color="grey", linestyle=":", label="least squares")
axes[1].legend()
plt.show()
