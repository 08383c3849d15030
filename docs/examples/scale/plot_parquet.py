"""
=============
Parquet files
=============

Learn from a directory of files that do not have to fit into memory: read them in pieces, and
call ``partial_fit`` for each piece. This example needs pandas and pyarrow.
"""

# %%
# A directory of three files
# --------------------------
# Each file has 20,000 samples of a regression problem. The scales of the features differ by a
# factor of a thousand.

import pickle
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from skorchless import TorchLinearRegressor

rng = np.random.default_rng(0)
names = [f"x{i}" for i in range(8)]
scales = np.geomspace(0.03, 30, 8)
truth = rng.normal(size=8) / scales
folder = tempfile.TemporaryDirectory()


def draw(n):
    """Samples of the regression problem."""
    X = 5 * scales + scales * rng.normal(size=(n, 8))
    table = pd.DataFrame(X.astype(np.float32), columns=names)
    table["y"] = (X @ truth + rng.normal(0, 0.5, n)).astype(np.float32)
    return table


for part in range(3):
    draw(20_000).to_parquet(Path(folder.name) / f"part{part}.parquet", index=False)
held_out = draw(5_000)

# %%
# Piece by piece
# --------------
# Only 2,000 samples are in memory at a time. With ``learning_rate="auto"``, the means and
# standard deviations of the features are estimated from the samples so far, and the learning
# rate decreases from call to call. Any other source of pieces works as well, such as a database
# cursor. The model can be pickled between two pieces; its state is pickled with it. A
# classifier needs all labels in the first call, ``partial_fit(X, y, classes=[...])``. Skip
# pieces without samples.

model = TorchLinearRegressor(random_state=0)
seen, scores = [], []
for _ in range(2):
    for batch in ds.dataset(folder.name).to_batches(batch_size=2_000):
        piece = batch.to_pandas()
        model.partial_fit(piece[names], piece["y"])
        seen.append(len(piece))
        scores.append(model.score(held_out[names], held_out["y"]))
    model = pickle.loads(pickle.dumps(model))
print(f"R² {scores[-1]:.4f} after {sum(seen):,} samples in pieces of {max(seen):,}")

# %%
# The error on held-out data
# --------------------------
# It falls to the level of the noise, which no model can go below.

best = 1 - 0.5**2 / held_out["y"].var()
figure, ax = plt.subplots(layout="constrained")
ax.plot(np.cumsum(seen), 1 - np.array(scores), label="partial_fit")
ax.axhline(1 - best, color="grey", linestyle=":", label="noise")
ax.set(title="Error on held-out samples", yscale="log")
ax.set(xlabel="number of samples so far", ylabel="1 − R²")
ax.legend()

# %%
# The coefficients
# ----------------
# They belong to the unscaled features.

figure, ax = plt.subplots(layout="constrained")
ax.plot(scales, truth * scales, "o", fillstyle="none", label="true")
ax.plot(scales, model.coef_ * scales, "x", label="learned")
ax.set(title="Coefficients", xscale="log")
ax.set(xlabel="scale of the feature", ylabel="coefficient times scale")
ax.legend()
plt.show()
folder.cleanup()
