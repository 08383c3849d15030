"""
===================================
Tutorial 4: three ways to one line
===================================

The line y = 13x + 2 with noise, learned three times: by hand in NumPy, with Keras, and with
PyTorch. Each way is one ``fit`` with its own rate and batches.
"""

# %%
# The data
# --------
# Seeding twice makes the noise a tenth of x, so that y = 13.1x + 2 exactly.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import LossCurveDisplay, TorchLinearRegressor

x = np.random.RandomState(42).uniform(-10, 10, (1000, 1))
y = 13 * x + 2 + np.random.RandomState(42).uniform(-1, 1, (1000, 1))

# %%
# NumPy
# -----
# Half the mean squared error, so the rate is the tutorial's own; the start is its own too.

loop = {"optimizer": "sgd", "max_iter": 100, "tol": None, "random_state": 0}
by_hand = TorchLinearRegressor(learning_rate=0.02, batch_size=None, **loop)
by_hand.fit(x, y, coef_init=[[-0.02509198]], intercept_init=[0.09014286])
print(by_hand.coef_, by_hand.intercept_)

# %%
# Keras
# -----
# Rate 0.02 on the mean squared error, batches of 32.

keras = TorchLinearRegressor(learning_rate=0.04, batch_size=32, **loop).fit(x, y)
print(keras.coef_, keras.intercept_)

# %%
# PyTorch
# -------
# Batches of 16, its noise drawn apart from x. On tensors that are on a GPU it would train there.

noisy = 13 * x + 2 + np.random.default_rng(0).uniform(-1, 1, x.shape)
torch = TorchLinearRegressor(learning_rate=0.04, batch_size=16, **loop).fit(x, noisy)
print(torch.coef_, torch.intercept_)

# %%
# Beside each other
# -----------------

figure, ax = plt.subplots()
for name, model in (("NumPy", by_hand), ("Keras", keras), ("PyTorch", torch)):
    LossCurveDisplay.from_estimator(model, name=name, ax=ax)
ax.set_title("Three ways to one line")
plt.show()
