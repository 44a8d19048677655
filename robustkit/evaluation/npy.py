"""Arrays in .npy files that are larger than memory."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["NpyFile", "open_npy"]


@dataclass(frozen=True)
class NpyFile:
    """An array on the disk, of which rows are read as they are asked for.

    Attributes:
        path: Of the file.
        shape: (n, ...) of the array.
        dtype: Of its values.
        start: Bytes before them.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    def rows(self, first: int, end: int) -> Array:
        """(k, ...) the rows from `first` to before `end`, as far as there are any."""
        end = max(min(end, self.shape[0]), first)
        row = math.prod(self.shape[1:])
        values = np.fromfile(
            self.path,
            dtype=self.dtype,
            count=(end - first) * row,
            offset=self.start + first * row * self.dtype.itemsize,
        )
        return values.reshape(end - first, *self.shape[1:])


def open_npy(path: Path) -> NpyFile:
    """Look at the header of a .npy file; no value is read, and nothing is unpickled.

    Raises:
        BadInput: It is none, or holds objects, or ends before it should, or is stored
            column by column.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"it has the version {version} of the format")
            shape, column_major, dtype = read(file)
            start = file.tell()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot read '{path}' as an array: {error}; numpy.save writes one"
        ) from error
    if dtype.hasobject:
        raise BadInput(
            f"'{path}' holds objects, which are pickled and could run any code when "
            "loaded; save a plain array"
        )
    if not shape or (column_major and len(shape) > 1):
        raise BadInput(
            f"expected rows one after the other in '{path}', the samples on axis 0; it "
            f"has the shape {shape}"
            + (", column by column; save numpy.ascontiguousarray" if shape else "")
        )
    if path.stat().st_size < start + math.prod(shape) * dtype.itemsize:
        raise BadInput(f"'{path}' ends before the {shape[0]} rows that it promises")
    return NpyFile(path, tuple(shape), dtype, start)
