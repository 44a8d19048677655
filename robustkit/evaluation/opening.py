"""A model and its data, each of which may be needed to open the other."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustkit.errors import BadInput
from robustkit.evaluation.data import DataSet, as_data, load_data
from robustkit.models.base import Model
from robustkit.models.load import ExampleNeeded, as_model, load_model
from robustkit.numerics.bounds import Bounds, as_bounds

__all__ = ["model_and_data", "open_data"]


def model_and_data(
    model: Any,
    data: Any,
    bounds: Bounds | tuple[float, float] | None,
    samples: int | None,
    *,
    cache: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> tuple[Model, DataSet]:
    """Load both, beginning with the one that the other needs.

    The bounds of the data are the model's own; but a plain function must be tried on
    the data to learn what it takes. `cache` and `headers` are for a model by its
    address (`load_model`).
    """
    if bounds is not None:
        bounds = as_bounds(bounds)
    adapt: Callable[..., Model] = as_model
    if isinstance(model, str | Path):
        adapt = functools.partial(load_model, cache=cache, headers=headers)
    elif cache is not None or headers:
        raise BadInput(
            "a cache of answers and headers are for a model that is given by its "
            "address; give them to RemoteModel itself"
        )
    try:
        adapted = adapt(model, bounds, **settings)
    except ExampleNeeded:
        dataset = open_data(data, bounds, samples)
        return adapt(model, bounds, example=dataset.example, **settings), dataset
    return adapted, open_data(data, adapted.bounds, samples)


def open_data(data: Any, bounds: Bounds | None, samples: int | None) -> DataSet:
    """Data by name or path (`load_data`), or what Python holds (`as_data`)."""
    if isinstance(data, str | Path):
        return load_data(data, bounds, samples=samples)
    return as_data(data, bounds, samples=samples)
