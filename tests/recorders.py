"""Callbacks of scikit-learn's that write down what they are told."""


class Recorder:
    """Writes down what it is told."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events, self.models, self.begun, self.fits = [], [], [], 0

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.begun.append((context.task_name, context.task_id))
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.events.append(f"end {context.task_name}")
        if context.task_name == "pass":
            self.models.append(fitted_estimator)
            self.X, self.y, self.metadata = X, y, metadata
            return context.task_id + 1 == self.stop_after
        self.last = fitted_estimator
        return False

    def teardown(self, estimator, context):
        self.events.append("teardown")


class Propagated(Recorder):
    """The same, handed on by meta-estimators to what they fit."""

    max_propagation_depth = None
