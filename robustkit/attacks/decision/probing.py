"""What decision-based attacks share: the boundary's normals, and searches across it."""

import math
from collections.abc import Callable, Iterator
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
    PerSample,
    Tensor,
    expand,
    flatten,
    like,
    magnitude,
    matmul,
    plus,
    plus_outer,
    put,
    stack_columns,
    take,
    times,
    to_numpy,
    total,
)
from robustkit.numerics.thresholds import nonzero

__all__ = [
    "Draw",
    "Normal",
    "Path",
    "across",
    "cross",
    "estimate_normal",
    "follow",
    "noise",
    "orthogonal",
    "regressed_on",
    "semicircle",
    "steps_for",
    "subspace_of",
    "unit",
]

# How many numbers the probes drawn at once may hold, those of one sample or of several.
_AT_ONCE = 2**20
# Noise in answers, as a share of what is told in the mean by a probe.
_NOISE = 1.0
# Then a place is found or given up.
_DOUBLINGS = 10
_HALVINGS = 60


Draw: TypeAlias = Callable[[Rng, int, Array], Tensor]
"""From random numbers of some samples, a number k and the places (m,) of these samples
to probes (m, k, ...) of any length, in memory of their own."""


Path: TypeAlias = Callable[[Array, Array], Batch]
"""From the places (m,) of samples (m,) and a number for each to points (m, ...) within
the bounds."""


@dataclass(frozen=True)
class Normal:
    """What probes around a point tell of the boundary there.

    Attributes:
        direction: (n, ...) of length 1, towards the adversarial side; where all probes
            saw the same, towards their mean or away from it; zero without probes.
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

    def draw(rng: Rng, number: int, _: Array) -> Tensor:
        inner = (number, *subspace.inner)
        drawn = rng.uniform(inner, -1.0) if uniform else rng.normal(inner)
        return subspace.images(drawn)

    return draw


def estimate_normal(
    p: Problem,
    center: Batch,
    size: PerSample,
    count: Array,
    rng: Rng,
    draw: Draw,
    kinds: Array | None = None,
    *,
    decorrelated: bool = False,
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
        draw: Draws the probes.
        kinds: (n,) int64; only samples of one kind are drawn for at once. None: all
            are.
        decorrelated: Count what several probes have in common once, by ridge
            regression of the answers on the probes. Where those of a sample, or the
            products of each with every other one, are more than a million numbers, they
            are summed up: among so many features few overlap, and of so many probes
            the sum is good.
    """
    count = np.minimum(count, p.ledger.left())
    kinds = np.zeros(p.size, np.int64) if kinds is None else kinds
    passed, direction = np.zeros(p.size, np.int64), p.x.zeros_like()
    for rows in _groups(count, kinds, flatten(p.x).shape[1]):
        number = int(count[rows[0]])
        part, passed[rows] = _summed(
            p,
            rows,
            number,
            take(center, rows),
            take(size, rows),
            rng.of(rows),
            draw,
            decorrelated,
        )
        direction = put(direction, rows, part, reuse=True)
    share = like(p.x, passed / np.maximum(count, 1)).astype(p.x.dtype)
    return Normal(unit(direction), share, count)


