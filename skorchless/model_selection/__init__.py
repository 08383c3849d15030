"""Searches that train all candidates of a fold at once."""

from skorchless.model_selection.search import BatchedGridSearchCV, BatchedRandomizedSearchCV

__all__ = ["BatchedGridSearchCV", "BatchedRandomizedSearchCV"]
