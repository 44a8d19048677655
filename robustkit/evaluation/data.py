"""Labelled inputs from arrays, files, folders and iterators, checked as they come."""

import dataclasses
import hashlib
import itertools
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from robustkit import demo
from robustkit.arguments import as_whole
from robustkit.errors import BadInput, in_one_line, suggestion
from robustkit.evaluation.arrays import (
    Pair,
    check_shapes,
    checked_batch,
    regrouped,
    shown,
)
from robustkit.evaluation.images import open_folder
from robustkit.evaluation.npy import open_npy
from robustkit.models.user_code import (
    call_user,
    import_object,
    iterate_user,
    neighbours_importable,
    takes_nothing,
)
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, as_array

__all__ = ["DataSet", "as_data", "load_data"]

Restart: TypeAlias = Callable[[], Iterator[Any]]

_CHUNK = 256
_CHUNK_BYTES = 2**23

_FORMS = (
    "a demo name, file.npz (arrays x and y), x.npy,y.npy or a folder with both, a "
    "folder with one subfolder of images per class, or path/to/file.py:name (arrays "
    "(x, y), or batches of them)"
)


@dataclass
class DataSet:
    """Labelled inputs, given out in batches.

    Attributes:
        name: For people.
        notes: What was done to the data on the way, for the report.
        class_names: Of the labels 0, 1, ..., where the source has them.
        count: How many samples; None: known only at the end.
        example: (1 or 2, ...) float32, the first inputs.
    """

    name: str
    notes: tuple[str, ...]
    class_names: tuple[str, ...] | None
    count: int | None
    example: Array
    _bounds: Bounds = field(repr=False)
    _samples: int | None = field(repr=False)
    _source: Callable[[], Iterator[Any]] = field(repr=False)
    _digests: tuple[Any, Any] | None = field(default=None, init=False, repr=False)

    def batches(self, size: int) -> Iterator[Pair]:
        """Inputs (n, ...) float32 within the bounds and labels (n,) int64, n <= size.

        Holds no more than a batch and one of the source's own batches in memory.

        Args:
            size: Of all batches but the last one.

        Raises:
            BadInput: The data is not what it should be; the message says which sample.
        """
        as_whole(size, "the batch size", least=1)
        digests = hashlib.sha256(), hashlib.sha256()
        self._digests = digests
        for x, y in regrouped(self._checked(), size):
            digests[0].update(x.tobytes())
            digests[1].update(y.tobytes())
            yield x, y

    def limited(self, bounds: Bounds | None, samples: int | None) -> "DataSet":
        """The same data, or the first samples of it.

        Args:
            bounds: That inputs have to be in; None: any.
            samples: How many at the most; None: all.

        Raises:
            BadInput: The data was made for other bounds.
        """
        if bounds not in (None, self._bounds):
            raise BadInput(
                f"the data was made for inputs in {shown(self._bounds)}, the model "
                f"takes {shown(bounds)}; make it with the bounds of the "
                "model, as load_data(..., bounds) and as_data(..., bounds) do"
            )
        if samples is None:
            return self
        known = [n for n in (samples, self._samples) if n is not None]
        count = None if self.count is None else min(self.count, samples)
        return dataclasses.replace(self, count=count, _samples=min(known))

    def fingerprint(self) -> str:
        """A hash of the samples given out since `batches` was last called.

        It depends on no batch size.
        """
        parts = [] if self._digests is None else [d.hexdigest() for d in self._digests]
        text = f"{self.example.shape[1:]} {' '.join(parts)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _checked(self) -> Iterator[Pair]:
        start = 0
        for batch in self._source():
            x, y = checked_batch(batch, self._bounds, start)
            if x.shape[1:] != self.example.shape[1:]:
                raise BadInput(
                    "expected all inputs to have one shape; the first has the shape "
                    f"{self.example.shape[1:]}, sample {start} {x.shape[1:]}"
                )
            left = len(x) if self._samples is None else self._samples - start
            if len(x):
                yield x[:left], y[:left]
            start += len(x)
            if self._samples is not None and start >= self._samples:
                return