def _groups(count: Array, kinds: Array, features: int) -> Iterator[Array]:
    """The places (m,) of samples with as many probes, some, and all of one kind."""
    for number, kind in sorted(set(zip(count.tolist(), kinds.tolist(), strict=True))):
        rows = np.flatnonzero((count == number) & (kinds == kind) & (count > 0))
        # Room for the products of a sample's probes with each other, too.
        together = max(_AT_ONCE // max(features * number, number**2, 1), 1)
        for start in range(0, len(rows), together):
            yield rows[start : start + together]


def _summed(
    p: Problem,
    rows: Array,
    number: int,
    center: Batch,
    size: PerSample,
    rng: Rng,
    draw: Draw,
    decorrelated: bool,
) -> tuple[Batch, Array]:
    """Of the samples `rows` (m,): the sums of their probes, and how many passed (m,).

    Probes count by how far their answers, 1 or 0, lie from the mean answer.
    """
    passed = np.zeros(len(rows), np.int64)
    # Of all probes, and of those that passed; none yet.
    sums = 0.0 * stack_columns([flatten(center).expand_dims(1)] * 2)
    features = sums.shape[2]
    chunk = max(_AT_ONCE // features, 1)
    regressed = decorrelated and number * max(features, number) <= _AT_ONCE
    for start in range(0, number, chunk):
        probes = draw(rng, min(chunk, number - start), rows)
        moved, answers = _asked(p, rows, probes, center, size)
        passed += answers.sum(axis=1)
        counted = answers
        if regressed:
            gram = to_numpy(matmul(moved, moved.transpose((0, 2, 1))))
            counted = regressed_on(gram, answers)
        weights = np.stack([np.ones_like(counted), counted], axis=1)
        sums = sums + matmul(like(moved, weights).astype(moved.dtype), moved)
    mean = np.zeros(len(rows)) if regressed else passed / number
    weights = np.stack([-mean, np.ones(len(rows))], axis=1)
    weights[passed == 0] = (-1, 0)
    weights[passed == number] = (1, 0)
    mixed = matmul(like(sums, weights[:, None]).astype(sums.dtype), sums)
    return mixed.reshape(center.shape), passed


def _asked(
    p: Problem, rows: Array, probes: Tensor, center: Batch, size: PerSample
) -> tuple[Tensor, Array]:
    """Probes (m, k, features) as they were shown, of length `size`, and the answers."""
    shape, middle = probes.shape, center.expand_dims(1)
    lengths = magnitude(probes.reshape((-1, *shape[2:])), 2).reshape(shape[:2])
    scale = size.expand_dims(1) / nonzero(lengths)
    scale = scale.reshape((*shape[:2], *(1 for _ in shape[2:])))
    points = times(probes, scale, reuse=True)
    points = p.clip(plus(points, middle, reuse=True))
    answers = to_numpy(p.probe(points, rows=rows))
    moved = plus(points, -middle, reuse=True)
    return moved.reshape((*shape[:2], -1)), answers


def regressed_on(gram: Array, answers: Array) -> Array:
    """What each probe counts (m, k): by what its answer adds to those of the others.

    Ridge regression of answers (m, k) on probes, whose products with each other are
    `gram` (m, k, k): the slopes are the sum of the probes, each as often as it counts.
    """
    gram = gram.astype(np.float64)
    # As if each probe were given less their mean.
    gram -= gram.mean(axis=1, keepdims=True)
    gram -= gram.mean(axis=2, keepdims=True)
    size = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
    noise = _NOISE * np.where(size > 0, size, 1)
    gram += noise[:, None, None] * np.eye(gram.shape[1])
    apart = answers - answers.mean(axis=1, keepdims=True)
    counts = np.linalg.solve(gram, apart[:, :, None])[:, :, 0]
    return np.asarray(counts - counts.mean(axis=1, keepdims=True))


def semicircle(p: Problem, delta: Batch, direction: Batch) -> Path:
    """The points at which a flat boundary through x + `delta` can be nearest to x.

    They lie on the circle whose diameter is `delta`, in the plane of `delta` and
    `direction`, and all are nearer than `delta` is.

    Args:
        p: The problem.
        delta: (n, ...) perturbations.
        direction: (n, ...) others; only the part across `delta` matters.

    Returns:
        From the slope, the ratio of the parts across and along `delta`, to the points,
        clipped to the bounds. The slope 0 is `delta`.
    """
    across = unit(orthogonal(direction, delta))
    across = across * expand(magnitude(delta, 2), across)
    columns = [flatten(part).expand_dims(1) for part in (p.x, delta, across)]
    parts = stack_columns(columns)

    def path(rows: Array, slope: Array) -> Batch:
        some = parts if len(rows) == p.size else take(parts, rows)
        along = 1 / (1 + slope**2)
        weights = np.stack([np.ones_like(along), along, along * slope], axis=1)
        points = matmul(like(p.x, weights[:, None]), some)
        return p.clip(points.reshape((len(rows), *p.x.shape[1:])))

    return path


def orthogonal(direction: Batch, delta: Batch) -> Batch:
    """`direction` without its part along `delta`."""
    share = total(direction * delta) / nonzero(total(delta.square()))
    return direction - expand(share, delta) * delta


def across(probes: Tensor, along: Batch) -> Tensor:
    """Probes (n, k, ...) without their part along directions (n, ...) of length 1.

    The memory of `probes` may be taken for the result.
    """
    flat, along = probes.reshape((*probes.shape[:2], -1)), flatten(along)
    # Several times faster than the product the other way around.
    share = matmul(along.expand_dims(1), flat.transpose((0, 2, 1))).squeeze(axis=1)
    return plus_outer(flat, -share, along, reuse=True).reshape(probes.shape)


def follow(p: Problem, path: Path, guess: Array, tolerance: float) -> Array:
    """How far a path that starts on the adversarial side stays there.

    From the guess on the place is doubled, or halved, until the boundary lies between
    two of them, and then bisected.

    Args:
        p: The problem.
        path: Of each sample.
        guess: (n,) positive places.
        tolerance: Of the place, as a share of it.

    Returns:
        (n,) the last place found adversarial; zero if none was.
    """
    place = guess.copy()
    inside, outside = np.zeros_like(place), np.full_like(place, math.inf)
    for _ in range(_DOUBLINGS):
        open_ended = (inside == 0) | (outside == math.inf)
        rows = np.flatnonzero(open_ended & ~p.ledger.spent())
        if len(rows) == 0:
            break
        here = place[rows]
        passed = to_numpy(p.decide(path(rows, here), rows=rows))
        inside[rows] = np.where(passed, here, inside[rows])
        outside[rows] = np.where(passed, outside[rows], here)
        place[rows] = np.where(passed, here * 2, here / 2)
    bounded = (inside > 0) & (outside < math.inf)
    return cross(p, path, inside, outside, bounded, tolerance)


def cross(
    p: Problem,
    path: Path,
    inside: Array,
    outside: Array,
    asked: Array,
    tolerance: float,
) -> Array:
    """Bisect between two places on a path, of which one is adversarial.

    Args:
        p: The problem.
        path: Of each sample.
        inside: (n,) places known to be adversarial.
        outside: (n,) places known not to be.
        asked: (n,) which samples to work on.
        tolerance: How near the two must come, as a share of `inside`.

    Returns:
        (n,) adversarial places; `inside` itself for samples not asked.
    """
    inside, outside = inside.copy(), outside.copy()
    for _ in range(_HALVINGS):
        wide = asked & ~p.ledger.spent()
        wide[wide] = abs(outside - inside)[wide] > tolerance * inside[wide]
        rows = np.flatnonzero(wide)
        if len(rows) == 0:
            break
        middle = (inside[rows] + outside[rows]) / 2
        passed = to_numpy(p.decide(path(rows, middle), rows=rows))
        inside[rows] = np.where(passed, middle, inside[rows])
        outside[rows] = np.where(passed, outside[rows], middle)
    return inside


def steps_for(budget: int, cost: Callable[[int], float]) -> int:
    """The fewest steps that may be needed for so many questions.

    Args:
        budget: The questions.
        cost: From the number of a step to how many it asks at the least.

    >>> steps_for(100, lambda t: 30 + t)
    4
    """
    steps, asked = 0, 0.0
    while asked < budget:
        asked += max(cost(steps), 1)
        steps += 1
    return max(steps, 1)
