"""Loss curves as pictures."""

import builtins
import inspect
import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    LossCurveDisplay,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 3))
y = X @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=80)
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 6, "tol": None, "random_state": 0}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fitted(**parameters):
    return TorchLinearRegressor(**{**SGD, **parameters}).fit(X, y)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def search_of(curves, params=None):
    """What the display may ask of a search over candidates at once."""
    results = {} if params is None else {"cv_results_": {"params": params}}
    return SimpleNamespace(loss_curves_=curves, **results)


def test_a_model_is_a_line_over_its_passes():
    model = fitted()
    display = LossCurveDisplay.from_estimator(model)
    [line] = display.lines_
    assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5, 6])
    assert_array_equal(line.get_ydata(), model.loss_curve_)
    assert display.validation_lines_ == [None]
    assert display.figure_ is display.ax_.figure
    assert labels(display.ax_) == ["TorchLinearRegressor"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == (
        "Epoch or iteration",
        "Loss",
    )


def test_the_validation_loss_is_dashed_in_the_same_colour():
    model = TorchLinearRegressor(**SGD).fit(X, y, X_val=X[:20], y_val=y[:20])
    display = LossCurveDisplay.from_estimator(model, name="SGD")
    [training], [validation] = display.lines_, display.validation_lines_
    assert_array_equal(validation.get_ydata(), model.validation_loss_curve_)
    assert validation.get_color() == training.get_color()
    assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert labels(display.ax_) == ["SGD (training)", "SGD (validation)"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: make_pipeline(StandardScaler(), model),
        lambda model: make_pipeline(make_pipeline(StandardScaler(), model)),
        lambda model: GridSearchCV(model, {"alpha": [0.1]}, cv=2),
        lambda model: GridSearchCV(make_pipeline(StandardScaler(), model), {}, cv=2),
        lambda model: make_pipeline(StandardScaler(), GridSearchCV(model, {}, cv=2)),
    ],
)
def test_the_model_is_found_in_pipelines_and_searches(wrap):
    wrapped = wrap(TorchLinearRegressor(**SGD)).fit(X, y)
    inner = wrapped
    while not hasattr(inner, "loss_curve_"):
        inner = inner.best_estimator_ if hasattr(inner, "best_estimator_") else inner[-1]
    [line] = LossCurveDisplay.from_estimator(wrapped).lines_
    assert_array_equal(line.get_ydata(), inner.loss_curve_)


