"""Write the pickles of this version, once, at its release: ``python tests/pickles/write.py``.

``tests/estimators/test_pickles.py`` loads those of all versions.
"""

import pickle
from pathlib import Path

import numpy as np

import skorchless
from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 3))
y = X @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=30)
labels = np.array(["low", "middle", "high"])[np.digitize(y, [-1.0, 1.0])]
sgd = {"optimizer": "sgd", "learning_rate": 0.1, "max_iter": 3, "tol": None, "random_state": 0}

MODELS = {
    "regressor": TorchLinearRegressor(alpha=0.1).fit(X, y),
    "regressor of two targets": TorchLinearRegressor(**sgd).fit(X, np.column_stack([y, -y])),
    "classifier": TorchSoftmaxClassifier().fit(X, labels),
    "classifier of two classes": TorchSoftmaxClassifier(**sgd).fit(X, y > 0),
    "begun by partial_fit": TorchLinearRegressor(**sgd).partial_fit(X, y),
    "search": BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": [0.0, 0.1]}, cv=2).fit(X, y),
    "unfitted": TorchSoftmaxClassifier(alpha=0.5),
}

if __name__ == "__main__":
    content = {
        "X": X,
        "y": y,
        "models": MODELS,
        "predictions": {
            name: model.predict(X) for name, model in MODELS.items() if name != "unfitted"
        },
    }
    path = Path(__file__).parent / f"{skorchless.__version__}.pickle"
    path.write_bytes(pickle.dumps(content, protocol=4))
    print(f"{path.name}: {path.stat().st_size} bytes")
