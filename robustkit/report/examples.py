"""A few adversarials beside their originals, from the nearest to the farthest."""

import base64
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from robustkit.errors import BadInput
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.results import Results
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor, to_numpy

__all__ = ["Example", "choose"]

_PLACES = ("nearest", "lower quartile", "median", "upper quartile", "farthest")
_CHANGES = 5
_LARGEST_SIDE = 320
_SMALL_SIDE = 64
_LEAST_SIDE = 4
_FACTORS = (1, 2, 3, 5)
_BATCH = 256

# Ends of the scale for the change of a grey value: both differ from the middle in
# lightness and hue, and from each other in hue for all common forms of colour vision.
_LOWER, _MIDDLE, _HIGHER = (0, 90, 160), (244, 244, 242), (196, 84, 0)


@dataclass(frozen=True)
class Example:
    """One adversarial.

    Attributes:
        place: Among the distances.
        index: Position of the sample in the data.
        label: Class it belongs to.
        attack: That found it.
        distance: In norm units.
        pictures: Data addresses of original, adversarial and perturbation; empty where
            the inputs are no images.
        small: Whether its pixels should be seen as squares.
        factor: By which the perturbation was multiplied in its picture.
        changes: The largest ones as (position, before, after), where there are no
            pictures.
        changed: How many values differ.
        values: How many there are.
    """

    place: str
    index: int
    label: int
    attack: str
    distance: float
    pictures: tuple[str, str, str] | None
    small: bool
    factor: str
    changes: tuple[tuple[str, float, float], ...]
    changed: int
    values: int


def choose(results: Results, norm: str, data: DataSet | None) -> list[Example]:
    """Up to five adversarials of a norm across the range of its distances.

    Holds a few inputs in memory, however many the run has.

    Args:
        results: To choose from.
        norm: Its name.
        data: Where the originals are; None: in examples.npz.

    Raises:
        BadInput: `data` does not hold the originals of the run.
    """
    found = results.path / "best.npz"
    if not found.exists():
        return []
    kept = None if data is not None else _kept(results.path)
    with np.load(found, allow_pickle=False) as best:
        usable = best["norm"] == norm
        if kept is not None:
            usable &= np.isin(best["index"], list(kept))
        rows = np.flatnonzero(usable)
        rows = rows[np.argsort(best["distance"][rows], kind="stable")]
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), len(_PLACES)))
        rows = rows[np.round(chosen).astype(int)]
        index, label = best["index"][rows], best["label"][rows]
        distance, attack = best["distance"][rows], best["attack"][rows]
    adversarials = _read_rows(found, "x_adversarial", rows)
    originals = kept if data is None else _wanted(data, set(index.tolist()))
    bounds = results.run["config"]["bounds"]
    examples = []
    for i, place in enumerate(_places(len(rows))):
        x = (originals or {}).get(int(index[i]))
        if data is not None:
            _check(x, adversarials[i], float(distance[i]), norm, int(index[i]))
        assert x is not None
        pair = _Pair(x, adversarials[i], bounds[0], bounds[1])
        examples.append(
            Example(
                place=place,
                index=int(index[i]),
                label=int(label[i]),
                attack=str(attack[i]),
                distance=float(distance[i]),
                pictures=pair.pictures(),
                small=max(pair.size()) <= _SMALL_SIDE,
                factor=f"{pair.factor():g}",
                changes=pair.changes(),
                changed=int((x != adversarials[i]).sum()),
                values=x.size,
            )
        )
    return examples


