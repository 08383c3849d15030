"""
=============
Parquet files
=============

A directory of files that need not fit into memory: read in pieces, learned with ``partial_fit``,
one pass over each piece. Needs pandas and pyarrow.
"""

# %%
# A directory of three files
# --------------------------
# Each with 20,000 rows of a regression problem whose columns differ in scale by a factor of a
# thousand.

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
    """Rows of the table that the files are parts of."""
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
# Only 2,000 rows are in memory at a time. With ``learning_rate="auto"`` the columns' means and
# deviations are estimated as the rows go by, and the rate falls as the calls go on. Whatever yields
# pieces would do, such as a database cursor. The model may be put aside between two pieces: what it
# has to remember is pickled with it. A classifier is told all labels in the first call,
# ``partial_fit(X, y, classes=[...])``, and pieces without rows are to be skipped.

model = TorchLinearRegressor(random_state=0)
seen, scores = [], []
for _ in range(2):
    for batch in ds.dataset(folder.name).to_batches(batch_size=2_000):
        piece = batch.to_pandas()
        model.partial_fit(piece[names], piece["y"])
        seen.append(len(piece))
        scores.append(model.score(held_out[names], held_out["y"]))
    model = pickle.loads(pickle.dumps(model))
print(f"R² {scores[-1]:.4f} after {sum(seen):,} rows in pieces of {max(seen):,}")

# %%
# How it went
# -----------

best = 1 - 0.5**2 / held_out["y"].var()
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].plot(np.cumsum(seen), 1 - np.array(scores), label="partial_fit")
axes[0].axhline(1 - best, color="grey", linestyle=":", label="noise")
axes[0].set(xlabel="rows seen", ylabel="1 − R² on held-out rows", yscale="log")
axes[0].legend()
axes[1].plot(scales, truth * scales, "o", fillstyle="none", label="truth")
axes[1].plot(scales, model.coef_ * scales, "x", label="learned")
axes[1].set(xlabel="scale of the column", ylabel="coefficient times scale", xscale="log")
axes[1].legend()
plt.show()
folder.cleanup()
