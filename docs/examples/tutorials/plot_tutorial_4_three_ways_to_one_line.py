"""
===================================
Tutorial 4: three ways to one line
===================================

Learn the line y = 13x + 2 three times: by hand in NumPy, with Keras, and with PyTorch. Each of
the three loops is one call of ``fit``, with its own learning rate and batch size.

Source: an introduction that compares the three libraries on this line. Its data, initial weights
and results are used here; where it was first published is not known to us.
"""

# %%
# The data
# --------
# The tutorial sets the seed twice, so the noise is a tenth of x, and y = 13.1x + 2 exactly.

import matplotlib.pyplot as plt
import numpy as np

from skorchless import LossCurveDisplay, TorchLinearRegressor

x = np.random.RandomState(42).uniform(-10, 10, (1000, 1))
y = 13 * x + 2 + np.random.RandomState(42).uniform(-1, 1, (1000, 1))

# %%
# NumPy
# -----
# The loop minimises half the mean squared error, so the learning rate is the same. The initial
# weights are those of the tutorial.

loop = {"optimizer": "sgd", "max_iter": 100, "tol": None, "random_state": 0}
by_hand = TorchLinearRegressor(learning_rate=0.02, batch_size=None, **loop)
by_hand.fit(x, y, coef_init=[[-0.02509198]], intercept_init=[0.09014286])
print(by_hand.coef_, by_hand.intercept_)

# %%
# Keras
# -----
# The learning rate is 0.02 for the mean squared error, with batches of 32.

keras = TorchLinearRegressor(learning_rate=0.04, batch_size=32, **loop).fit(x, y)
print(keras.coef_, keras.intercept_)

# %%
# PyTorch
# -------
# Batches of 16. The noise is drawn independently of x. If X and y are tensors on a GPU, ``fit``
# trains there.

noisy = 13 * x + 2 + np.random.default_rng(0).uniform(-1, 1, x.shape)
torch = TorchLinearRegressor(learning_rate=0.04, batch_size=16, **loop).fit(x, noisy)
print(torch.coef_, torch.intercept_)

# %%
# The three loss curves
# ---------------------
# With batches, a hundred epochs make many more updates, so the loss falls faster. That of the
# PyTorch loop ends at the level of its noise.

figure, ax = plt.subplots(layout="constrained")
for name, model in (("NumPy", by_hand), ("Keras", keras), ("PyTorch", torch)):
    LossCurveDisplay.from_estimator(model, name=name, ax=ax)
ax.set(title="Three ways to one line", xlabel="epoch")
plt.show()