def as_data(
    native: Any,
    bounds: BoundsLike | None = None,
    *,
    samples: int | None = None,
    name: str = "data",
) -> DataSet:
    """Arrays or batches as a `DataSet`.

    Args:
        native: A tuple (x, y) of arrays of any framework; an iterable or iterator of
            such tuples, one per batch; or a function without arguments that returns
            one of these. x: (n, ...) floats within the bounds, or uint8, which is
            scaled to them; y: (n,) integers from 0.
        bounds: Of valid inputs; None: [0, 1].
        samples: Stop after so many.
        name: For people.

    Raises:
        BadInput: The data, or its first batch, is not like that.

    >>> data = as_data((np.zeros((5, 3)), np.arange(5)), samples=4)
    >>> [len(x) for x, y in data.batches(3)]
    [3, 1]
    """
    _check_count(samples)
    if isinstance(native, DataSet):
        return native.limited(None if bounds is None else as_bounds(bounds), samples)
    bounds = as_bounds(bounds)
    made = call_user(native) if takes_nothing(native) else native
    if isinstance(made, tuple) and len(made) == 2:
        return _of_arrays(*made, bounds, samples, name)
    if not isinstance(made, Iterable) or hasattr(made, "shape"):
        raise BadInput(
            "expected a tuple (x, y), batches of such tuples (for a torch Dataset: a "
            "DataLoader), or a function without arguments that returns one of these; "
            f"got a {type(made).__name__}"
        )
    restart: Restart | None = None
    if made is not native:
        restart = partial(_called_again, native, name)
    elif not isinstance(made, Iterator):
        restart = partial(iterate_user, made, name)
    return _of_batches(iterate_user(made, name), restart, bounds, samples, name)


def load_data(
    spec: str | os.PathLike[str],
    bounds: BoundsLike | None = None,
    *,
    samples: int | None = None,
) -> DataSet:
    """Load labelled inputs by name or from files.

    Args:
        spec: A demo name; `file.npz` with arrays x and y; `x.npy,y.npy`, or a folder
            with files of these names, which may be larger than memory; a folder with
            one subfolder of images per class (labels in the order of the names; the
            first of each class, then the second of each, and so on); or
            `path/to/file.py:name` or `package.module:name` of anything that `as_data`
            accepts.
        bounds: Of valid inputs, to which uint8 and images are scaled. None: [0, 1].
        samples: Stop after so many.

    Raises:
        BadInput: There is nothing of that name, or it is not labelled inputs.

    >>> load_data("digits", samples=10).count
    10
    """
    _check_count(samples)
    spec, bounds = os.fspath(spec), as_bounds(bounds)
    path = Path(spec)
    if spec in demo.DATA:
        x, y = demo.load_data(spec)
        x = (bounds.lower + bounds.width * x).astype(np.float32)
        return _of_arrays(x, y, bounds, samples, spec)
    if path.suffix.lower() == ".npz":
        return _of_arrays(*_read_npz(path), bounds, samples, path.stem)
    pair = _npy_pair(spec)
    if pair is not None:
        return _of_files(*pair, bounds, samples)
    if path.is_dir():
        return _of_folder(path, bounds, samples)
    if ":" in spec:
        with neighbours_importable(spec):
            name = spec.rpartition(":")[2]
            return as_data(import_object(spec), bounds, samples=samples, name=name)
    if path.exists():
        raise BadInput(
            f"cannot tell from its name what '{spec}' holds; expected {_FORMS}. "
            "numpy.savez(file, x=..., y=...) writes an npz"
        )
    raise BadInput(
        f"unknown data '{spec}'; {suggestion(spec, demo.DATA)}. Expected {_FORMS}"
    )


def _of_arrays(
    x: Any, y: Any, bounds: Bounds, samples: int | None, name: str
) -> DataSet:
    x, y = as_array(x, "x"), as_array(y, "y")
    check_shapes(x, y)
    count = len(x) if samples is None else min(len(x), samples)
    x, y = x[:count], y[:count]

    def source() -> Iterator[Pair]:
        for start in range(0, count, _CHUNK):
            yield x[start : start + _CHUNK], y[start : start + _CHUNK]

    return _of_counted(source, count, bounds, samples, name)


def _of_counted(
    source: Restart, count: int, bounds: Bounds, samples: int | None, name: str
) -> DataSet:
    """Batches of so many samples in all, which can be gone through again."""
    data = _of_batches(source(), source, bounds, samples, name)
    data.count = count
    labels: set[int] = set()
    # Before anything is attacked, so that a fault at the end does not cost a run.
    for _, y in data._checked():
        labels.update(np.unique(y).tolist())
    if count > 1 and len(labels) == 1:
        data.notes += (f"all {count} samples have the label {labels.pop()}",)
    return data


