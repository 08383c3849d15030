"""
===========
A raw table
===========

From a table with numbers in different units, categories and missing values to a classifier
whose coefficients can be interpreted.
"""

# %%
# The table
# ---------
# The table describes six hundred flats, drawn at random. Prices are in hundreds of thousands,
# ages in years, the share of green in the neighbourhood is below one, and the district is
# sometimes missing. We predict how fast a flat is sold.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skorchless import BatchedGridSearchCV, LossCurveDisplay, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
n = 600
flats = pd.DataFrame(
    {
        "price": rng.lognormal(12.5, 0.4, n).round(-3),
        "area": rng.uniform(25, 160, n).round(1),
        "age": pd.Series(rng.integers(0, 110, n), dtype="Int64"),
        "green": rng.beta(2, 5, n).round(3),
        "district": rng.choice(["harbour", "hill", "old town", None], n),
    }
)
appeal = (
    np.log(flats["area"] / flats["price"])
    + 1.5 * flats["green"]
    - 0.006 * flats["age"].astype(float)
    + flats["district"].map({"hill": 0.5, "old town": 0.3}).fillna(0.0)
)
cuts = np.quantile(appeal, [0.3, 0.7])
speed = np.digitize(appeal + rng.normal(0, 0.3, n), cuts)
sold = np.array(["slowly", "in time", "at once"])[speed]
flats.head()

# %%
# A pipeline and a grid
# ---------------------
# Categories become indicator features, and missing numbers are replaced by the median. No
# scaling is needed: the estimator scales internally, and its coefficients belong to the
# unscaled features.

columns = make_column_transformer(
    (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
    (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["district"]),
    verbose_feature_names_out=False,
).set_output(transform="pandas")
search = BatchedGridSearchCV(
    make_pipeline(columns, TorchSoftmaxClassifier()),
    {"torchsoftmaxclassifier__alpha": [1e-5, 1e-4, 1e-3]},
    scoring="neg_log_loss",
)
X_train, X_test, y_train, y_test = train_test_split(flats, sold, random_state=0)
search.fit(X_train, y_train)
model = search.best_estimator_[-1]
print(search.best_params_)
print(f"accuracy on the test set: {search.best_estimator_.score(X_test, y_test):.3f}")

# %%
# The effect of each feature
# --------------------------
# A coefficient times the standard deviation of its feature is the change of the log-odds for
# one standard deviation.

deviations = search.best_estimator_[:-1].transform(X_train).std()
effects = pd.DataFrame(model.coef_.T * deviations.to_numpy()[:, None], columns=model.classes_)
effects.index = model.feature_names_in_

figure, ax = plt.subplots(layout="constrained")
effects.plot.barh(ax=ax, title="Effect on the log-odds")

# %%
# The training loss
# -----------------
# The default optimizer needs few iterations.

display = LossCurveDisplay.from_estimator(search.best_estimator_)
display.ax_.set(title="Training loss of the best model", xlabel="iteration")
plt.show()
