"""What families share: shapes, and inputs worth attacking."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from robustkit.active_tests.scores import Scores, flat_model
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.tensors import Array

__all__ = [
    "BoundsLike",
    "DType",
    "Shape",
    "as_bounds",
    "as_shape",
    "draw",
    "draw_inputs",
    "feature_count",
    "flat_model",
    "margins",
    "other_classes",
]

Shape: TypeAlias = int | tuple[int, ...]
"""Of one input: how many features, or the lengths of its axes."""
DType: TypeAlias = type[np.floating[Any]]
"""numpy.float64 or numpy.float32."""

_POOL = 8
_TRIES = 100


def as_shape(features: Shape) -> tuple[int, ...]:
    """The shape of one input.

    Raises:
        BadInput: It has no features.
    """
    shape = (features,) if isinstance(features, int) else tuple(features)
    if not shape or min(shape) < 1:
        raise BadInput(f"an input needs at least one feature; got the shape {shape}")
    return shape


def margins(logits: Array, y: Array) -> Array:
    """(n,) how far each label is above the best other class."""
    own = np.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, y[:, None], -np.inf, axis=1)
    return np.asarray(own - others.max(axis=1))


def draw(
    rng: np.random.Generator,
    scores: Scores,
    samples: int,
    features: int,
    bounds: Bounds,
    dtype: DType,
    *,
    candidates: Callable[[int], Array] | None = None,
    accept: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, Array]:
    """Inputs (n, d), many of whose features stand at a bound, and their labels (n,).

    Those nearer to a boundary than most are passed over: in few features, one move
    would do for nearly all of them.

    Args:
        rng: Random numbers.
        scores: Who labels them.
        samples: n.
        features: d.
        bounds: Of the inputs.
        dtype: Of the inputs.
        candidates: Makes so many inputs (m, d), instead of the usual ones.
        accept: From inputs (m, d) and labels (m,), which of them (m,) to take.

    Raises:
        BadInput: Hardly an input is acceptable.
    """
    if samples < 1:
        raise BadInput(f"a planted problem needs at least 1 sample; got {samples}")
    make = candidates or (lambda count: draw_inputs(rng, count, features, bounds))
    kept_x, kept_y, count = [], [], 0
    for _ in range(_TRIES):
        x = make(_POOL * samples).astype(dtype)
        logits = scores.logits(x)
        y = logits.argmax(axis=1)
        clear = margins(logits, y)
        good = (clear >= np.median(clear)) & (clear > 0)
        if accept is not None:
            good &= accept(x, y)
        kept_x.append(x[good])
        kept_y.append(y[good])
        count += int(good.sum())
        if count >= samples:
            return (
                np.concatenate(kept_x)[:samples],
                np.concatenate(kept_y)[:samples].astype(np.int64),
            )
    raise BadInput(
        "no suitable inputs were found for this planted problem; try another seed, or "
        "more features"
    )


def other_classes(rng: np.random.Generator, y: Array, classes: int) -> Array:
    """(n,) for each label another class, at random."""
    return np.asarray((y + rng.integers(1, classes, size=len(y))) % classes)


def feature_count(shape: tuple[int, ...]) -> int:
    """How many features an input of this shape has."""
    return math.prod(shape)


def draw_inputs(
    rng: np.random.Generator, count: int, features: int, bounds: Bounds
) -> Array:
    """(count, features) values, many at a bound, most near one."""
    x = rng.beta(0.3, 0.3, size=(count, features)) * bounds.width + bounds.lower
    place = rng.random(x.shape)
    x = np.where(place < 0.2, bounds.lower, np.where(place > 0.8, bounds.upper, x))
    # In between, rounding may have gone past a bound.
    return x.clip(bounds.lower, bounds.upper)
