"""Models that were saved for one batch size, asked at any."""

from collections.abc import Callable
from typing import Any

import numpy as np

from robustkit.errors import BadInput

__all__ = ["AnyBatch"]

_LARGEST = 256
_UNLIKE = 1e-2


class AnyBatch:
    """A function of a fixed batch size as a function of any number of rows.

    An exporter may fix the batch size in the input's shape, or in the middle of the
    network (a reshape), where nothing announces it. So the whole batch is tried; if
    that fails, sizes are tried until one answers row by row, and from then on rows are
    asked in chunks of it, the last one filled up by repeating the last row.

    Args:
        call: (n, ...) NumPy or torch array to (n, classes), failing for some n.
        join: Puts a list of outputs together, along axis 0.
        declared: The batch size that the file announces, tried first.

    >>> fixed = AnyBatch(lambda x: x.reshape(2, 3), np.concatenate)
    >>> fixed(np.ones((5, 3, 1))).shape
    (5, 3)
    """

    def __init__(
        self,
        call: Callable[[Any], Any],
        join: Callable[[list[Any]], Any],
        declared: int | None = None,
    ) -> None:
        self._call, self._join = call, join
        self._chunk: int | None = None
        self._declared = declared is not None
        self._worked: int = declared or 1

    @property
    def chunk(self) -> int | None:
        """The size in which rows are asked; None: no size has failed so far."""
        return self._chunk

    def __call__(self, x: Any) -> Any:
        """The outputs for all rows of `x`, of which there is at least one.

        Raises:
            Exception: What the function raised for the announced size, else for the
                whole batch, where no size up to 256 works.
        """
        if self._chunk is None:
            try:
                out = self._whole(x)
            except MemoryError:
                raise
            except Exception as error:
                self._chunk = self._working_size(x, error)
            else:
                self._worked = int(x.shape[0])
                return out
        return self._in_chunks(x, self._chunk)

    def _whole(self, x: Any) -> Any:
        out = self._call(x)
        if not out.shape or out.shape[0] != x.shape[0]:
            raise BadInput(
                f"expected one row of logits for each of {x.shape[0]} inputs; the "
                f"model returned the shape {tuple(out.shape)}"
            )
        return out

    def _in_chunks(self, x: Any, size: int) -> Any:
        last = x.shape[0] - 1
        parts = [
            self._whole(x[np.minimum(np.arange(start, start + size), last)])
            for start in range(0, x.shape[0], size)
        ]
        return self._join(parts)[: x.shape[0]]

    def _check_size(self, x: Any, size: int, error: Exception) -> None:
        """Ask about so many times the same row.

        Raises:
            Exception: That does not work.
        """
        out = self._whole(x[np.zeros(size, np.int64)])
        if isinstance(error, BadInput) and size > 1:
            # Its outputs have other axes, such as the classes first, which are as long
            # as the rows by chance: rows alike have answers alike.
            with np.errstate(invalid="ignore"):
                gap, largest = abs(out - out[:1]).max(), abs(out).max()
            if gap > _UNLIKE * largest:
                raise error

    def _working_size(self, x: Any, error: Exception) -> int:
        sizes: list[int] = [self._worked, *range(1, _LARGEST + 1)]
        for place, size in enumerate(sizes):
            try:
                self._check_size(x[:1], size, error)
            except Exception as failure:
                # Of another size it complains of nothing but that.
                if place == 0 and self._declared:
                    error = failure
                continue
            return size
        raise error
