"""
====
Text
====

Classify texts by their words. The words become thousands of sparse features, from which softmax
regression learns without densifying, scaling or tuning.
"""

# %%
# Two thousand notes
# ------------------
# Each note is about one of four subjects. Most of its words are common to all subjects, a few
# belong to its own. As in natural language, some words are frequent and most are rare.

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


def write(subject, shared):
    """A note about a subject, of shared words and a few words of subjects."""
    own = rng.choice(subjects[subject].split(), 2)
    stray = rng.choice(" ".join(subjects.values()).split(), 2)
    return " ".join(rng.permutation([*shared, *own, *stray]))


labels = rng.choice(list(subjects), 2_000)
notes = [*map(write, labels, rng.choice(common, (len(labels), 56), p=frequency))]
print(notes[0][:90], "...")

# %%
# A pipeline
# ----------
# ``TfidfVectorizer`` returns a CSR matrix, which the classifier uses in place.

train, test, y_train, y_test = train_test_split(notes, labels, random_state=0)
pipeline = make_pipeline(TfidfVectorizer(), TorchSoftmaxClassifier()).fit(train, y_train)
X = pipeline[0].transform(train)
print(f"{X.shape[0]} samples, {X.shape[1]} features, {X.nnz / np.prod(X.shape):.2%} non-zero")
print(f"accuracy on the test set: {pipeline.score(test, y_test):.3f}")

# %%
# A search for the penalty
# ------------------------
# All candidates of a fold train together, and the words are counted once per fold.

grid = {"torchsoftmaxclassifier__alpha": np.logspace(-6, -2, 9)}
search = BatchedGridSearchCV(pipeline, grid, cv=3).fit(train, y_train)
(alpha,) = search.best_params_.values()
best = search.best_estimator_
print(f"alpha {alpha:.1e}: accuracy on the test set {best.score(test, y_test):.3f}")

# %%
# The words with the largest coefficients
# ---------------------------------------
# For each subject, they are the words that belong to it.

words, model = best[0].get_feature_names_out(), best[-1]
figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.8), layout="constrained", sharex=True)
for ax, subject, coef in zip(axes.flat, model.classes_, model.coef_, strict=True):
    top = np.argsort(coef)[-6:]
    ax.barh(words[top], coef[top])
    ax.set_title(subject)
figure.supxlabel("coefficient")
plt.show()
