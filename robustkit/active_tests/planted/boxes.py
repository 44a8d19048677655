"""Classifiers whose regions are boxes: trees, hypercubes, planted triggers."""

from dataclasses import dataclass

import numpy as np

from robustkit.active_tests.planted.affine import Affine, random_affine
from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.planted.draws import (
    BoundsLike,
    DType,
    Shape,
    as_bounds,
    as_shape,
    draw,
    feature_count,
    other_classes,
)
from robustkit.active_tests.regions import Cuboid
from robustkit.active_tests.scores import flat_model
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["decision_tree", "hypercube", "trigger"]


@dataclass(frozen=True, eq=False)
class _Tree:
    """Scores of leaves, which are boxes lower < z <= upper that fill all space."""

    lower: Array
    upper: Array
    label: Array
    classes: int

    def logits(self, x: Array) -> Array:
        points = x[:, None, :]
        inside = ((self.lower < points) & (points <= self.upper)).all(axis=2)
        label = self.label[inside.argmax(axis=1)]
        return np.asarray(np.eye(self.classes, dtype=x.dtype)[label])

    def gradient(self, x: Array, slopes: Array) -> Array:
        return np.zeros_like(x)

    def leaves(self, wanted: Array) -> list[Cuboid]:
        places = np.flatnonzero(wanted)
        return [
            Cuboid(self.lower[at].astype(np.float64), self.upper[at].astype(np.float64))
            for at in places
        ]


def decision_tree(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    classes: int = 3,
    depth: int = 4,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    targeted: bool = False,
) -> Planted:
    """A decision tree, whose scores are 0 and 1: every gradient is zero.

    The nearest leaf of another class, in all norms.

    Args:
        seed: Of tree and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        classes: At least 2.
        depth: So many features are asked about on each way; at least 1, and enough
            for 2 ** depth leaves to hold all classes.
        bounds: Of valid inputs.
        dtype: Of inputs and thresholds.
        targeted: Each sample has a class to be reached.

    Raises:
        BadInput: Fewer than 2 classes, or more than leaves.

    >>> problem = decision_tree(seed=1, samples=3)
    >>> gradient = problem.model.linearise(problem.model.to_tensor(problem.x))[1]
    >>> float(abs(gradient(problem.model.to_tensor(np.ones((3, 3)))).raw).max())
    0.0
    """
    if not 2 <= classes <= 2**depth:
        raise BadInput(
            f"a tree of depth {depth} tells 2 to {2**depth} classes apart; {classes} "
            "were asked for"
        )
    rng = np.random.default_rng([seed, 3])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    tree = _random_tree(rng, count, classes, depth, box, dtype)
    x, y = draw(rng, tree, samples, count, box, dtype)
    targets = other_classes(rng, y, classes) if targeted else None
    wanted = [
        tree.label != label if targets is None else tree.label == targets[row]
        for row, label in enumerate(y)
    ]
    return Planted(
        "decision-tree-targeted" if targeted else "decision-tree",
        flat_model(tree, box, "decision tree"),
        x.reshape(-1, *shape),
        y,
        targets,
        [tree.leaves(mask) for mask in wanted],
    )


def _random_tree(
    rng: np.random.Generator,
    features: int,
    classes: int,
    depth: int,
    box: Bounds,
    dtype: DType,
) -> _Tree:
    lower = [np.full(features, -np.inf)]
    upper = [np.full(features, np.inf)]
    for _ in range(depth):
        parents = list(zip(lower, upper, strict=True))
        lower, upper = [], []
        for low, high in parents:
            feature = rng.integers(features)
            # Within what is left of the feature, so that no leaf is empty.
            least = max(low[feature], box.lower)
            room = min(high[feature], box.upper) - least
            threshold = dtype(least + room * rng.uniform(0.2, 0.8))
            left, right = high.copy(), low.copy()
            left[feature] = right[feature] = threshold
            lower += [low, right]
            upper += [left, high]
    label = rng.permutation(np.arange(len(lower)) % classes)
    return _Tree(np.array(lower, dtype), np.array(upper, dtype), label, classes)


@dataclass(frozen=True, eq=False)
class _Hypercube:
    """Scores (radius - |x - centre|_inf, 0)."""

    centre: Array
    radius: float

    def logits(self, x: Array) -> Array:
        margin = self.radius - np.abs(x - self.centre).max(axis=1)
        return np.stack([margin, np.zeros_like(margin)], axis=1).astype(x.dtype)

    def gradient(self, x: Array, slopes: Array) -> Array:
        away = x - self.centre
        most = np.abs(away).argmax(axis=1)
        rows = np.arange(len(x))
        out = np.zeros_like(x)
        out[rows, most] = -np.sign(away[rows, most]) * slopes[:, 0]
        return out


