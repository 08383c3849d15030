"""
====
Text
====

Words become columns of a sparse matrix, many thousands of them, and a softmax regression learns
from them as they are: nothing is filled in, scaled by hand or tuned.
"""

# %%
# Two thousand notes
# ------------------
# Each of them is about one of four subjects. Most of their words are anybody's, a few are their
# subject's, and as in any language some words come all the time and most hardly ever.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
subjects = {
    "astronomy": "star planet orbit comet telescope eclipse moon galaxy",
    "cooking": "oven flour butter simmer pepper recipe dough spoon",
    "sailing": "mast harbour anchor wind keel rope tide deck",
    "chess": "bishop rook gambit castle pawn checkmate opening endgame",
}
syllables = ["ba", "lo", "mi", "ren", "tu", "sa", "ko", "vel", "dri", "no", "pe", "gu"]
common = np.array(["".join(rng.choice(syllables, rng.integers(2, 6))) for _ in range(8_000)])
frequency = 1.0 / (1.0 + np.arange(len(common)))
frequency /= frequency.sum()


def write(subject, anybodys):
    """A note about a subject, of anybody's words and a few others."""
    own = rng.choice(subjects[subject].split(), 2)
    stray = rng.choice(" ".join(subjects.values()).split(), 2)
    return " ".join(rng.permutation([*anybodys, *own, *stray]))


labels = rng.choice(list(subjects), 2_000)
notes = [*map(write, labels, rng.choice(common, (len(labels), 56), p=frequency))]
print(notes[0][:90], "...")

# %%
# A pipeline
# ----------
# ``TfidfVectorizer`` makes a CSR matrix, and the classifier takes it as it is.

train, test, y_train, y_test = train_test_split(notes, labels, random_state=0)
pipeline = make_pipeline(TfidfVectorizer(), TorchSoftmaxClassifier()).fit(train, y_train)
X = pipeline[0].transform(train)
print(f"{X.shape[0]} x {X.shape[1]}, of which {X.nnz / np.prod(X.shape):.2%} are stored")
print(f"accuracy {pipeline.score(test, y_test):.3f} after {pipeline[-1].n_iter_} passes")

# %%
# Which penalty?
# --------------
# All candidates of a fold train at once, and the words are counted once a fold.

grid = {"torchsoftmaxclassifier__alpha": np.logspace(-6, -2, 9)}
search = BatchedGridSearchCV(pipeline, grid, cv=3).fit(train, y_train)
(alpha,) = search.best_params_.values()
best = search.best_estimator_
print(f"alpha {alpha:.1e}: accuracy {best.score(test, y_test):.3f}")

# %%
# What it goes by
# ---------------
# The words that speak most for each subject are its own.

words, model = best[0].get_feature_names_out(), best[-1]
figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained", sharex=True)
for ax, subject, coef in zip(axes, model.classes_, model.coef_, strict=True):
    top = np.argsort(coef)[-8:]
    ax.barh(words[top], coef[top])
    ax.set(title=subject, xlabel="coefficient")
plt.show()
