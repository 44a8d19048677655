"""Reading the files of a run folder without trusting whoever wrote them."""

import math
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["BEST", "MOST_TEXT", "inside", "read_best", "read_examples"]

MOST_TEXT = 64 * 2**20
"""Bytes of the largest JSON file that is read as a whole."""

BEST: dict[str, str] = {
    "norm": "<U16",
    "index": "<i8",
    "label": "<i8",
    "distance": "<f8",
    "attack": "<U64",
    "x_adversarial": "<f4",
}
"""The arrays of best.npz and their types."""

_MOST_ROWS = 2**26
_LARGEST_INPUT = 2**26
"""Values of one input."""

_EXAMPLES = {"index": "<i8", "x": "<f4"}
# What holds the inputs, in both: rows of any shape.
_INPUTS = ("x", "x_adversarial")


def inside(path: Path) -> Path:
    """The same path, of an ordinary file that lies where it seems to.

    Args:
        path: A file of a run folder.

    Raises:
        BadInput: It is a link that leads out of its folder, or no file but a device,
            a pipe or a folder.
        OSError: There is no such file.
    """
    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise BadInput(
            f"'{path}' is a link to a place outside of its folder; robustkit writes no "
            "such links, and follows none in a run folder"
        )
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"'{path}' is no ordinary file, as those of a run folder are")
    return path


def read_best(path: Path) -> dict[str, Array]:
    """The arrays of a best.npz; the inputs stay on disk until they are looked at.

    Nothing is unpickled, and no memory is taken before the file was seen to hold as
    much as its headers say.

    Args:
        path: Of the file.

    Raises:
        BadInput: It is not what `robustkit eval` writes.
    """
    return _read(path, BEST)


def read_examples(path: Path) -> dict[int, Array]:
    """The originals (...) in an examples.npz by position in the data, likewise.

    Without such a file there are none.

    Raises:
        BadInput: It is not what `robustkit eval` writes.
    """
    if not path.exists():
        return {}
    kept = _read(path, _EXAMPLES)
    return dict(zip(kept["index"].tolist(), kept["x"], strict=True))


def _read(path: Path, types: Mapping[str, str]) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(inside(path)) as archive:
            columns = {
                name: _array(path, archive, name, np.dtype(kind))
                for name, kind in types.items()
            }
    except (
        OSError,
        KeyError,
        ValueError,
        RuntimeError,
        OverflowError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise BadInput(
            f"'{path}' is not the {path.name} of a run ({error}); give the folder that "
            "`robustkit eval` wrote, unchanged"
        ) from error
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise BadInput(f"the arrays of '{path}' differ in length: {lengths}")
    return columns


def _array(
    path: Path, archive: zipfile.ZipFile, name: str, expected: np.dtype[Any]
) -> Array:
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{name} has the npy version {version}")
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(stream)
        header = stream.tell()
    # Without any adversarial, the shape of the inputs is not known.
    inputs = name in _INPUTS and shape != (0,)
    if dtype != expected or column_major or (len(shape) > 1) != inputs:
        raise ValueError(f"{name} has dtype {dtype} and shape {shape}")
    size = math.prod(shape) * expected.itemsize
    if min(shape) < 0 or size != entry.file_size - header:
        raise ValueError(f"{name} holds another number of bytes than it says")
    start = _start(path, entry) + header
    if start + size > path.stat().st_size:
        raise ValueError(f"{name} ends before it should")
    # A file may have holes, so that its length alone promises nothing.
    if shape[0] > _MOST_ROWS or math.prod(shape[1:]) > _LARGEST_INPUT:
        raise ValueError(f"{name} has the shape {shape}, which is beyond all reason")
    if size == 0:
        return np.empty(shape, expected)
    mapped: Any = np.memmap(path, expected, "r", start, shape)
    return mapped if inputs else np.array(mapped)


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored entry begin: behind its local header."""
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)
    if len(lengths) < 4:
        raise ValueError("it ends before it should")
    name, extra = np.frombuffer(lengths, dtype="<u2").tolist()
    return int(entry.header_offset + 30 + name + extra)
