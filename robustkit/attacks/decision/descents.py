"""Descents along the boundary in L2, seen through decisions alone."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from robustkit.attacks.decision.probing import (
    Draw,
    across,
    cross,
    estimate_normal,
    follow,
    semicircle,
    unit,
)
from robustkit.attacks.decision.strengths import of_frequencies, of_pixels
from robustkit.engine.problem import Problem
from robustkit.engine.search import ROUGH, approach, bisect, starting_point, unspent
from robustkit.numerics.frequencies import low_frequencies
from robustkit.numerics.norms import L2
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    choose,
    expand,
    full,
    like,
    magnitude,
    maximum,
    plus,
    take,
    times,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Descent", "begun", "moved", "smooth_noise", "start"]

# What probes are made of: the lowest frequencies, as a share of each side's; or all of
# them, each as strong as the perturbation is there (None), or all alike.
_SHARES = (0.25, 0.5, None, 1.0)
# In place of an untried kind's gain; kinds are tried first in these steps.
_UNTRIED = np.inf
_FIRST = (0, 2, 4, 12)
# The lift grows or shrinks by at most this logarithm in a step, from the least on, and
# begins anew beyond the most.
_LIFTING, _LEAST_LIFT, _MOST_LIFT = 1.0, 1e-3, 0.5
# Smooth noises to start from: the shares of their frequencies.
_SMOOTH = (0.08, 0.15, 0.25)
_SLOPE, _LEAST_SLOPE = 0.3, 1e-3
# To this share of the probes' size starts are bisected.
_FINE = 1e-2


@dataclass(frozen=True)
class Descent:
    """Where one descent stands.

    Attributes:
        delta: (n, ...) adversarial, at the boundary but for the gap.
        gap: (n,) the share of its length by which it may be too long.
        lift: (n,) by which share of the perturbation beyond it probes are centred.
        slope: (n,) of the last move around the circle.
        gain: (n, kinds) of each kind of probes: how much the logarithm of the distance
            fell for each question, the last time.
        age: (n,) steps since the start.
        mark: (n,) the distance when it was last looked at whether this goes anywhere.
    """

    delta: Batch
    gap: PerSample
    lift: PerSample
    slope: PerSample
    gain: Tensor
    age: PerSample
    mark: PerSample

    def or_nearer(self, other: Self) -> Self:
        """The nearer one of each sample."""
        nearer = magnitude(self.delta, 2) <= magnitude(other.delta, 2)
        return choose(nearer, self, other)


def start(p: Problem, tries: int) -> tuple[Batch, Mask]:
    """The nearest of the starts (`starting_point`), and who (n,) has one.

    Without a pool or starts of the problem, of as many smooth noises besides, which
    cost one question each where they are no nearer than what is known.
    """
    near, _ = starting_point(p, p.rng(-1), tries)
    if p.starts is None and p.pool is None:
        rng, straight = p.rng(-1), L2()
        if isinstance(p.norm, L2):
            # The ledger knows the nearest, as it was shown.
            for number in range(tries):
                approach(p, p.x + smooth_noise(p, rng, number), tolerance=2 * ROUGH)
            return p.ledger.best * 1.0, p.ledger.found
        size = where(p.ledger.found, straight(near - p.x), math.inf)
        for number in range(tries):
            far = p.bounds.clip(p.x + smooth_noise(p, rng, number))
            radius = straight.scale_down(size, 1 - 2 * ROUGH)
            point = p.bounds.clip(p.x + straight.project(far - p.x, radius))
            asked = unspent(p).logical_and(straight(point - p.x) > 0)
            passed = p.decide(point, asked)
            reached = bisect(p, point, passed, 2 * ROUGH, straight)
            near = where(passed, reached, near)
            size = where(passed, straight(reached - p.x), size)
    return near, p.ledger.found


def begun(p: Problem, delta: Batch, found: Mask, size: float) -> Descent:
    """Descents at their starts, which are known to `ROUGH`.

    Args:
        p: The problem.
        delta: (n, ...) perturbations; adversarial where `found` (n,) holds.
        found: Who has a start.
        size: Of the probes, as a share of the distance.
    """
    delta = _refined(p, delta, found, size)
    return Descent(
        delta,
        full(p.x, size * _FINE),
        full(p.x, 0.0),
        full(p.x, _SLOPE),
        like(p.x, np.full((p.size, len(_SHARES)), _UNTRIED)),
        full(p.x, 0.0),
        magnitude(delta, 2),
    )


def moved(
    p: Problem, s: Descent, t: int, *, probes: int, size: float, tolerance: float
) -> Descent:
    """One step: probes, and a search on the circle they show.

    Args:
        p: The problem.
        s: Where it stands.
        t: The number of the step, for its random numbers.
        probes: In a first step; the square root of the step's number times as many
            later.
        size: Of the probes, as a share of the distance.
        tolerance: Of the move around the circle, as a share of it.
    """
    gains, rows = to_numpy(s.gain).copy(), np.arange(p.size)
    ages = to_numpy(s.age)
    kinds = _chosen(gains, ages)
    asked = p.ledger.forwards.copy()
    distance = magnitude(s.delta, 2)
    normal = estimate_normal(
        p,
        p.clip(p.x + s.delta * expand(1 - s.gap / 2 + s.lift, s.delta)),
        distance * size,
        (probes * np.sqrt(ages + 1)).astype(np.int64),
        p.rng(t),
        _shaped(p, s, kinds),
        kinds,
        decorrelated=True,
    )
    path = semicircle(p, s.delta, normal.direction)
    old = to_numpy(s.slope)
    slope = follow(p, path, old, tolerance)
    came = slope > 0
    delta = where(like(p.x, came), path(rows, slope) - p.x, s.delta)
    # How much shorter the first point of the circle known not to be adversarial is.
    beyond = (1 + slope**2) / (1 + (slope * (1 + tolerance)) ** 2)
    gap = np.maximum(1 - np.sqrt(beyond), 1e-4)

    # Where chance answers, the way may lead back to the original.
    lengths = nonzero(distance) / nonzero(magnitude(delta, 2))
    shorter = to_numpy(lengths.log())
    gains[rows, kinds] = shorter / np.maximum(p.ledger.forwards - asked, 1)
    return Descent(
        delta,
        like(p.x, np.where(came, gap, to_numpy(s.gap))),
        _lifted(s.lift, normal.share),
        like(p.x, np.where(came, slope, np.maximum(old / 4, _LEAST_SLOPE))),
        like(p.x, gains),
        s.age + 1,
        s.mark,
    )


def smooth_noise(p: Problem, rng: Rng, number: int) -> Batch:
    """(n, ...) of few frequencies, and of two values in every other turn."""
    space = low_frequencies(tuple(p.x.shape[1:]), _SMOOTH[number % len(_SMOOTH)])
    noise = space.images(rng.normal(space.inner))
    if number % 2:
        two: Batch = noise.sign() * (p.bounds.width / 2)
        return two
    length = 0.3 * p.bounds.width * math.sqrt(math.prod(p.x.shape[1:]))
    return unit(noise) * length


def _chosen(gains: Array, ages: Array) -> Array:
    """(n,) the kind of probes that has brought most, each being tried in its turn.

    What a kind brought long ago is more than it would bring now, since all gains fall,
    so no kind is forgotten.
    """
    due = np.asarray(_FIRST) <= ages[:, None]
    return np.asarray(np.where(due, gains, -np.inf).argmax(axis=1))


def _lifted(lift: PerSample, share: PerSample) -> PerSample:
    """More where few probes were adversarial, less where many were.

    None where more did not help: there the other end of what is adversarial was passed.
    """
    lift = where(share < 0.5, maximum(lift, _LEAST_LIFT), lift)
    lift = lift * ((1 - 2 * share) * _LIFTING).exp()
    return where(lift > _MOST_LIFT, 0.0, lift)


def _refined(p: Problem, delta: Batch, found: Mask, size: float) -> Batch:
    """Perturbations known to `ROUGH` brought so near to the boundary as probes need."""

    def path(rows: Array, share: Array) -> Batch:
        shorter = take(delta, rows) * expand(like(p.x, share), delta)
        return p.clip(plus(shorter, take(p.x, rows), reuse=True))

    one = to_numpy(full(p.x, 1.0))
    near = one * (1 - 2 * ROUGH)
    share = cross(p, path, one, near, to_numpy(found), size * _FINE)
    return delta * expand(like(p.x, share), delta)


def _shaped(p: Problem, s: Descent, kinds: Array) -> Draw:
    """Probes of each sample's kind, across its perturbation."""
    shape = tuple(p.x.shape[1:])
    pixels, along = like(p.x, of_pixels(s.delta)), unit(s.delta)

    def draw(rng: Rng, number: int, rows: Array) -> Tensor:
        share = _SHARES[kinds[rows[0]]]
        space = low_frequencies(shape, share or 1.0)
        drawn = rng.signs((number, *space.inner))
        if share is None:
            strengths = like(p.x, of_frequencies(take(s.delta, rows)))
            drawn = times(drawn, strengths, reuse=True)
        probes = times(space.images(drawn), take(pixels, rows), reuse=True)
        return across(probes, take(along, rows))

    return draw