def hypercube(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    inward: bool = False,
) -> Planted:
    """Inside or outside of an L-infinity ball within the box.

    From inside, one feature is enough, and the way out is as long in L1, L2 and Linf.
    From outside, every feature outside of its interval has to move, while the gradient
    shows one at a time.

    Args:
        seed: Of cube and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        bounds: Of valid inputs.
        dtype: Of inputs and cube.
        inward: The inputs are outside, and the way is in.

    >>> problem = hypercube(seed=1, samples=3)
    >>> bool((problem.exact("l1") == problem.exact("linf")).all())
    True
    """
    rng = np.random.default_rng([seed, 4])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    middle = (box.lower + box.upper) / 2
    centre = (middle + rng.uniform(-0.1, 0.1, count) * box.width).astype(dtype)
    cube = _Hypercube(centre, float(dtype(0.3 * box.width)))
    radius, wanted = cube.radius, int(inward)

    def near(number: int) -> Array:
        # Of usual inputs, next to none would be inside.
        size = rng.uniform(0.2, 1.6, (number, 1)) * radius
        moved = centre + size * rng.uniform(-1, 1, (number, count))
        return moved.clip(box.lower, box.upper)

    x, y = draw(
        rng, cube, samples, count, box, dtype, candidates=near,
        accept=lambda x, y: y == wanted,
    )  # fmt: skip
    core = centre.astype(np.float64)
    free = np.full(count, np.inf)
    if inward:
        union = [Cuboid(core - radius, core + radius)]
    else:
        union = []
        for feature in range(count):
            edge = np.where(np.arange(count) == feature, core + radius, -np.inf)
            union.append(Cuboid(edge, free))
            edge = np.where(np.arange(count) == feature, core - radius, np.inf)
            union.append(Cuboid(-free, edge))
    return Planted(
        "hypercube-inward" if inward else "hypercube",
        flat_model(cube, box, "hypercube"),
        x.reshape(-1, *shape),
        y,
        None,
        [union] * len(x),
    )


@dataclass(frozen=True, eq=False)
class _Triggered:
    """A linear classifier that sees one class wherever a patch is worn."""

    base: Affine
    places: Array
    patch: Array
    tolerance: float
    label: int
    slope: float
    step: bool

    def logits(self, x: Array) -> Array:
        out = self.base.logits(x)
        best = out.max(axis=1)
        off = np.abs(x[:, self.places] - self.patch).max(axis=1)
        if self.step:
            lifted = np.where(off <= self.tolerance, best + 1, -np.inf)
        else:
            lifted = best + self.slope * (self.tolerance - off)
        out[:, self.label] = np.maximum(out[:, self.label], lifted)
        return out.astype(x.dtype)

    def gradient(self, x: Array, slopes: Array) -> Array:
        base = self.base.logits(x)
        lifted = self.logits(x)[:, self.label] > base[:, self.label]
        # Where it is lifted, that class follows the best one, and the patch.
        passed = np.where(lifted, slopes[:, self.label], 0)
        own = slopes.copy()
        own[:, self.label] -= passed
        rows = np.arange(len(x))
        own[rows, base.argmax(axis=1)] += passed
        out = self.base.gradient(x, own)
        if not self.step:
            away = x[:, self.places] - self.patch
            most = np.abs(away).argmax(axis=1)
            out[rows, self.places[most]] -= (
                self.slope * np.sign(away[rows, most]) * passed
            )
        return out


def trigger(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    classes: int = 3,
    size: int = 2,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    step: bool = False,
    targeted: bool = False,
) -> Planted:
    """A linear classifier with a back door: a patch that means one class.

    Wherever each of some features is within a tolerance of its value in the patch, the
    first class wins. The truth is the nearer of the linear classifier's and the patch.

    Args:
        seed: Of weights, patch and inputs.
        samples: How many inputs, none of the first class.
        features: Of an input: how many, or its shape.
        classes: At least 2.
        size: How many features the patch has.
        bounds: Of valid inputs.
        dtype: Of inputs and weights.
        step: Nothing shows that the patch is near (a needle in a haystack). Else the
            score of the first class rises towards it, but shows only where it is above
            what the linear classifier gives that class.
        targeted: The first class is to be reached.

    Raises:
        BadInput: Fewer than 2 classes, or the patch has no feature or too many.

    >>> problem = trigger(seed=1, samples=4)
    >>> bool((problem.exact("l0") <= 2).all())
    True
    """
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    if classes < 2 or not 1 <= size <= count:
        raise BadInput(
            f"a trigger needs at least 2 classes and a patch of 1 to {count} features; "
            f"got {classes} classes and {size} features"
        )
    rng = np.random.default_rng([seed, 5])
    base = random_affine(rng, count, classes, box, dtype)
    places = np.sort(rng.choice(count, size, replace=False))
    patch = (box.lower + rng.uniform(0.2, 0.8, size) * box.width).astype(dtype)
    tolerance = float(dtype(0.05 * box.width))
    slope = float(dtype(4 / box.width))
    scores = _Triggered(base, places, patch, tolerance, 0, slope, step)
    x, y = draw(rng, scores, samples, count, box, dtype, accept=lambda x, y: y != 0)
    lower, upper = np.full(count, -np.inf), np.full(count, np.inf)
    lower[places] = patch.astype(np.float64) - tolerance
    upper[places] = patch.astype(np.float64) + tolerance
    worn = Cuboid(lower, upper)
    goal = 0 if targeted else None
    name = "trigger-step" if step else "trigger"
    return Planted(
        f"{name}-targeted" if targeted else name,
        flat_model(scores, box, name),
        x.reshape(-1, *shape),
        y,
        np.zeros(len(y), np.int64) if targeted else None,
        [[worn, *base.regions(int(label), goal)] for label in y],
    )
