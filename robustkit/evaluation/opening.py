"""A model and its data, each of which may be needed to open the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.arrays import checked_inputs
from robustkit.evaluation.data import DataSet, as_data, load_data
from robustkit.evaluation.results import Results
from robustkit.models.base import Model
from robustkit.models.load import ExampleNeeded, as_model, load_model
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, as_array

__all__ = [
    "check_evaluated",
    "model_and_data",
    "open_model",
    "open_pool",
    "reopened",
]


def model_and_data(
    model: Any,
    data: Any,
    bounds: BoundsLike | None,
    samples: int | None,
    **settings: Any,
) -> tuple[Model, DataSet]:
    """Load both, beginning with the one that the other needs.

    The bounds of the data are the model's own; but a plain function must be tried on
    the data to learn what it takes. `settings` are those of `open_model`.
    """
    if bounds is not None:
        bounds = as_bounds(bounds)
    try:
        adapted = open_model(model, bounds, **settings)
    except ExampleNeeded:
        dataset = _open_data(data, bounds, samples)
        return open_model(model, bounds, example=dataset.example, **settings), dataset
    return adapted, _open_data(data, adapted.bounds, samples)


def reopened(
    results: Results, model: Any, data: Any, **instead: Any
) -> tuple[Model, DataSet]:
    """Load model and data again, with the settings of a run.

    An address is sent none of the run's headers, and none of the answers that the run
    kept are taken for it, unless they are given here: what leaves this machine is not
    for a run folder to say.

    Args:
        results: Of the run.
        model: As it was given to that.
        data: Likewise.
        instead: Settings in place of the run's, as for `model_and_data`.
    """
    config = results.run["config"]
    settings = {name: config[name] for name in ("samples", "device", "mean", "std")}
    settings |= {"bounds": Bounds(*config["bounds"]), **instead}
    return model_and_data(model, data, **settings)


def open_model(
    model: Any,
    bounds: BoundsLike | None,
    *,
    cache: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> Model:
    """A model by name or path (`load_model`), or what Python holds (`as_model`).

    `cache` and `headers` are for a model by its address.
    """
    if isinstance(model, str | Path):
        return load_model(model, bounds, cache=cache, headers=headers, **settings)
    if cache is not None or headers:
        raise BadInput(
            "a cache of answers and headers are for a model that is given by its "
            "address; give them to RemoteModel itself"
        )
    return as_model(model, bounds, **settings)


def _open_data(data: Any, bounds: Bounds | None, samples: int | None) -> DataSet:
    """Data by name or path (`load_data`), or what Python holds (`as_data`)."""
    if isinstance(data, str | Path):
        return load_data(data, bounds, samples=samples)
    return as_data(data, bounds, samples=samples)


def open_pool(
    pool: Any, model: Model, data: DataSet
) -> tuple[Array | None, Array | None]:
    """Other inputs (m, ...) that attacks may use, and their classes (m,).

    None: none are given; of the classes, they are not known.

    Args:
        pool: Data by name or path, a pair (x, y), or inputs (m, ...).
        model: In whose bounds they must lie.
        data: That is evaluated, whose shape they must have. Where both name their
            classes, names count: of other classes than the data's, the label is -1.

    Raises:
        BadInput: They are not like that.
    """
    if pool is None:
        return None, None
    classes = None
    if isinstance(pool, str | Path | tuple):
        try:
            opened = _open_data(pool, model.bounds, None)
            batches = list(opened.batches(1024))
        except BadInput as error:
            # Which speaks of data.
            raise BadInput(f"the pool cannot be taken: {error}") from error
        inputs, classes = map(np.concatenate, zip(*batches, strict=True))
        if opened.class_names and data.class_names:
            place = {name: label for label, name in enumerate(data.class_names)}
            classes = np.array([place.get(n, -1) for n in opened.class_names])[classes]
    else:
        inputs = as_array(pool, "pool")
    shape = data.example.shape[1:]
    if inputs.shape[1:] != shape:
        raise BadInput(
            f"the pool must hold inputs like those of the data, of shape "
            f"{shape}; got an array of shape {inputs.shape}"
        )
    return checked_inputs(inputs, model.bounds, name="the pool"), classes


def check_evaluated(
    results: Results, model: Model | None, data: DataSet | None = None
) -> None:
    """Whether these are the model and the data of a run, as far as can be seen.

    As when a run goes on, what has no fingerprint is taken at its word; so are data
    that the run did not see all of.

    Args:
        results: Of the run.
        model: As it is to be used, before it is asked, since questions may change what
            it keeps. None: it was looked at already.
        data: Gone through, to its end. None: only the first of it are used, of which
            the run has no fingerprint.

    Raises:
        BadInput: They are others.
    """
    parts: list[tuple[str, Model | DataSet]] = []
    if model is not None:
        parts.append(("model", model))
    if data is not None and results.run["status"] == "complete":
        parts.append(("data", data))
    for part, opened in parts:
        said, seen = results.run[part].get("fingerprint"), opened.fingerprint()
        if None not in (said, seen) and said != seen:
            raise BadInput(
                f"the {part} '{opened.name}' is not what the run in '{results.path}' "
                f"was made on (fingerprint {str(said)[:16]}, now {str(seen)[:16]}); "
                f"give the whole {part} that was evaluated, which has to be the same "
                "each time it is loaded"
            )
