"""Which samples of the data a run is of."""

from collections.abc import Sequence

import numpy as np

from robustkit.numerics.tensors import Array

__all__ = ["selected"]


def selected(
    label: Array, number: int, target: int | str | None, shard: Sequence[int] | None
) -> Array:
    """The rows of a batch that are evaluated, ascending.

    Batches are dealt out to the parts of the data in turn, and samples of a target
    class are left out.

    Args:
        label: (n,) of the batch.
        number: Of the batch in the data, from 0.
        target: As for `evaluate`.
        shard: A part from 1 and the number of parts; None: all of the data.

    >>> selected(np.array([2, 0, 2, 1]), 4, target=2, shard=(2, 3)).tolist()
    [1, 3]
    >>> selected(np.array([2, 0, 2, 1]), 3, target=None, shard=(2, 3)).tolist()
    []
    """
    part, parts = shard or (1, 1)
    wanted = np.full(len(label), number % parts == part - 1)
    if isinstance(target, int):
        wanted &= label != target
    return np.flatnonzero(wanted)
