"""A few adversarials beside their originals, from the nearest to the farthest."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_best, read_examples
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.originals import drawn
from robustkit.evaluation.results import Results
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor, to_numpy

__all__ = ["Example", "Gallery", "channels_last", "choose"]

_PLACES = ("nearest", "lower quartile", "median", "upper quartile", "farthest")
_CHANGES = 5
_WORST = 5
_CLASSES = 10
_MOST_CHANGES = 256
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


@dataclass(frozen=True)
class Gallery:
    """Adversarials of one norm beside their originals.

    Attributes:
        across: Up to five across the range of the distances, ascending.
        worst: The nearest of all; none where they would be most of them, or are those
            of their classes.
        of_classes: The nearest one of each class, the worst classes first; at most ten,
            and none where most classes have one sample only.
        changes: (h, w, c) perturbations of images, at most 256, across the range or
            drawn at random.
        originals: (h, w, c) the images that were perturbed.
    """

    across: tuple[Example, ...]
    worst: tuple[Example, ...]
    of_classes: tuple[Example, ...]
    changes: tuple[Array, ...]
    originals: tuple[Array, ...]


def choose(results: Results, norm: str, data: DataSet | None) -> Gallery:
    """Which adversarials of a norm to show, and those to take a spectrum of.

    Holds few inputs in memory, however many the run has.

    Args:
        results: To choose from.
        norm: Its name.
        data: Where the originals are; None: in examples.npz, which has those of the
            nearest and of the farthest, and of some drawn at random.

    Raises:
        BadInput: `data`, or examples.npz, does not hold the originals of the run.
    """
    path = results.path / "best.npz"
    if not path.exists():
        return Gallery((), (), (), (), ())
    best = read_best(path)
    every = np.flatnonzero(best["norm"] == norm)
    every = every[np.argsort(best["distance"][every], kind="stable")]
    originals: dict[int, Array] = {}
    ranks = np.arange(len(every))
    source, mend = (
        "the originals given are not those of this run",
        "give the data that was evaluated",
    )
    if data is None:
        originals = read_examples(results.path / "examples.npz")
        source, mend = (
            f"the examples.npz and the best.npz of '{results.path}' do not belong "
            "together",
            "give the folder that `robustkit eval` wrote, unchanged",
        )
        ranks = np.flatnonzero(np.isin(best["index"][every], list(originals)))
    rows = every[ranks]
    wished = _spread(len(every) if len(ranks) else 0, len(_PLACES))
    nearby = np.abs(ranks - wished[:, None]).argmin(axis=1) if len(ranks) else wished
    nearby, first = np.unique(nearby, return_index=True)
    places = [
        name if ranks[near] == wish else f"about the {name}"
        for near, wish, name in zip(
            nearby, wished[first], np.array(_places(len(wished)))[first], strict=True
        )
    ]
    _, nearest = np.unique(best["label"][rows], return_index=True)
    # Of hardly more samples than classes, it would show the same ones again.
    several = len(every) >= 2 * len(np.unique(best["label"][every]))
    at_random = rows
    if data is None:
        of_all = np.array(list(originals), dtype=np.int64)
        at_random = rows[np.isin(best["index"][rows], of_all[drawn(of_all)])]
    of_classes = np.sort(nearest)[: _CLASSES if several else 0]
    # Of different classes, they are the first of those.
    worst = not np.array_equal(of_classes[:_WORST], np.arange(_WORST))
    picked = {
        "across": rows[nearby],
        "worst": rows[: _WORST if worst and len(every) >= 2 * _WORST else 0],
        "of_classes": rows[of_classes],
        "changes": at_random[_spread(len(at_random), _MOST_CHANGES)],
    }
    if data is not None:
        wanted = best["index"][np.concatenate(list(picked.values()))]
        originals = _wanted(data, set(wanted.tolist()))

    def pair(row: int) -> _Pair:
        x, index = best["x_adversarial"][row], int(best["index"][row])
        if not _at_distance(originals.get(index), x, best["distance"][row], norm):
            raise BadInput(
                f"{source}: sample {index} is missing or is not at the distance "
                f"recorded; {mend}"
            )
        bounds = results.run["config"]["bounds"]
        return _Pair(originals[index], np.array(x), bounds[0], bounds[1])

    def example(place: str, row: int) -> Example:
        shown = pair(row)
        return Example(
            place=place,
            index=int(best["index"][row]),
            label=int(best["label"][row]),
            attack=str(best["attack"][row]),
            distance=float(best["distance"][row]),
            pictures=shown.pictures(),
            small=max(shown.size()) <= _SMALL_SIDE,
            factor=f"{shown.factor():g}",
            changes=shown.changes(),
            changed=int((shown.original != shown.adversarial).sum()),
            values=shown.original.size,
        )

    changes = [
        image
        for row in picked["changes"].tolist()
        if (image := pair(row).images()) is not None
    ]
    return Gallery(
        across=tuple(map(example, places, picked["across"].tolist())),
        worst=tuple(example("", row) for row in picked["worst"].tolist()),
        of_classes=tuple(example("", row) for row in picked["of_classes"].tolist()),
        changes=tuple(after - before for before, after in changes),
        originals=tuple(before for before, _ in changes),
    )


@dataclass(frozen=True)
class _Pair:
    """An original and its adversarial, (...) in input units."""

    original: Array
    adversarial: Array
    lower: float
    upper: float

    def size(self) -> tuple[int, int]:
        """Height and width; (0, 0) where this is no image."""
        image = channels_last(self.original)
        return (0, 0) if image is None else (image.shape[0], image.shape[1])

    def images(self) -> tuple[Array, Array] | None:
        """Both as (h, w, c), where they are images."""
        before = channels_last(self.original)
        after = channels_last(self.adversarial)
        return None if before is None or after is None else (before, after)

    def pictures(self) -> tuple[str, str, str] | None:
        images = self.images()
        if images is None:
            return None
        before, after = images
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


def _spread(count: int, most: int) -> Array:
    """(k,) at most so many places in a row of `count`, with both of its ends."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


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


def _at_distance(
    x: Array | None, adversarial: Array, distance: float, norm: str
) -> bool:
    """Whether an adversarial is a finite input, at that distance from an original."""
    if x is None or x.shape != adversarial.shape or not np.isfinite(adversarial).all():
        return False
    delta = as_tensor(adversarial[None].astype(np.float64) - x[None])
    size = float(to_numpy(get_norm(norm)(delta))[0])
    # Which axis holds the channels is not recorded.
    return norm == "l0-pixels" or math.isclose(size, distance, rel_tol=1e-3)


def channels_last(x: Array) -> Array | None:
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
