"""Reading best.npz without trusting whoever wrote it."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.tables import BEST
from robustkit.numerics.tensors import Array

__all__ = ["read_best"]


def read_best(path: Path) -> dict[str, Array]:
    """The arrays of a best.npz; the inputs stay on disk until they are looked at.

    Nothing is unpickled, and no memory is taken before the file was seen to hold as
    much as its headers say.

    Args:
        path: Of the file.

    Raises:
        BadInput: It is not what `robustkit eval` writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            columns = {name: _array(path, archive, name) for name in BEST}
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"'{path}' is not the best.npz of a run ({error}); give the folder that "
            "`robustkit eval` wrote, unchanged"
        ) from error
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise BadInput(f"the arrays of '{path}' differ in length: {lengths}")
    return columns


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{name} has the npy version {version}")
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(stream)
        header = stream.tell()
    expected = np.dtype(BEST[name])
    # Without any adversarial, the shape of the inputs is not known.
    inputs = name == "x_adversarial" and shape != (0,)
    if dtype != expected or column_major or (len(shape) > 1) != inputs:
        raise ValueError(f"{name} has dtype {dtype} and shape {shape}")
    size = int(np.prod(shape, dtype=object)) * expected.itemsize
    if size != entry.file_size - header:
        raise ValueError(f"{name} holds another number of bytes than it says")
    start = _start(path, entry) + header
    if start + size > path.stat().st_size:
        raise ValueError(f"{name} ends before it should")
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