@dataclass(frozen=True)
class _Pair:
    """An original and its adversarial, (...) in input units."""

    original: Array
    adversarial: Array
    lower: float
    upper: float

    def size(self) -> tuple[int, int]:
        """Height and width; (0, 0) where this is no image."""
        image = _channels_last(self.original)
        return (0, 0) if image is None else (image.shape[0], image.shape[1])

    def pictures(self) -> tuple[str, str, str] | None:
        before = _channels_last(self.original)
        after = _channels_last(self.adversarial)
        if before is None or after is None:
            return None
        width = self.upper - self.lower
        change = np.clip((after - before) / width * self.factor() * 2, -1, 1)
        return (
            _png((before - self.lower) / width),
            _png((after - self.lower) / width),
            _png(_coloured(change) if change.shape[2] == 1 else (1 + change) / 2),
        )

    def factor(self) -> float:
        """A round number that makes the largest change half the width of the box."""
        largest = float(np.abs(self.adversarial - self.original).max())
        if largest == 0:
            return 1.0
        wanted = max((self.upper - self.lower) / 2 / largest, 1.0)
        power = 10.0 ** math.floor(math.log10(wanted))
        return max(f * power for f in _FACTORS if f * power <= wanted)

    def changes(self) -> tuple[tuple[str, float, float], ...]:
        before, after = self.original.ravel(), self.adversarial.ravel()
        order = np.argsort(-np.abs(after - before), kind="stable")[:_CHANGES]
        return tuple(
            (
                ", ".join(map(str, np.unravel_index(i, self.original.shape))),
                float(before[i]),
                float(after[i]),
            )
            for i in order
            if before[i] != after[i]
        )


def _places(count: int) -> tuple[str, ...]:
    if count == len(_PLACES):
        return _PLACES
    if count < 2:
        return ("the only one",) * count
    return ("nearest", *("between",) * (count - 2), "farthest")


def _kept(folder: Path) -> dict[int, Array]:
    path = folder / "examples.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["index"].tolist(), file["x"], strict=True))


def _wanted(data: DataSet, places: set[int]) -> dict[int, Array]:
    found: dict[int, Array] = {}
    start = 0
    for x, _ in data.batches(_BATCH):
        for place in places:
            if start <= place < start + len(x):
                found[place] = x[place - start].copy()
        start += len(x)
        if len(found) == len(places):
            break
    return found


def _check(
    x: Array | None, adversarial: Array, distance: float, norm: str, index: int
) -> None:
    if x is not None and x.shape == adversarial.shape:
        delta = as_tensor(adversarial[None].astype(np.float64) - x[None])
        size = float(to_numpy(get_norm(norm)(delta))[0])
        # Which axis holds the channels is not recorded.
        if norm == "l0-pixels" or math.isclose(size, distance, rel_tol=1e-3):
            return
    raise BadInput(
        f"the originals given are not those of this run: sample {index} is missing or "
        "is not at the distance recorded; give the data that was evaluated"
    )


def _read_rows(path: Path, name: str, rows: Array) -> list[Array]:
    """Rows of one array of an npz, without reading the others into memory."""
    by_row: dict[int, Array] = {}
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start, length = file.tell(), math.prod(shape[1:]) * dtype.itemsize
        for row in sorted(set(rows.tolist())):
            file.seek(start + row * length)
            values = np.frombuffer(file.read(length), dtype=dtype)
            by_row[row] = values.reshape(shape[1:])
    return [by_row[row] for row in rows.tolist()]


def _channels_last(x: Array) -> Array | None:
    """(h, w, 1 or 3) if `x` is an image."""
    if x.ndim != 3:
        return None
    if x.shape[0] in (1, 3):
        x = np.moveaxis(x, 0, 2)
    is_image = x.shape[2] in (1, 3) and min(x.shape[:2]) >= _LEAST_SIDE
    return x if is_image else None


def _coloured(change: Array) -> Array:
    """(h, w, 1) from -1 to 1 in two colours: (h, w, 3) from 0 to 1."""
    middle = np.array(_MIDDLE) / 255
    end = np.where(change < 0, np.array(_LOWER), np.array(_HIGHER)) / 255
    blend: Array = middle + (end - middle) * np.abs(change)
    return blend


def _png(values: Array) -> str:
    """(h, w, 1 or 3) from 0 to 1 as a data address."""
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
