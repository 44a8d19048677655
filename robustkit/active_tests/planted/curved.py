"""Classifiers with curved boundaries: spheres and quadrics."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.planted.draws import (
    BoundsLike,
    DType,
    Shape,
    as_bounds,
    as_shape,
    draw,
    feature_count,
)
from robustkit.active_tests.regions import Ball, OutsideBall, Quadratic, Region
from robustkit.active_tests.scores import flat_model
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Shapes", "quadratic", "sphere"]

Shapes: TypeAlias = Literal["valley", "hill", "saddle", "hard", "unreachable"]


@dataclass(frozen=True, eq=False)
class _Quadric:
    """Scores (v Q v / 2 + offset, 0), where v = x - centre."""

    curvature: Array
    centre: Array
    offset: float

    def logits(self, x: Array) -> Array:
        v = x - self.centre
        margin = (self._bent(v) * v).sum(axis=1) / 2 + self.offset
        return np.stack([margin, np.zeros_like(margin)], axis=1).astype(x.dtype)

    def gradient(self, x: Array, slopes: Array) -> Array:
        return self._bent(x - self.centre) * slopes[:, :1]

    def _bent(self, v: Array) -> Array:
        if self.curvature.ndim == 1:
            return v * self.curvature
        return np.asarray((v[:, :, None] * self.curvature).sum(axis=1))


def sphere(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    inward: bool = False,
    boxed: bool = False,
) -> Planted:
    """Inside or outside of a ball.

    Args:
        seed: Of ball and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        bounds: Of valid inputs.
        dtype: Of inputs and ball.
        inward: The inputs are outside, and the way is in. Else they are inside.
        boxed: The ball is larger than the box, so that the way out leads into the
            corners; the truth is then not known in L1. Not with `inward`.

    Raises:
        BadInput: Both `inward` and `boxed`, or no such inputs.

    >>> sorted(sphere(boxed=True).norms)
    ['l0', 'l2', 'linf']
    >>> problem = sphere(seed=1, samples=5, inward=True)
    >>> bool((problem.exact("linf") < problem.exact("l2")).all())
    True
    """
    if inward and boxed:
        raise BadInput("a ball larger than the box has hardly an outside: not inward")
    rng = np.random.default_rng([seed, 6])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    middle, half = (box.lower + box.upper) / 2, box.width / 2
    centre = (middle + rng.uniform(-0.1, 0.1, count) * half).astype(dtype)
    # Half a diagonal is half * sqrt(features).
    radius = half * (0.8 * np.sqrt(count) if boxed else 0.8)
    sign = -1 if inward else 1
    scores = _Quadric(
        np.full(count, -2 * sign, dtype), centre, float(dtype(sign * radius**2))
    )

    core, reach = centre.astype(np.float64), float(np.sqrt(abs(scores.offset)))
    region: Region = (
        Ball(core, reach) if inward else OutsideBall(core, reach, boxed=boxed)
    )

    x, y = draw(
        rng, scores, samples, count, box, dtype,
        candidates=lambda number: _around(rng, number, centre, radius, box),
        accept=lambda x, y: y == 0,
    )  # fmt: skip
    name = "sphere-inward" if inward else "sphere-boxed" if boxed else "sphere"
    return Planted(
        name,
        flat_model(scores, box, name),
        x.reshape(-1, *shape),
        y,
        None,
        [[region]] * len(x),
    )


def quadratic(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    form: Shapes = "saddle",
) -> Planted:
    """A quadratic margin; the truth is known in L2.

    The box is there, and never in the way of the nearest adversarial.

    Args:
        seed: Of the quadratic and the inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape; at least 2.
        bounds: Of valid inputs.
        dtype: Of inputs and coefficients.
        form: "valley": adversarial inside of an ellipsoid; "hill": outside of one;
            "saddle": curved both ways; "hard": a saddle on whose ridge the inputs
            are, so that the gradient has no part along the way that curves down most;
            "unreachable": positive everywhere, so there is no adversarial.

    Raises:
        BadInput: No such form, fewer than 2 features, or no such inputs.

    >>> quadratic(form="unreachable", samples=3).exact("l2")
    array([inf, inf, inf])
    """
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    if form not in _OFFSETS or count < 2:
        raise BadInput(
            f"a quadratic needs at least 2 features ({count} given) and a form; "
            f"{suggestion(form, _OFFSETS)}"
        )
    rng = np.random.default_rng([seed, 7])
    half = box.width / 2
    bends = rng.uniform(1, 6, count)
    if form == "hill":
        bends = -bends
    elif form in ("saddle", "hard"):
        bends[: count // 2] *= -1
        # The lowest alone, as random ones nearly always are.
        bends[0] = -7
    basis = np.linalg.qr(rng.normal(size=(count, count)))[0]
    curvature = basis @ np.diag(bends) @ basis.T
    curvature = (curvature + curvature.T) / 2
    if form == "hard":
        # Along the axes, so that a feature can be on the ridge exactly.
        curvature = bends
    middle = (box.lower + box.upper) / 2
    centre = (middle + rng.uniform(-0.2, 0.2, count) * half).astype(dtype)
    scores = _Quadric(
        (curvature / half**2).astype(dtype), centre, float(dtype(_OFFSETS[form]))
    )
    bent = scores.curvature.astype(np.float64)
    region = Quadratic(
        np.diag(bent) if bent.ndim == 1 else bent,
        np.zeros(count),
        centre.astype(np.float64),
        scores.offset,
    )

    def candidates(number: int) -> Array:
        x = _around(rng, number, centre, half, box)
        if form == "hard":
            x[:, 0] = centre[0]
        return x

    def known(x: Array, y: Array) -> Array:
        rows = x.astype(np.float64)
        found = [_has_nearest(region, row, box) for row in rows]
        return np.asarray((y == 0) & np.array(found))

    x, y = draw(
        rng, scores, samples, count, box, dtype, candidates=candidates, accept=known
    )
    return Planted(
        f"quadratic-{form}",
        flat_model(scores, box, f"quadratic-{form}"),
        x.reshape(-1, *shape),
        y,
        None,
        [[region]] * len(x),
    )


_OFFSETS: dict[str, float] = {
    "valley": -1.5,
    "hill": 3.0,
    "saddle": 0.5,
    "hard": 0.5,
    "unreachable": 0.5,
}


def _around(
    rng: np.random.Generator, number: int, centre: Array, radius: float, box: Bounds
) -> Array:
    """Inputs (number, d) around a point, at distances up to 1.7 times a radius."""
    way = rng.normal(size=(number, len(centre)))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    length = radius * rng.uniform(0.3, 1.7, (number, 1))
    return np.asarray((centre + way * length).clip(box.lower, box.upper))


def _has_nearest(region: Quadratic, x: Array, box: Bounds) -> bool:
    """Whether the nearest point is known: the box may be in the way."""
    try:
        region.nearest(x, "l2", box)
    except BadInput:
        return False
    return True
