"""What decision-based attacks share: the boundary's normals, and searches across it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.frequencies import Subspace, low_frequencies, resized
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    clip,
    expand,
    flatten,
    full,
    like,
    magnitude,
    matmul,
    plus,
    stack_rows,
    times,
    to_numpy,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = [
    "Draw",
    "Normal",
    "across",
    "cross",
    "estimate_normal",
    "follow",
    "noise",
    "orthogonal",
    "semicircle",
    "subspace_of",
    "unit",
    "unspent",
]

# How many numbers the probes of one sample may hold at once.
_AT_ONCE = 2**20
# Then a place is found or given up.
_DOUBLINGS = 10
_HALVINGS = 60


Draw: TypeAlias = Callable[[Rng, int], Tensor]
"""From random numbers and a number k to probes (n, k, ...) of any length."""


@dataclass(frozen=True)
class Normal:
    """What probes around a point tell of the boundary there.

    Attributes:
        direction: (n, ...) of length 1, towards the adversarial side; zero for samples
            without probes, or where all probes saw the same and nothing is known.
        share: (n,) of the probes that were adversarial.
        probes: (n,) int64, how many were asked.
    """

    direction: Batch
    share: PerSample
    probes: Array


def unit(x: Batch) -> Batch:
    """`x` at L2 length 1; zero stays zero."""
    return x / expand(nonzero(magnitude(x, 2)), x)


def subspace_of(p: Problem, name: str, share: float) -> Subspace:
    """The subspace of that name for inputs like the problem's.

    Args:
        p: The problem.
        name: "all", "frequencies" or "resized".
        share: Of each side of the image, for the subspace's size; not for "all".

    Raises:
        BadInput: No such subspace.
    """
    shape = tuple(p.x.shape[1:])
    if name == "all":
        return Subspace(shape, shape, (), ())
    if name not in _SUBSPACES:
        known = ("all", *_SUBSPACES)
        raise BadInput(f"unknown subspace '{name}'; {suggestion(name, known)}")
    return _SUBSPACES[name](shape, share)


_SUBSPACES = {"frequencies": low_frequencies, "resized": resized}


def noise(subspace: Subspace, *, uniform: bool = False) -> Draw:
    """Probes with independent normal, or uniform, coefficients in a subspace."""

    def draw(rng: Rng, number: int) -> Tensor:
        inner = (number, *subspace.inner)
        drawn = rng.uniform(inner, -1.0) if uniform else rng.normal(inner)
        return subspace.images(drawn)

    return draw


def estimate_normal(
    p: Problem, center: Batch, size: PerSample, count: Array, rng: Rng, draw: Draw
) -> Normal:
    """Ask about random points around `center`; sum them up by their answers.

    Each probe counts by how far its answer lies from the mean answer, which removes the
    part that all probes have in common (Chen, Jordan, Wainwright, HopSkipJumpAttack,
    2020).

    Args:
        p: The problem.
        center: (n, ...) points near the boundary.
        size: (n,) L2 length of the probes, in input units.
        count: (n,) int64, how many to ask for each sample; less where fewer count.
        rng: Random numbers.
        draw: From these and a number k to probes (n, k, ...) of any length.
    """
    count = np.minimum(count, p.ledger.left())
    # All draws but the last have one size, so a sample's probes do not depend on how
    # many others get.
    chunk = max(_AT_ONCE // flatten(p.x).shape[1], 1)
    sums = [p.x.zeros_like(), p.x.zeros_like()]
    passed = np.zeros(p.size, np.int64)
    for start in range(0, int(count.max(initial=0)), chunk):
        probes = draw(rng, min(chunk, int(count.max()) - start))
        flat = probes.reshape((-1, *probes.shape[2:]))
        scale = size.expand_dims(1) / nonzero(magnitude(flat, 2)).reshape(
            probes.shape[:2]
        )
        scale = scale.reshape((*scale.shape, *(1 for _ in p.x.shape[1:])))
        middle = center.expand_dims(1)
        points = plus(times(probes, scale, reuse=True), middle, reuse=True)
        points = clip(points, p.bounds.lower, p.bounds.upper, reuse=True)
        asked = start + np.arange(probes.shape[1]) < count[:, None]
        answers = to_numpy(p.probe(points, like(p.x, asked)))
        passed += answers.sum(axis=1)
        moved = plus(points, -middle, reuse=True)
        weights = np.stack([asked, answers], axis=1)
        for which, part in enumerate(_sums(moved, weights, asked)):
            sums[which] = sums[which] + part
    share = like(p.x, passed / np.maximum(count, 1)).astype(p.x.dtype)
    # As if answers were 1 and 0: every answer's distance from their mean.
    direction = sums[1] - expand(share, p.x) * sums[0]
    none = like(p.x, passed == 0)
    every = like(p.x, passed == count)
    direction = where(every, sums[0], where(none, -sums[0], direction))
    return Normal(unit(direction), share, count)


def semicircle(
    p: Problem, delta: Batch, direction: Batch
) -> Callable[[PerSample], Batch]:
    """The points at which a flat boundary through x + `delta` can be nearest to x.

    They lie on the circle whose diameter is `delta`, in the plane of `delta` and
    `direction`, and all are nearer than `delta` is.

    Args:
        p: The problem.
        delta: (n, ...) perturbations.
        direction: (n, ...) others; only the part across `delta` matters.

    Returns:
        From the slope (n,), the ratio of the parts across and along `delta`, to the
        points (n, ...), clipped to the bounds. The slope 0 is `delta`.
    """
    length = magnitude(delta, 2)
    across = unit(orthogonal(direction, delta))
    across = across * expand(length, across)

    def path(slope: PerSample) -> Batch:
        share = 1 / (1 + slope.square())
        along = expand(share, delta) * delta
        return p.bounds.clip(p.x + along + expand(share * slope, delta) * across)

    return path


def orthogonal(direction: Batch, delta: Batch) -> Batch:
    """`direction` without its part along `delta`."""
    share = total(direction * delta) / nonzero(total(delta.square()))
    return direction - expand(share, delta) * delta


def across(probes: Tensor, delta: Batch) -> Tensor:
    """Probes (n, k, ...) without their part along each sample's `delta`."""
    flat = probes.reshape((*probes.shape[:2], -1))
    along = unit(delta).reshape((delta.shape[0], 1, -1))
    share = (flat * along).sum(axis=2, keepdims=True)
    return plus(flat, -share * along, reuse=True).reshape(probes.shape)


