"""Nearest prototypes and nearest neighbours: adversarial in unions of polyhedra."""

from dataclasses import dataclass

import numpy as np

from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.planted.draws import (
    BoundsLike,
    DType,
    Shape,
    as_bounds,
    as_shape,
    draw,
    draw_inputs,
    feature_count,
    other_classes,
)
from robustkit.active_tests.regions import Region, polyhedron
from robustkit.active_tests.scores import flat_model
from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["nearest_neighbour"]


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """Scores: minus the squared distance to the nearest prototype of each class.

    Args:
        prototypes: (classes, per_class, d).
    """

    prototypes: Array

    def logits(self, x: Array) -> Array:
        return np.asarray(-self._squares(x).min(axis=2))

    def gradient(self, x: Array, slopes: Array) -> Array:
        nearest = self._squares(x).argmin(axis=2)
        out = np.zeros_like(x)
        for label, prototypes in enumerate(self.prototypes):
            away = x - prototypes[nearest[:, label]]
            out -= 2 * away * slopes[:, [label]]
        return out

    def _squares(self, x: Array) -> Array:
        """(n, classes, per_class)."""
        away = x[:, None, None, :] - self.prototypes
        return np.asarray((away**2).sum(axis=3))

    def regions(self, label: int, target: int | None) -> list[Region]:
        """For each rival, where it is nearer than all that must be farther."""
        classes = range(len(self.prototypes))
        if target is None:
            rivals, others = [c for c in classes if c != label], [label]
        else:
            rivals, others = [target], [c for c in classes if c != target]
        farther = self.prototypes[others].reshape(-1, self.prototypes.shape[2])
        farther = farther.astype(np.float64)
        union = []
        for rival in self.prototypes[rivals].reshape(-1, farther.shape[1]):
            nearer = rival.astype(np.float64)
            # |z - nearer|^2 <= |z - farther|^2.
            slopes = 2 * (farther - nearer)
            offsets = nearer @ nearer - (farther**2).sum(axis=1)
            union.append(polyhedron(slopes, offsets, strict=True))
        return union


def nearest_neighbour(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    classes: int = 3,
    per_class: int = 4,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    targeted: bool = False,
) -> Planted:
    """The class of the nearest of some prototypes.

    For each prototype of another class, the points that are nearer to it than to any
    of one's own are a polyhedron. Those that are surely farther than the best so far
    are left out. With one prototype per class this is a linear classifier.

    Args:
        seed: Of prototypes and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        classes: At least 2.
        per_class: Prototypes of each class, at least 1.
        bounds: Of valid inputs.
        dtype: Of inputs and prototypes.
        targeted: Each sample has a class to be reached.

    Raises:
        BadInput: Fewer than 2 classes, or no prototype.

    >>> problem = nearest_neighbour(seed=1, samples=3, features=4)
    >>> bool((problem.exact("linf") < problem.exact("l1")).all())
    True
    """
    if classes < 2 or per_class < 1:
        raise BadInput(
            "nearest neighbours need at least 2 classes and a prototype of each; got "
            f"{classes} classes of {per_class}"
        )
    rng = np.random.default_rng([seed, 8])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    drawn = draw_inputs(rng, classes * per_class, count, box).astype(dtype)
    scores = _Neighbours(drawn.reshape(classes, per_class, count))
    x, y = draw(rng, scores, samples, count, box, dtype)
    targets = other_classes(rng, y, classes) if targeted else None
    goals = [None] * len(y) if targets is None else [int(t) for t in targets]
    name = "nearest-neighbour" if per_class > 1 else "nearest-prototype"
    return Planted(
        f"{name}-targeted" if targeted else name,
        flat_model(scores, box, name),
        x.reshape(-1, *shape),
        y,
        targets,
        [scores.regions(int(label), t) for label, t in zip(y, goals, strict=True)],
    )
