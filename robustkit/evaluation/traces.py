"""Traces as a run folder keeps them: traces.npz, of the first samples only."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from robustkit.engine.trace import POINTS, Trace
from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside
from robustkit.numerics.tensors import Array

__all__ = ["TRACED", "TRACES", "Traced", "read_traces", "write_traces"]

TRACES = "traces.npz"
"""The file of a run folder that holds its traces."""

TRACED = 64
"""Of how many samples a run keeps traces, the first ones evaluated."""

SCHEMA = 1

_MOST = 2**30
"""Bytes of the largest file that is read."""

_COLUMNS = tuple(field.name for field in fields(Trace))
_COUNTS = ("steps", "stride", "first_adversarial")
_SINGLE = (*_COUNTS, "first_margin", "last_margin", "last_distance")
_NAMES = {"norm": "<U16", "attack": "<U64"}


@dataclass(frozen=True)
class Traced:
    """Traces of some samples by one attack.

    Attributes:
        index: (n,) int64 positions of the samples in the data.
        trace: Of the n samples.
    """

    index: Array
    trace: Trace

    def __len__(self) -> int:
        return len(self.index)

    def at(self, rows: Array) -> "Traced":
        """The given samples."""
        return Traced(self.index[rows], self.trace.at(rows))

    def to_records(self) -> Array:
        """As one array (n,), for a shard; `from_records` is the way back."""
        columns = {"index": self.index, **vars(self.trace)}
        types = [(name, _type(name), _shape(name)) for name in columns]
        records = np.zeros(len(self), dtype=types)
        for name, values in columns.items():
            records[name] = values
        return records

    @classmethod
    def from_records(cls, records: Array) -> "Traced":
        """See `to_records`."""
        columns = {name: np.ascontiguousarray(records[name]) for name in _COLUMNS}
        return cls(np.ascontiguousarray(records["index"]), Trace(**columns))

    @classmethod
    def join(cls, parts: Iterable["Traced"]) -> "Traced":
        """One after the other."""
        parts = list(parts)
        if not parts:
            return cls.nobody()
        return cls(
            np.concatenate([part.index for part in parts]),
            Trace(
                **{
                    name: np.concatenate([getattr(p.trace, name) for p in parts])
                    for name in _COLUMNS
                }
            ),
        )

    @classmethod
    def nobody(cls) -> "Traced":
        """Of no sample."""
        return cls(
            np.zeros(0, np.int64),
            Trace(
                **{name: np.zeros((0, *_shape(name)), _type(name)) for name in _COLUMNS}
            ),
        )


def write_traces(file: IO[bytes], parts: Iterable[tuple[str, str, Traced]]) -> None:
    """Write a traces.npz; equal traces, equal bytes.

    Args:
        file: To write to.
        parts: By norm and attack, in their order.
    """
    parts = list(parts)
    joined = Traced.join(traced for *_, traced in parts)
    names = {
        name: np.array(
            [part[place] for part in parts for _ in range(len(part[2]))], dtype
        )
        for place, (name, dtype) in enumerate(_NAMES.items())
    }
    columns = {"schema": np.array(SCHEMA), **names, "index": joined.index}
    columns |= vars(joined.trace)
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in columns.items():
            # A fixed date, so that equal traces are equal bytes.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as target:
                np.lib.format.write_array(target, values, allow_pickle=False)


def read_traces(path: Path) -> dict[tuple[str, str], Traced]:
    """Traces by norm and attack; none where there is no such file.

    Nothing is unpickled, no pipe is waited for, and what is read is no larger than the
    file.

    Args:
        path: Of a traces.npz.

    Raises:
        BadInput: It is not what `robustkit eval` writes.
    """
    try:
        columns = _read(path)
    except FileNotFoundError:
        return {}
    except (
        OSError,
        KeyError,
        ValueError,
        RuntimeError,
        MemoryError,
        OverflowError,
        zipfile.BadZipFile,
    ) as error:
        raise BadInput(
            f"'{path}' is not the traces.npz of a run ({error}); give the folder that "
            "`robustkit eval` wrote, unchanged, or remove the file"
        ) from error
    whole = Traced(columns["index"], Trace(**{k: columns[k] for k in _COLUMNS}))
    keys = list(zip(columns["norm"].tolist(), columns["attack"].tolist(), strict=True))
    return {
        key: whole.at(np.array([other == key for other in keys]))
        for key in dict.fromkeys(keys)
    }


def _read(path: Path) -> dict[str, Array]:
    # A file may have holes, so that its length costs nobody anything.
    if inside(path).stat().st_size > _MOST:
        raise ValueError(f"it is larger than {_MOST} bytes")
    with zipfile.ZipFile(path) as archive:
        if any(e.compress_type != zipfile.ZIP_STORED for e in archive.infolist()):
            raise ValueError("it is compressed")
    with np.load(path, allow_pickle=False) as arrays:
        if int(arrays["schema"]) != SCHEMA:
            raise ValueError(f"it has format {int(arrays['schema'])}, not {SCHEMA}")
        columns = {name: arrays[name] for name in (*_NAMES, "index", *_COLUMNS)}
    count = len(columns["index"])
    for name, values in columns.items():
        if values.shape != (count, *_shape(name)) or values.dtype != _type(name):
            raise ValueError(
                f"{name} has dtype {values.dtype} and shape {values.shape}"
            )
    if (columns["stride"] < 1).any() or (columns["steps"] < 0).any():
        raise ValueError("steps and strides must be positive")
    return columns


def _shape(name: str) -> tuple[int, ...]:
    return () if name in (*_NAMES, "index", *_SINGLE) else (POINTS,)


def _type(name: str) -> Any:
    if name in _NAMES:
        return np.dtype(_NAMES[name])
    return np.dtype("<i8" if name in (*_COUNTS, "index") else "<f4")
