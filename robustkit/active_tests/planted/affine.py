"""Linear classifiers: adversarial in half-spaces, or in polyhedra."""

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
from robustkit.active_tests.regions import HalfSpace, Region, polyhedron
from robustkit.active_tests.scores import flat_model, rows_times
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Affine", "affine", "random_affine"]


@dataclass(frozen=True, eq=False)
class Affine:
    """Scores x W + b.

    Args:
        weights: (d, classes).
        bias: (classes,).
    """

    weights: Array
    bias: Array

    def logits(self, x: Array) -> Array:
        """(n, d) to scores (n, classes)."""
        return rows_times(x, self.weights) + self.bias

    def gradient(self, x: Array, slopes: Array) -> Array:
        """(n, d), from slopes (n, classes)."""
        return rows_times(slopes, self.weights.T)

    def regions(self, label: int, target: int | None) -> list[Region]:
        """Where an input is adversarial."""
        w, b = self.weights.astype(np.float64), self.bias.astype(np.float64)
        classes = len(b)
        if target is None:
            return [
                HalfSpace(w[:, label] - w[:, j], float(b[label] - b[j]))
                for j in range(classes)
                if j != label
            ]
        others = [j for j in range(classes) if j != target]
        slopes = (w[:, others] - w[:, [target]]).T
        return [polyhedron(slopes, b[others] - b[target], strict=True)]


def affine(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    classes: int = 3,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    targeted: bool = False,
    hopeless: bool = False,
) -> Planted:
    """A linear classifier of several classes, the box active.

    Untargeted, the nearest of half-spaces, in closed form. Targeted, a polyhedron, by
    a linear program (L1, Linf), a quadratic one (L2) or a mixed-integer one (L0).

    Args:
        seed: Of weights and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        classes: At least 2.
        bounds: Of valid inputs.
        dtype: Of inputs and weights.
        targeted: Each sample has a class to be reached.
        hopeless: The last class wins nowhere in the box: with `targeted` some samples
            have no adversarial, and with two classes nobody has one.

    Raises:
        BadInput: Fewer than 2 classes, or no such inputs.

    >>> affine(seed=1, samples=3).exact("linf").round(3)
    array([0.216, 0.277, 0.28 ])
    """
    if classes < 2:
        raise BadInput(f"a classifier needs at least 2 classes; got {classes}")
    rng = np.random.default_rng([seed, 1])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    scores = random_affine(rng, count, classes, box, dtype, hopeless=hopeless)
    x, y = draw(rng, scores, samples, count, box, dtype)
    targets = None
    if targeted:
        targets = other_classes(rng, y, max(classes - hopeless, 2))
        if hopeless:
            # Every other one, so that both kinds are there.
            targets[::2] = classes - 1
    goals = [None] * len(y) if targets is None else [int(t) for t in targets]
    return Planted(
        "affine-targeted" if targeted else "affine",
        flat_model(scores, box, "affine"),
        x.reshape(-1, *shape),
        y,
        targets,
        [scores.regions(int(label), t) for label, t in zip(y, goals, strict=True)],
    )


def random_affine(
    rng: np.random.Generator,
    features: int,
    classes: int,
    bounds: Bounds,
    dtype: DType = np.float64,
    *,
    hopeless: bool = False,
) -> Affine:
    """Random weights and a bias by which each class has about its share of the box.

    Args:
        rng: Random numbers.
        features: d.
        classes: How many.
        bounds: Of the inputs.
        dtype: Of weights and bias.
        hopeless: Give the last class a bias so low that the first is always above it.
    """
    weights = (rng.normal(size=(features, classes)) / bounds.width).astype(dtype)
    typical = draw_inputs(rng, 64, features, bounds)
    bias = -np.median(typical @ weights, axis=0)
    if hopeless:
        lead = weights[:, 0] - weights[:, -1]
        least = np.where(lead > 0, bounds.lower, bounds.upper) @ lead
        bias[-1] = bias[0] + least - 0.1
    return Affine(weights, bias.astype(dtype))
