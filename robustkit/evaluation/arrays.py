"""Batches of labelled inputs as NumPy arrays: checked and regrouped."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, as_array

__all__ = [
    "Pair",
    "check_shapes",
    "checked_batch",
    "checked_inputs",
    "regrouped",
    "shown",
]

Pair: TypeAlias = tuple[Array, Array]
"""Inputs (n, ...) and labels (n,)."""

# Inputs that were scaled elsewhere may leave the bounds by rounding.
_ROUNDING = 1e-6


def checked_batch(batch: Any, bounds: Bounds, start: int) -> Pair:
    """One batch as float32 inputs within the bounds and int64 labels.

    Args:
        batch: (x, y): inputs (n, ...), floats within the bounds or uint8, which is
            scaled to them, and labels (n,), integers from 0.
        bounds: Of valid inputs, in input units.
        start: The number of the batch's first sample, for messages.

    Raises:
        BadInput: It is not like that.

    >>> x, y = checked_batch(([[0, 1]], [3]), Bounds(), 0)
    >>> x.dtype, y.dtype
    (dtype('float32'), dtype('int64'))
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise BadInput(
            f"expected batches (x, y); got a {type(batch).__name__} at sample {start}"
        )
    x, y = as_array(batch[0], "x"), as_array(batch[1], "y")
    check_shapes(x, y)
    _check_labels(y, start)
    return checked_inputs(x, bounds, start), y.astype(np.int64)


def checked_inputs(
    x: Array,
    bounds: Bounds,
    start: int = 0,
    *,
    name: str = "x",
    dtype: Any = np.float32,
) -> Array:
    """Inputs (n, ...) of a float dtype, finite and within the bounds.

    Args:
        x: (n, ...) floats within the bounds, or uint8, which is scaled to them.
        bounds: Of valid inputs, in input units.
        start: The number of the first one, for messages.
        name: Of the inputs, for messages.
        dtype: To give them, of floats.

    Raises:
        BadInput: They are not like that.

    >>> checked_inputs(np.array([[0, 255]], np.uint8), Bounds(-1, 1)).tolist()
    [[-1.0, 1.0]]
    """
    if x.dtype == np.uint8:
        scaled = bounds.lower + bounds.width * (x.astype(np.float64) / 255)
        return scaled.astype(dtype)
    if x.dtype.kind not in "fiub":
        raise BadInput(
            f"expected inputs of floats or uint8; {name} has the dtype {x.dtype}"
        )
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    broken = np.flatnonzero(~np.isfinite(x).all(axis=tuple(range(1, x.ndim))))
    if len(broken):
        raise BadInput(
            f"expected finite inputs; {name} has NaN or infinite values, first in "
            f"sample {start + int(broken[0])}"
        )
    lower, upper = bounds.lower, bounds.upper
    margin = _ROUNDING * bounds.width
    if x.size and (x.min() < lower - margin or x.max() > upper + margin):
        raise BadInput(
            f"expected inputs in {shown(bounds)}; {name} ranges from {x.min():.6g} to "
            f"{x.max():.6g} (samples {start} to {start + len(x) - 1}). Give the bounds "
            f"of valid inputs (--bounds LO,HI); if {name} was normalised, give the "
            "data before that, and the mean and std of the model (--mean, --std)"
        )
    return x.clip(lower, upper, dtype=dtype)


def check_shapes(x: Array, y: Array) -> None:
    """Refuse all but inputs (n, ...) and labels (n,).

    Raises:
        BadInput: They have other shapes.
    """
    if x.ndim < 2:
        raise BadInput(
            "expected inputs of shape (n, ...), with the samples on axis 0; x has the "
            f"shape {x.shape}"
        )
    if 0 in x.shape[1:]:
        raise BadInput(
            f"expected inputs of at least one feature each; x has the shape {x.shape}"
        )
    count = len(x)
    if y.ndim == 2 and y.shape[1] > 1:
        raise BadInput(
            f"expected labels of shape ({count},); y has the shape {y.shape}. If they "
            "are one-hot, give y.argmax(axis=1)"
        )
    if y.shape != (count,):
        raise BadInput(
            f"expected one label for each of {count} inputs, shape ({count},); y has "
            f"the shape {y.shape}"
        )


def regrouped(batches: Iterator[Pair], size: int) -> Iterator[Pair]:
    """The same samples in batches of `size`, of which the last one may be smaller.

    >>> x, y = np.zeros((5, 2)), np.arange(5)
    >>> [labels.tolist() for _, labels in regrouped(iter([(x, y), (x, y)]), 4)]
    [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4]]
    """
    held: list[Pair] = []
    count = 0
    for x, y in batches:
        held.append((x, y))
        count += len(x)
        if count >= size:
            x, y = _joined(held)
            whole = count - count % size
            for start in range(0, whole, size):
                yield x[start : start + size], y[start : start + size]
            held, count = [(x[whole:].copy(), y[whole:].copy())], count - whole
    if count:
        yield _joined(held)


def shown(bounds: Bounds) -> str:
    """The bounds as people write them.

    >>> shown(Bounds(0, 1))
    '[0, 1]'
    """
    return f"[{bounds.lower:g}, {bounds.upper:g}]"


def _check_labels(y: Array, start: int) -> None:
    if y.dtype.kind not in "iu":
        raise BadInput(
            f"expected integer labels; y has the dtype {y.dtype}. If the values are "
            "whole numbers, give y.astype('int64')"
        )
    for wrong in (y < 0, y > np.iinfo(np.int64).max):
        if wrong.any():
            sample = int(wrong.argmax())
            raise BadInput(
                f"expected labels from 0, as int64; sample {start + sample} has the "
                f"label {y[sample]}"
            )


def _joined(held: list[Pair]) -> Pair:
    xs, ys = zip(*held, strict=True)
    return np.concatenate(xs), np.concatenate(ys)
