"""
===========
A raw table
===========

Numbers in any units, words, gaps, and words to predict: from the table to a model whose
coefficients can be read.
"""

# %%
# The table
# ---------
# Six hundred flats, drawn at random: prices in hundreds of thousands, ages in years, shares below
# one, and a district that is sometimes missing.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skorchless import LossCurveDisplay, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
n = 600
flats = pd.DataFrame(
    {
        "price": rng.lognormal(12.5, 0.4, n).round(-3),
        "area": rng.uniform(25, 160, n).round(1),
        "age": pd.Series(rng.integers(0, 110, n), dtype="Int64"),
        "green": rng.beta(2, 5, n).round(3),
        "district": rng.choice(["harbour", "hill", "old town", None], n, p=[0.4, 0.3, 0.25, 0.05]),
    }
)
appeal = (
    np.log(flats["area"] / flats["price"])
    + 1.5 * flats["green"]
    - 0.006 * flats["age"].astype(float)
    + flats["district"].map({"hill": 0.5, "old town": 0.3}).fillna(0.0)
)
cuts = np.quantile(appeal, [0.3, 0.7])
sold = np.array(["slowly", "in time", "at once"])[np.digitize(appeal + rng.normal(0, 0.3, n), cuts)]
flats.head()

# %%
# A pipeline and a grid
# ---------------------
# Words become indicators, gaps become medians. Nothing is scaled: the estimator does that for
# itself, and its coefficients belong to the columns as they are.

columns = make_column_transformer(
    (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
    (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["district"]),
    verbose_feature_names_out=False,
).set_output(transform="pandas")
search = GridSearchCV(
    make_pipeline(columns, TorchSoftmaxClassifier()),
    {"torchsoftmaxclassifier__alpha": [1e-5, 1e-4, 1e-3]},
    scoring="neg_log_loss",
)
X_train, X_test, y_train, y_test = train_test_split(flats, sold, random_state=0)
search.fit(X_train, y_train)
model = search.best_estimator_[-1]
print(search.best_params_, f"accuracy {search.best_estimator_.score(X_test, y_test):.3f}")

# %%
# What it learned
# ---------------
# A coefficient times its column's deviation is what the column usually moves the log-odds by.

deviations = search.best_estimator_[:-1].transform(X_train).std()
effects = pd.DataFrame(model.coef_.T * deviations.to_numpy()[:, None], columns=model.classes_)
effects.index = model.feature_names_in_

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
effects.plot.barh(ax=axes[0], title="Effect of one deviation on the log-odds")
LossCurveDisplay.from_estimator(search, ax=axes[1])
axes[1].set_title("Loss of the best model")
plt.show()