def test_several_models_share_an_axis():
    first = LossCurveDisplay.from_estimator(fitted(), name="slow")
    second = LossCurveDisplay.from_estimator(fitted(learning_rate=0.2), name="fast", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert labels(first.ax_) == ["slow", "fast"]
    assert first.lines_[0].get_color() != second.lines_[0].get_color()
    assert len(plt.get_fignums()) == 1


def test_a_display_is_drawn_again_as_often_as_one_likes():
    display = LossCurveDisplay(loss_curves=[[2.0, 1.0]], names=["mine"])
    assert not hasattr(display, "ax_")
    assert display.plot() is display
    figure, ax = plt.subplots()
    assert display.plot(ax).figure_ is figure
    assert labels(ax) == ["mine"]


@pytest.mark.parametrize(
    ("curve", "scale"),
    [
        ([10.0, 1.0], "log"),
        ([9.9, 1.0], "linear"),
        ([10.0, 0.0], "linear"),
        ([10.0, -1.0], "linear"),
        ([np.nan, 10.0, 1.0, np.inf], "log"),
        ([np.nan], "linear"),
        ([], "linear"),
    ],
)
def test_the_scale_is_logarithmic_where_it_helps(curve, scale):
    display = LossCurveDisplay(loss_curves=[curve])
    assert display.plot().ax_.get_yscale() == scale
    assert display.plot(scale="log").ax_.get_yscale() == "log"
    assert display.plot(scale="linear").ax_.get_yscale() == "linear"


def test_the_scale_is_that_of_all_lines_on_the_axis():
    display = LossCurveDisplay(loss_curves=[[2.0, 1.0]]).plot()
    assert display.ax_.get_yscale() == "linear"
    LossCurveDisplay(loss_curves=[[30.0, 20.0]]).plot(display.ax_)
    assert display.ax_.get_yscale() == "log"


def test_a_fit_of_one_pass_is_a_visible_point():
    model = TorchLinearRegressor().fit(X, y)
    display = LossCurveDisplay(loss_curves=[model.loss_curve_[:1]]).plot()
    assert display.lines_[0].get_marker() == "o"


def test_a_search_is_one_line_for_each_candidate():
    curves = [[[4.0, 2.0], [2.0, 1.0, 0.5]], [[6.0], [8.0, 4.0]]]
    params = [{"learning_rate": 0.1, "alpha": 0.0}, {"learning_rate": 1 / 3, "alpha": 0.0}]
    display = LossCurveDisplay.from_estimator(search_of(curves, params))
    first, second = display.lines_
    assert_allclose(first.get_ydata(), [3.0, 1.5])  # as long as all splits run
    assert_allclose(second.get_ydata(), [7.0])
    assert labels(display.ax_) == ["learning_rate=0.1", "learning_rate=0.3333"]


def test_candidates_are_called_by_what_they_differ_in():
    params = [{"model__alpha": 1.0}, {"model__alpha": 1.0, "model__l1_ratio": 0.5}]
    display = LossCurveDisplay.from_estimator(search_of([[[1.0]]] * 2, params), name="grid")
    assert display.names == ["grid: alpha=1", "grid: l1_ratio=0.5"]
    same = [{"alpha": 1.0}]
    assert LossCurveDisplay.from_estimator(search_of([[[1.0]]], same)).names == ["alpha=1"]
    bare = LossCurveDisplay.from_estimator(search_of([[[1.0]]] * 2))
    assert bare.names == ["candidate 0", "candidate 1"]


def test_a_candidate_that_never_made_a_pass_has_a_line_without_points():
    display = LossCurveDisplay.from_estimator(search_of([[[], []], [[2.0], []]]))
    assert [len(line.get_xdata()) for line in display.lines_] == [0, 1]


def test_a_search_inside_a_pipeline_shows_its_candidates():
    search = search_of([[[3.0, 1.0]]], [{"alpha": 0.1}])
    search.fit = search.predict = search.__sklearn_tags__ = None
    display = LossCurveDisplay.from_estimator(make_pipeline(StandardScaler(), search))
    assert display.names == ["alpha=0.1"]


@pytest.mark.parametrize("refit", [True, False])
def test_a_batched_search_draws_the_mean_curve_of_each_candidate(refit):
    pipeline = Pipeline([("scale", StandardScaler()), ("model", TorchLinearRegressor(**SGD))])
    rates = {"model__learning_rate": [0.01, 0.1, 0.5]}
    search = BatchedGridSearchCV(pipeline, rates, cv=2, refit=refit).fit(X, y)
    display = LossCurveDisplay.from_estimator(search)
    assert labels(display.ax_) == ["learning_rate=0.01", "learning_rate=0.1", "learning_rate=0.5"]
    for line, curves in zip(display.lines_, search.loss_curves_, strict=True):
        assert_allclose(line.get_ydata(), np.mean(curves, axis=0))


@pytest.mark.parametrize(("n_lines", "legend"), [(11, True), (20, True), (21, False)])
def test_many_candidates_have_colours_of_their_own_and_no_endless_legend(n_lines, legend):
    display = LossCurveDisplay.from_estimator(search_of([[[2.0, 1.0]]] * n_lines))
    assert len({tuple(line.get_color()) for line in display.lines_}) == n_lines
    assert (display.ax_.get_legend() is not None) == legend


def test_an_ordered_parameter_has_ordered_colours():
    values = [0.1, 10.0, 1.0]
    params = [{"alpha": value, "l1_ratio": 0.5} for value in values]
    display = LossCurveDisplay.from_estimator(search_of([[[2.0, 1.0]]] * 3, params))
    colours = [tuple(line.get_color()) for line in display.lines_]
    viridis = plt.get_cmap("viridis")
    assert colours == [viridis(0.0), viridis(0.9), viridis(0.45)]


@pytest.mark.parametrize(
    ("name", "values"), [("schedule", ["cosine", "constant"]), ("nesterov", [False, True])]
)
def test_other_parameters_have_colours_that_differ(name, values):
    params = [{name: value} for value in values]
    display = LossCurveDisplay.from_estimator(search_of([[[2.0, 1.0]]] * 2, params))
    colours = [to_rgba(line.get_color()) for line in display.lines_]
    assert colours == [to_rgba("C0"), to_rgba("C1")]


def test_a_legend_that_grew_too_long_goes():
    display = LossCurveDisplay.from_estimator(search_of([[[2.0, 1.0]]] * 15))
    LossCurveDisplay.from_estimator(search_of([[[2.0, 1.0]]] * 15), ax=display.ax_)
    assert display.ax_.get_legend() is None


def test_lines_may_be_styled():
    style = {"color": "black", "linewidth": 3.0, "linestyle": ":"}
    model = TorchLinearRegressor(**SGD).fit(X, y, X_val=X, y_val=y)
    display = LossCurveDisplay.from_estimator(model, line_kwargs=style)
    for line in (*display.lines_, *display.validation_lines_):
        assert (line.get_color(), line.get_linewidth(), line.get_linestyle()) == ("black", 3.0, ":")


def test_what_has_no_curve_is_refused():
    with pytest.raises(NotFittedError, match="TorchSoftmaxClassifier instance is not fitted yet"):
        LossCurveDisplay.from_estimator(TorchSoftmaxClassifier())
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(make_pipeline(StandardScaler(), TorchLinearRegressor()))
    with pytest.raises(ValueError, match=r"LinearRegression has no loss_curve_.*pipeline"):
        LossCurveDisplay.from_estimator(LinearRegression().fit(X, y))
    unrefitted = GridSearchCV(TorchLinearRegressor(), {}, cv=2, refit=False).fit(X, y)
    with pytest.raises(ValueError, match=r"GridSearchCV has no loss_curve_.*refits its best"):
        LossCurveDisplay.from_estimator(unrefitted)


def test_an_unknown_scale_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=re.escape("'linear'. Got 'symlog'")):
        LossCurveDisplay(loss_curves=[[1.0]]).plot(scale="symlog")
    assert plt.get_fignums() == []


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    original = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    model = fitted()
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r"pip install matplotlib.*skorchless\[plot\]"):
        LossCurveDisplay.from_estimator(model)


def test_tab_completion_shows_what_is_documented_and_nothing_else():
    display = LossCurveDisplay.from_estimator(fitted())
    offered = {name for name in dir(display) if not name.startswith("_")}
    assert offered - {"from_estimator", "plot"} == {
        name for name in offered if f"\n{name} : " in inspect.getdoc(LossCurveDisplay)
    }


def test_what_is_passed_in_stays_as_it_is():
    curves, style = [np.array([2.0, 1.0])], {"color": "black"}
    LossCurveDisplay(loss_curves=curves, names=["mine"]).plot(line_kwargs=style)
    assert_array_equal(curves[0], [2.0, 1.0])
    assert style == {"color": "black"}
