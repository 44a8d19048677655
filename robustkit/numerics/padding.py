"""Batches of few sizes, for what JAX compiles anew for each size."""

from typing import Any

import numpy as np

__all__ = ["MOST_SIZES", "Padding", "filled", "first_rows"]

MOST_SIZES = 4
"""Of batches, however many samples leave them one after the other."""


class Padding:
    """To what size batches are filled up: the largest seen, or a part of it.

    Where they grow, the largest is a power of two from then on, so that batches of ever
    more samples come to few sizes too.

    >>> padding = Padding()
    >>> [padding.size(count) for count in (100, 80, 24, 1)]
    [100, 100, 25, 2]
    >>> [padding.size(count) for count in (101, 120, 130)]
    [128, 128, 256]
    """

    def __init__(self) -> None:
        self._largest = 0

    def size(self, count: int) -> int:
        """At least `count`: the largest yet, a quarter, a sixteenth or a 64th of it."""
        if count > self._largest:
            grown = 1 << (count - 1).bit_length()
            self._largest = grown if self._largest else count
        size = self._largest
        for _ in range(MOST_SIZES - 1):
            quarter = -(-size // 4)
            if quarter < count:
                break
            size = quarter
        return size


def filled(raw: Any, size: int) -> Any:
    """An array, as one of JAX, with its last row repeated up to `size` rows."""
    count = raw.shape[0]
    if count == size:
        return raw
    import jax.numpy as jnp

    # By NumPy, because JAX would compile an indexing for each number of rows.
    return jnp.array(np.asarray(raw)[np.minimum(np.arange(size), count - 1)])


def first_rows(raw: Any, count: int) -> Any:
    """The first rows of a JAX array."""
    if raw.shape[0] == count:
        return raw
    import jax.numpy as jnp

    return jnp.array(np.asarray(raw)[:count])
