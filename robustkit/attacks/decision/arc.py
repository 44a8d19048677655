"""What SurFree and the triangle attack share: walks on arcs in random planes."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import bisect, starting_point
from robustkit.models.base import Access
from robustkit.numerics.frequencies import Subspace, low_frequencies
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    choose,
    expand,
    flatten,
    full,
    like,
    magnitude,
    maximum,
    minimum,
    stack_columns,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Arc", "State"]

# About 80 degrees; beyond it hardly anything is left of the perturbation.
_LARGEST = 6.0


@dataclass(frozen=True)
class State:
    """The plane that is searched, and how far.

    Attributes:
        delta: (n, ...) adversarial perturbation that the arc begins at.
        across: (n, ...) of length 1, at right angles to it.
        past: (n, memory, coefficients) directions before, of length 1 or zero.
        side: (n,) 1 or -1: which way along `across`.
        slope: (n,) the tangent of the angle to try first in the next plane.
        passed: (n,) the largest tangent known to be adversarial in this plane.
        failed: (n,) the least known not to be.
        lean: (n,) the cotangent of the triangle's angle at the new point.
    """

    delta: Batch
    across: Batch
    past: Tensor
    side: PerSample
    slope: PerSample
    passed: PerSample
    failed: PerSample
    lean: PerSample


class Arc(Attack[State], ABC):
    """Turns the perturbation in one random plane after another, and shortens it.

    Every step asks one question about a corner of a triangle, whose other corners are
    the original and the present point. In a new plane it is about one angle at the
    original, then the same to the other side. Where one of them is adversarial, larger
    angles follow, of twice the tangent each, until one is not, and then those between,
    down to a share of it. The angle that is tried first grows with success and shrinks
    with failure.

    Directions across the perturbation have the lower frequencies of an image, and every
    other one, at random, the lower half of these: few coefficients bring much at first,
    more of them later.
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "1 forward"
    positive: ClassVar[tuple[str, ...]] = ("slope", "slower")

    tries: int
    frequencies: float
    memory: int
    slope: float
    precision: float
    slower: float

    @abstractmethod
    def learned(self, lean: PerSample, passed: Mask) -> PerSample:
        """(n,) the lean after an answer."""

    def init(self, p: Problem) -> State:
        start, found = starting_point(p, p.rng(-1), self.tries)
        # A copy, since the next question may change what the ledger holds.
        start = bisect(p, where(found, start, p.x), found)
        size = self._subspace(p).size
        # At right angles to more of them little is left to draw from.
        past = np.zeros((p.size, min(self.memory, size // 2), size))
        zero = full(p.x, 0.0)
        return State(
            delta=start - p.x,
            across=p.x,
            past=like(p.x, past).astype(p.x.dtype),
            side=zero,
            slope=zero + self.slope,
            passed=zero,
            failed=zero,
            lean=zero,
        )

    def step(self, p: Problem, s: State, t: int) -> State:
        fresh = s.side == 0
        if bool(fresh.any()):
            s = choose(fresh, self._turned(p, s, t), s)
        searching = s.passed > 0
        between = where(s.failed > 0, (s.passed + s.failed) / 2, 2 * s.passed)
        # Less would not shorten a triangle that leans outwards.
        first = maximum(s.slope, 3 * s.lean)
        slope = where(searching, minimum(between, _LARGEST), first)
        point = self._point(p, s, slope)
        nearer = p.norm(point - p.x) < p.norm(self._point(p, s, s.passed) - p.x)
        # A point that is no nearer counts as failed, and so is not asked about.
        passed = p.decide(point, nearer)
        failed = passed.logical_not()

        other = failed.logical_and(searching.logical_not()).logical_and(s.side > 0)
        lost = failed.logical_and(searching.logical_not()).logical_and(s.side < 0)
        least = where(passed, slope, s.passed)
        most = where(failed.logical_and(searching), slope, s.failed)
        limit = where(most > 0, most, _LARGEST)
        done = (least > 0).logical_and(limit - least <= self.precision * limit)
        moved = self._point(p, s, least) - p.x
        change = where(done, maximum(1.0 + 0 * least, 0.5 * least / s.slope), 1.0)
        change = where(lost, self.slower, change)
        return State(
            delta=where(done, moved, s.delta),
            across=s.across,
            past=s.past,
            side=where(done.logical_or(lost), 0.0, where(other, -1.0, s.side)),
            slope=minimum(s.slope * change, _LARGEST),
            passed=where(done, 0.0, least),
            failed=where(done, 0.0, most),
            lean=self.learned(s.lean, passed),
        )

    def finished(self, p: Problem, s: State) -> Mask:
        # Smaller turns shorten the perturbation by less than can be told.
        stuck = s.slope < 1e-4
        return stuck.logical_or(p.ledger.found.logical_not())

    def check(self, p: Problem) -> None:
        super().check(p)
        self._subspace(p)

    def _point(self, p: Problem, s: State, slope: PerSample) -> Batch:
        """(n, ...) the third corner at an angle of that tangent, within the bounds."""
        # By the law of sines, with sine and cosine written by the tangent.
        share = maximum(1 + s.lean * slope, 0.0) / (1 + slope.square())
        across = share * slope * s.side * magnitude(s.delta, 2)
        moved = expand(share, p.x) * s.delta + expand(across, p.x) * s.across
        return p.bounds.clip(p.x + moved)

    def _subspace(self, p: Problem) -> Subspace:
        return low_frequencies(p.x.shape[1:], self.frequencies)

    def _turned(self, p: Problem, s: State, t: int) -> State:
        """With a new direction at right angles to the perturbation and those before."""
        subspace = self._subspace(p)
        rng = p.rng(t)
        drawn = rng.normal(subspace.inner)
        smooth = like(p.x, _lowest(subspace.inner)).astype(p.x.dtype).expand_dims(0)
        smooth, drawn = flatten(drawn * smooth), flatten(drawn)
        memory = s.past.shape[1]
        if memory:
            known = (s.past * drawn.expand_dims(1)).sum(axis=2)
            drawn = drawn - (s.past * known.expand_dims(2)).sum(axis=1)
        drawn = drawn / nonzero(magnitude(drawn, 2)).expand_dims(1)
        past = stack_columns([drawn.expand_dims(1), s.past])[:, :memory]
        # There are too few smooth ones to be at right angles to each other.
        smoothly = rng.uniform(()) < 0.5
        past, drawn = where(smoothly, s.past, past), where(smoothly, smooth, drawn)
        across = subspace.images(drawn.reshape((-1, *subspace.inner)))
        length = nonzero(total(s.delta.square()))
        across = across - expand(total(across * s.delta) / length, across) * s.delta
        across = across / expand(nonzero(magnitude(across, 2)), across)
        return dataclasses.replace(s, across=across, past=past, side=full(p.x, 1.0))


def _lowest(inner: tuple[int, ...]) -> Array:
    """(*inner) 1 for the coefficients of the lower half of each side's frequencies."""
    half = np.ones(inner)
    for axis, size in enumerate(inner):
        if axis > 0:
            low = np.arange(size) < max(size // 2, 1)
            half *= np.expand_dims(low, tuple(range(1, len(inner) - axis)))
    return half
