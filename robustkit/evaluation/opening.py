"""A model and its data, each of which may be needed to open the other."""

from pathlib import Path
from typing import Any

from robustkit.evaluation.data import DataSet, as_data, load_data
from robustkit.models.base import Model
from robustkit.models.load import ExampleNeeded, as_model, load_model
from robustkit.numerics.bounds import Bounds

__all__ = ["model_and_data", "open_data"]


def model_and_data(
    model: Any, data: Any, bounds: Bounds | None, samples: int | None, **settings: Any
) -> tuple[Model, DataSet]:
    """Load both, beginning with the one that the other needs.

    The bounds of the data are the model's own; but a plain function must be tried on
    the data to learn what it takes.
    """
    adapt = load_model if isinstance(model, str | Path) else as_model
    try:
        adapted: Model = adapt(model, bounds, **settings)
    except ExampleNeeded:
        dataset = open_data(data, bounds, samples)
        return adapt(model, bounds, example=dataset.example, **settings), dataset
    return adapted, open_data(data, adapted.bounds, samples)


def open_data(data: Any, bounds: Bounds | None, samples: int | None) -> DataSet:
    """Data by name or path (`load_data`), or what Python holds (`as_data`)."""
    if isinstance(data, str | Path):
        return load_data(data, bounds, samples=samples)
    return as_data(data, bounds, samples=samples)
