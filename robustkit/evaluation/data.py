"""Labelled inputs from arrays, files, folders and iterators, checked as they come."""

import hashlib
import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from robustkit import demo
from robustkit.errors import BadInput, suggestion
from robustkit.models.load import (
    call_user,
    import_object,
    neighbours_importable,
    takes_nothing,
)
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, as_tensor, to_numpy

__all__ = ["DataSet", "as_data", "load_data"]

Pair: TypeAlias = tuple[Array, Array]
Restart: TypeAlias = Callable[[], Iterator[Any]]

# Inputs that were scaled elsewhere may leave the bounds by rounding.
_ROUNDING = 1e-6
_CHUNK = 256

_FORMS = (
    "a demo name, file.npz (arrays x and y), a folder with one subfolder of images per "
    "class, or path/to/file.py:name (arrays (x, y), or batches of them)"
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
        if size < 1:
            raise BadInput(f"the batch size must be at least 1; got {size}")
        digests = hashlib.sha256(), hashlib.sha256()
        self._digests = digests
        for x, y in _regrouped(self._checked(), size):
            digests[0].update(x.tobytes())
            digests[1].update(y.tobytes())
            yield x, y

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
            x, y = _checked_batch(batch, self._bounds, start)
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
    bounds: Bounds | None = None,
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
    if isinstance(native, DataSet):
        return native
    _check_count(samples)
    bounds = bounds or Bounds()
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
        restart = partial(_called_again, native)
    elif not isinstance(made, Iterator):
        restart = made.__iter__
    return _of_batches(iter(made), restart, bounds, samples, name)


def load_data(
    spec: str | os.PathLike[str],
    bounds: Bounds | None = None,
    *,
    samples: int | None = None,
) -> DataSet:
    """Load labelled inputs by name or from files.

    Args:
        spec: A demo name; `file.npz` with arrays x and y; a folder with one subfolder
            of images per class (labels in the order of the names; the first of each
            class, then the second of each, and so on); or `path/to/file.py:name` or
            `package.module:name` of anything that `as_data` accepts.
        bounds: Of valid inputs, to which uint8 and images are scaled. None: [0, 1].
        samples: Stop after so many.

    Raises:
        BadInput: There is nothing of that name, or it is not labelled inputs.

    >>> load_data("digits", samples=10).count
    10
    """
    _check_count(samples)
    spec, bounds = os.fspath(spec), bounds or Bounds()
    path = Path(spec)
    if spec in demo.DATA:
        x, y = demo.load_data(spec)
        x = (bounds.lower + bounds.width * x).astype(np.float32)
        return _of_arrays(x, y, bounds, samples, spec)
    if path.suffix.lower() == ".npz":
        return _of_arrays(*_read_npz(path), bounds, samples, path.stem)
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
    x, y = _array(x, "x"), _array(y, "y")
    _check_shapes(x, y)
    count = len(x) if samples is None else min(len(x), samples)
    x, y = x[:count], y[:count]

    def source() -> Iterator[Pair]:
        for start in range(0, count, _CHUNK):
            yield x[start : start + _CHUNK], y[start : start + _CHUNK]

    data = _of_batches(source(), source, bounds, samples, name)
    data.count = count
    # Before anything is attacked, so that a fault at the end does not cost a run.
    for _ in data._checked():
        pass
    if count > 1 and len(np.unique(y)) == 1:
        data.notes += (f"all {count} samples have the label {y[0]}",)
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
    x, _ = _checked_batch(first, bounds, 0)
    if len(x) == 0:
        raise BadInput(f"expected labelled inputs; '{name}' starts with an empty batch")
    notes: tuple[str, ...] = ()
    if _array(first[0], "x").dtype == np.uint8:
        notes = (f"uint8 inputs scaled from 0..255 to {_shown(bounds)}",)
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


def _called_again(function: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    return iter(call_user(function))


def _check_count(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise BadInput(f"the number of samples must be at least 1; got {samples}")


def _read_npz(path: Path) -> Pair:
    if not path.is_file():
        raise BadInput(f"expected a data file; there is no file '{path}'")
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"'{path}' is not an npz file; numpy.savez(file, x=..., y=...) writes one"
        )
    with np.load(path, allow_pickle=False) as file:
        if not {"x", "y"} <= set(file.files):
            raise BadInput(
                f"expected arrays 'x' and 'y' in '{path}'; it holds "
                f"{', '.join(sorted(file.files)) or 'nothing'}"
            )
        try:
            return file["x"], file["y"]
        except ValueError as error:
            raise BadInput(
                f"'{path}' holds object arrays, which are pickled and could run any "
                "code when loaded; save plain arrays (x floats or uint8, y integers)"
            ) from error


def _of_folder(path: Path, bounds: Bounds, samples: int | None) -> DataSet:
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    files = [_image_files(path / name) for name in classes]
    if not any(files):
        raise BadInput(
            f"expected a folder with one subfolder of images per class; '{path}' has "
            f"{len(classes)} subfolders and no images in them"
        )
    in_turn = [
        (file, label)
        for row in itertools.zip_longest(*files)
        for label, file in enumerate(row)
        if file is not None
    ][:samples]
    grey, notes = _described(in_turn)
    if all(name.isdigit() for name in classes) and classes != sorted(classes, key=int):
        notes.append(
            "classes are numbered by the order of their folders' names as text: "
            f"'{classes[1]}' is label 1"
        )

    def source() -> Iterator[Pair]:
        for start in range(0, len(in_turn), _CHUNK):
            part = in_turn[start : start + _CHUNK]
            x = np.stack([_pixels(file, grey) for file, _ in part])
            yield x, np.array([label for _, label in part])

    data = _of_batches(source(), source, bounds, samples, path.resolve().name)
    data.count = len(in_turn)
    data.class_names = tuple(classes)
    data.notes += tuple(notes)
    return data


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in known)


def _described(files: list[tuple[Path, int]]) -> tuple[bool, list[str]]:
    """Whether all images are grey, and what else there is to say; from headers only."""
    modes: dict[str, Path] = {}
    first, size = files[0][0], None
    for file, _ in files:
        with _opened(file) as image:
            size = size or image.size
            modes.setdefault(image.mode, file)
            if image.size != size:
                raise BadInput(
                    f"expected images of one size; '{first}' has {size} pixels (width, "
                    f"height), '{file}' {image.size}. Resize or crop them first"
                )
    for mode, file in modes.items():
        if mode.startswith(("I", "F")):
            raise BadInput(
                f"expected images of 8 bits per channel; '{file}' has the mode '{mode}'"
            )
    notes = []
    if {"LA", "PA", "RGBA", "RGBa", "La"} & set(modes):
        notes.append("transparency of the images was left out")
    return set(modes) <= {"1", "L", "LA", "La"}, notes


def _pixels(file: Path, grey: bool) -> Array:
    with _opened(file) as image:
        try:
            values = np.array(image.convert("L" if grey else "RGB"))
        except OSError as error:
            raise BadInput(f"cannot read the image '{file}': {error}") from error
    return values[None] if grey else values.transpose(2, 0, 1)


def _opened(file: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"cannot read the image '{file}': {error}") from error


def _checked_batch(batch: Any, bounds: Bounds, start: int) -> Pair:
    """`batch` as float32 and int64; `start`: the number of its first sample."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise BadInput(
            f"expected batches (x, y); got a {type(batch).__name__} at sample {start}"
        )
    x, y = _array(batch[0], "x"), _array(batch[1], "y")
    _check_shapes(x, y)
    _check_labels(y, start)
    return _checked_inputs(x, bounds, start), y.astype(np.int64)


def _check_shapes(x: Array, y: Array) -> None:
    if x.ndim < 2:
        raise BadInput(
            "expected inputs of shape (n, ...), with the samples on axis 0; x has the "
            f"shape {x.shape}"
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


def _check_labels(y: Array, start: int) -> None:
    if y.dtype.kind not in "iu":
        raise BadInput(
            f"expected integer labels; y has the dtype {y.dtype}. If the values are "
            "whole numbers, give y.astype('int64')"
        )
    if len(y) and y.min() < 0:
        raise BadInput(
            f"expected labels from 0; sample {start + int(y.argmin())} has the label "
            f"{y.min()}"
        )


def _checked_inputs(x: Array, bounds: Bounds, start: int) -> Array:
    if x.dtype == np.uint8:
        scaled = bounds.lower + bounds.width * (x.astype(np.float64) / 255)
        return scaled.astype(np.float32)
    if x.dtype.kind not in "fiub":
        raise BadInput(f"expected inputs of floats or uint8; x has the dtype {x.dtype}")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(x).all(axis=tuple(range(1, x.ndim))))
    if len(broken):
        raise BadInput(
            f"expected finite inputs; x has NaN or infinite values, first in sample "
            f"{start + int(broken[0])}"
        )
    lower, upper = bounds.lower, bounds.upper
    margin = _ROUNDING * bounds.width
    if x.size and (x.min() < lower - margin or x.max() > upper + margin):
        raise BadInput(
            f"expected inputs in {_shown(bounds)}; x ranges from {x.min():.6g} to "
            f"{x.max():.6g} (samples {start} to {start + len(x) - 1}). Give the bounds "
            "of valid inputs (--bounds LO,HI); if x was normalised, give the data "
            "before that, and the mean and std of the model (--mean, --std)"
        )
    return x.clip(lower, upper, dtype=np.float32)


def _array(values: Any, name: str) -> Array:
    try:
        return to_numpy(as_tensor(values))
    except ValueError:
        pass
    try:
        return np.asarray(values)
    except ValueError as error:
        raise BadInput(f"expected '{name}' as one array: {error}") from error


def _regrouped(batches: Iterator[Pair], size: int) -> Iterator[Pair]:
    """The same samples in batches of `size`."""
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


def _joined(held: list[Pair]) -> Pair:
    xs, ys = zip(*held, strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def _shown(bounds: Bounds) -> str:
    return f"[{bounds.lower:g}, {bounds.upper:g}]"