def _npy_pair(spec: str) -> tuple[Path, Path] | None:
    """The files of inputs and labels that a name stands for, if it does."""
    folder = Path(spec)
    if folder.is_dir() and (folder / "x.npy").exists():
        return folder / "x.npy", folder / "y.npy"
    x, comma, y = spec.partition(",")
    if comma and x.lower().endswith(".npy") and y.lower().endswith(".npy"):
        return Path(x), Path(y)
    return None


def _of_files(
    x_path: Path, y_path: Path, bounds: Bounds, samples: int | None
) -> DataSet:
    """Read as it is needed, so that no more than a batch is in memory."""
    x, y = open_npy(x_path), open_npy(y_path)
    if x.shape[0] != y.shape[0]:
        raise BadInput(
            f"expected one label for each input; '{x_path}' has {x.shape[0]} rows, "
            f"'{y_path}' {y.shape[0]}"
        )
    count = x.shape[0] if samples is None else min(x.shape[0], samples)
    row = math.prod(x.shape[1:]) * x.dtype.itemsize
    chunk = max(min(_CHUNK, _CHUNK_BYTES // max(row, 1)), 1)

    def source() -> Iterator[Pair]:
        for start in range(0, count, chunk):
            end = min(start + chunk, count)
            yield x.rows(start, end), y.rows(start, end)

    name = x_path.parent.name if x_path.name == "x.npy" else x_path.stem
    return _of_counted(source, count, bounds, samples, name or "data")


def _of_folder(path: Path, bounds: Bounds, samples: int | None) -> DataSet:
    folder = open_folder(path, samples)
    source = partial(folder.batches, _CHUNK)
    data = _of_batches(source(), source, bounds, samples, path.resolve().name)
    data.count = len(folder.files)
    data.class_names = folder.class_names
    data.notes += folder.notes
    return data


def _of_batches(
    started: Iterator[Any],
    restart: Restart | None,
    bounds: Bounds,
    samples: int | None,
    name: str,
) -> DataSet:
    first = next(started, None)
    if first is None:
        raise BadInput(f"expected labelled inputs; '{name}' is empty")
    x, _ = checked_batch(first, bounds, 0)
    if len(x) == 0:
        raise BadInput(f"expected labelled inputs; '{name}' starts with an empty batch")
    notes: tuple[str, ...] = ()
    if as_array(first[0], "x").dtype == np.uint8:
        notes = (f"uint8 inputs scaled from 0..255 to {shown(bounds)}",)
    return DataSet(
        name=name,
        notes=notes,
        class_names=None,
        count=None,
        example=x[:2].copy(),
        _bounds=bounds,
        _samples=samples,
        _source=_passes(itertools.chain([first], started), restart),
    )


def _passes(started: Iterator[Any], restart: Restart | None) -> Restart:
    """The first pass goes on where the look at the first batch stopped."""
    unused = [started]

    def source() -> Iterator[Any]:
        if unused:
            return unused.pop()
        if restart is None:
            raise BadInput(
                "the data is an iterator, and is used up; give a function that returns "
                "a new one"
            )
        return restart()

    return source


def _called_again(function: Callable[[], Iterable[Any]], name: str) -> Iterator[Any]:
    return iterate_user(call_user(function), name)


def _check_count(samples: int | None) -> None:
    if samples is not None:
        as_whole(samples, "the number of samples", least=1)


def _read_npz(path: Path) -> Pair:
    if not path.is_file():
        raise BadInput(f"expected a data file; there is no file '{path}'")
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"'{path}' is not an npz file; numpy.savez(file, x=..., y=...) writes one"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not {"x", "y"} <= set(file.files):
                raise BadInput(
                    f"expected arrays 'x' and 'y' in '{path}'; it holds "
                    f"{', '.join(sorted(file.files)) or 'nothing'}"
                )
            return file["x"], file["y"]
    except BadInput:
        raise
    # Damaged files raise ten kinds of errors.
    except Exception as error:
        raise BadInput(
            f"cannot read '{path}' ({in_one_line(error)}); save plain arrays (x floats "
            "or uint8, y integers) anew: object arrays are pickled, and could run any "
            "code when loaded"
        ) from error
