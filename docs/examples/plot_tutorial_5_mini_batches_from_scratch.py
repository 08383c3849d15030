"""
======================================
Tutorial 5: mini-batches from scratch
======================================

A thousand points in two dimensions, batches of ten, three passes: the lesson in which a training
loop is written from scratch.
"""

# %%
# Two features, known weights
# ---------------------------

import matplotlib.pyplot as plt
import numpy as np

from skorchless import TorchLinearRegressor

rng = np.random.default_rng(0)
X = rng.normal(size=(1000, 2))
y = X @ [2.0, -3.4] + 4.2 + 0.01 * rng.normal(size=1000)

# %%
# Three passes
# ------------
# The lesson prints the loss over all rows after each pass. That is the validation loss of the
# training rows themselves.

model = TorchLinearRegressor(
    optimizer="sgd", learning_rate=0.03, batch_size=10, max_iter=3, tol=None, random_state=0
).fit(X, y, X_val=X, y_val=y)
for epoch, loss in enumerate(model.validation_loss_curve_, start=1):
    print(f"epoch {epoch}, loss {loss:.6f}")
print(f"w = {model.coef_.round(4)}, b = {model.intercept_:.4f}")

# %%
# Down to the noise
# -----------------

figure, ax = plt.subplots()
ax.plot([1, 2, 3], model.validation_loss_curve_, "o-", label="loss after each pass")
ax.axhline(0.01**2 / 2, color="grey", linestyle=":", label="noise")
ax.set(xlabel="pass", ylabel="half squared error", yscale="log", xticks=[1, 2, 3])
ax.legend()
plt.show()