def follow(
    p: Problem,
    path: Callable[[PerSample], Batch],
    guess: PerSample,
    tolerance: float,
    asked: Mask | None = None,
) -> PerSample:
    """How far a path that starts on the adversarial side stays there.

    From the guess on the place is doubled, or halved, until the boundary lies between
    two of them, and then bisected.

    Args:
        p: The problem.
        path: From a place (n,) to the points (n, ...).
        guess: (n,) positive.
        tolerance: Of the place, as a share of it.
        asked: (n,) which samples to work on; None: all.

    Returns:
        (n,) the last place found adversarial; zero if none was.
    """
    active = unspent(p) if asked is None else asked.logical_and(unspent(p))
    inside, outside = full(p.x, 0.0), full(p.x, math.inf)
    place = guess
    for _ in range(_DOUBLINGS):
        if not bool(active.any()):
            break
        passed = p.decide(path(place), active)
        inside = where(passed, place, inside)
        outside = where(active.logical_and(passed.logical_not()), place, outside)
        open_ended = (inside == 0).logical_or(outside == math.inf)
        active = active.logical_and(open_ended).logical_and(unspent(p))
        place = where(passed, place * 2, place / 2)
    bounded = (inside > 0).logical_and(outside < math.inf)
    return cross(p, path, inside, outside, bounded, tolerance)


def cross(
    p: Problem,
    path: Callable[[PerSample], Batch],
    inside: PerSample,
    outside: PerSample,
    asked: Mask,
    tolerance: float,
) -> PerSample:
    """Bisect between two places on a path, of which one is adversarial.

    Args:
        p: The problem.
        path: From a place (n,) to the points (n, ...).
        inside: (n,) places known to be adversarial.
        outside: (n,) places known not to be.
        asked: (n,) which samples to work on.
        tolerance: How near the two must come, as a share of `inside`.

    Returns:
        (n,) adversarial places; `inside` itself for samples not asked.
    """
    for _ in range(_HALVINGS):
        wide = (outside - inside).abs() > tolerance * inside
        active = asked.logical_and(wide).logical_and(unspent(p))
        if not bool(active.any()):
            break
        middle = where(asked, (inside + outside) / 2, inside)
        passed = p.decide(path(middle), active)
        inside = where(passed, middle, inside)
        outside = where(active.logical_and(passed.logical_not()), middle, outside)
    return inside


def unspent(p: Problem) -> Mask:
    """(n,) for whom another answer would count."""
    return like(p.x, ~p.ledger.spent())


def _sums(moved: Tensor, weights: Array, asked: Array) -> list[Batch]:
    """For each of the weights (n, w, k): the weighted sum over axis 1 of (n, k, ...).

    Sample by sample and without probes not asked, so that no rounding depends on them.
    """
    shape = moved.shape
    flat = moved.reshape((shape[0], shape[1], -1))
    rows = []
    for row, counts in enumerate(asked.sum(axis=1)):
        one = flat[row : row + 1, : max(int(counts), 1)]
        weight = weights[row : row + 1, :, : max(int(counts), 1)]
        right = one.reshape(one.shape[1:])
        rows.append(matmul(like(moved, weight).astype(moved.dtype), right))
    sums = stack_rows(rows)
    return [
        sums[:, at].reshape((shape[0], *shape[2:])) for at in range(weights.shape[1])
    ]
