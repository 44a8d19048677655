"""Brendel-Bethge attack, from several starting points."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.engine.search import starting_point
from robustkit.models.base import Access
from robustkit.numerics.fused import fused
from robustkit.numerics.norms import Norm, tamed
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    expand,
    full,
    magnitude,
    maximum,
    minimum,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero
from robustkit.numerics.trust_region import smallest_near

__all__ = ["BrendelBethge", "along_boundary"]

# First trust radius of a walk, as a share of the perturbation's L2 length. Few and
# large changes of single features need most, many small changes of an L1 walk least.
_FIRST = {"l0": 1.0, "l1": 0.2, "l2": 0.5, "linf": 0.5}
_LAST = 0.05
# Walks of fewer steps than this need a larger one.
_LONG = 20
# Of the steps for the last walk, and of the first radius for it.
_REFINED, _NARROW = 0.35, 0.3
# The trust radius need not be met exactly: by what share of it, and how many points of
# the way to look at.
_TOLERANCE, _TURNS = 0.1, 40
# Farther than any step leads, and its square is a number: where gradients vanish, and
# where an answer was no number, the plane is at no distance that is one.
_FAR = 1e9
# Fewer questions are too few for a search and what follows it.
_FEW = 50
# How many steps without a gain of a hundred-thousandth end the last walk.
_PATIENCE = 25


@dataclass(frozen=True)
class State:
    """Where the present walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        normal: (n, ...) average of the boundary's normals, of length at most 1.
        radius: (n,) of the trust region, in input units (L2).
        best: (n,) nearest adversarial of this walk, in norm units.
        stale: (n,) steps since it was one.
        start: (n, ...) the perturbation that was searched for, for the first walk.
    """

    delta: Batch
    normal: Batch
    radius: PerSample
    best: PerSample
    stale: PerSample
    start: Batch


@dataclass(frozen=True)
class BrendelBethge(Attack[State]):
    """Walk along the decision boundary, solving a local problem exactly at each step.

    The boundary near the present point is taken for a plane. Each step goes to the
    smallest perturbation beyond that plane inside a trust region and the box, by
    `smallest_near`. Several walks start at different points, since each ends in the
    valley that it started in; the last one goes on from the best of all.

    Args:
        steps: How many, of all walks together; 1 forward and 1 backward pass each.
            Finding the first start costs some questions more.
        walks: How many starting points: one that is searched for (`starting_point`),
            the middle of the box, the original itself, then uniform noise.
        tries: How many starting points of each kind to try in the search.
        momentum: Weight of the past in the average of the boundary's normals.
        overshoot: How far beyond the plane to aim, as a share of the present distance
            from it.

    Source:
        Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge: Accurate, reliable and fast
        robustness evaluation, NeurIPS 2019, section 2.

    Differences from the paper:
        Each was needed on real networks.

        - Several walks in place of one.
        - The step goes beyond the plane, not onto it: nothing is gained by coming
          back to a plane that lies further from the original.
        - The trust radius is a share of the sample's own perturbation, falling
          geometrically with the share of the walk's steps taken, so nothing depends on
          the scale of the inputs, on their number or on the number of steps.
        - Until a walk meets an adversarial, it takes the shortest way to the plane.
        - Normals have length 1 before they are averaged.
        - The last walk of a sample ends when it gains nothing more.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.brendel_bethge import BrendelBethge
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(BrendelBethge(steps=50), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 3)
    0.2
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(_FIRST)
    cost: ClassVar[str] = "1 forward + 1 backward; 1 forward at the end"
    source: ClassVar[str] = "Brendel et al., NeurIPS 2019, section 2"
    positive: ClassVar[tuple[str, ...]] = ("walks",)

    steps: int = 100
    walks: int = 3
    tries: int = 5
    momentum: float = 0.7
    overshoot: float = 0.1

    def init(self, p: Problem) -> State:
        start, _ = starting_point(p, p.rng(-1), self.tries)
        zero = full(p.x, 0.0)
        return State(p.x.zeros_like(), p.x.zeros_like(), zero, zero, zero, start - p.x)

    def step(self, p: Problem, s: State, t: int) -> State:
        walk, first, length = self._walk(t)
        if t == first:
            s = self._begin(p, s, walk, t)
        a = p.gradient(p.place(s.delta))
        better = a.adversarial.logical_and(a.distance < s.best * (1 - 1e-5))
        best = where(a.adversarial, minimum(a.distance, s.best), s.best)
        found, size = best < math.inf, magnitude(a.delta, 2)
        known = s.best < math.inf
        wide = min(_FIRST[p.norm.name] * max(_LONG / length, 1.0), 1.0)
        if walk == self.walks and p.norm.name != "l0":
            wide *= _NARROW
        radius = where(known, s.radius * _LAST ** (1 / length), wide * size)
        delta, normal = along_boundary(
            p,
            p.norm,
            a,
            a.gradient,
            where(known, full(p.x, self.momentum), 0.0),
            s.normal,
            where(found, radius, math.inf),
            self.overshoot,
        )
        stale = where(better, minimum(s.stale, 0.0), s.stale + 1)
        return State(delta, normal, radius, best, stale, s.start)

    def finished(self, p: Problem, s: State) -> Mask:
        return s.stale >= _PATIENCE

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)

    def within(self, budget: int) -> Self:
        """With fewer than 50 questions, no start is searched for.

        A search takes a dozen as a rule, and walks from the original and from the
        middle of the box lead nearer with these.
        """
        if budget < _FEW:
            steps = max(budget - 1, 1)
            return dataclasses.replace(self, steps=steps, walks=2, tries=0)
        tries = min(self.tries, max(budget // 20, 1))
        steps = budget - min(tries + 7, budget // 5) - 1
        walks = self.walks + budget // 300
        return dataclasses.replace(self, steps=steps, walks=walks, tries=tries)

    def _walk(self, t: int) -> tuple[int, int, int]:
        """Which walk step `t` belongs to, where that began, and how long it is."""
        last = self.steps - round(_REFINED * self.steps)
        if t >= last:
            return self.walks, last, self.steps - last
        walk = t * self.walks // last
        first, end = (-(-k * last // self.walks) for k in (walk, walk + 1))
        return walk, first, end - first

    def _begin(self, p: Problem, s: State, walk: int, t: int) -> State:
        """The state before a walk."""
        if walk == self.walks:
            delta = p.ledger.best - p.x
        elif walk == 0:
            delta = s.start
        elif walk == 1:
            delta = (p.low + p.high) / 2
        elif walk == 2:
            delta = p.x.zeros_like()
        else:
            bounds = p.bounds
            delta = p.rng(t).uniform(p.x.shape[1:], bounds.lower, bounds.upper) - p.x
        never = full(p.x, math.inf)
        # Only the last walk may end early.
        stale = full(p.x, 0.0 if walk == self.walks else -math.inf)
        return dataclasses.replace(s, delta=delta, best=never, stale=stale)


def along_boundary(
    p: Problem,
    norm: Norm,
    a: GradientAnswer,
    gradient: Batch,
    momentum: PerSample,
    before: Batch,
    radius: PerSample,
    overshoot: float = 0.1,
    turns: int = _TURNS,
) -> tuple[Batch, Batch]:
    """One step: the smallest perturbation beyond the plane of the last answer.

    Args:
        p: The problem.
        norm: In which it is to be small.
        a: The last answer.
        gradient: (n, ...) of the margin there.
        momentum: (n,) weight of the past in the average of the normals.
        before: (n, ...) that average so far.
        radius: (n,) of the trust region, an L2 length; infinite: as far as the
            shortest way to the plane takes, and a half more.
        overshoot: As in `BrendelBethge`.
        turns: As in `smallest_near`.

    Returns:
        (n, ...) the perturbation and the average of the normals.
    """
    normal, level, radius = _plane(
        a.delta, a.margin, gradient, momentum, before, radius, overshoot
    )
    delta = smallest_near(
        norm, a.delta, normal, level, radius, p.low, p.high, _TOLERANCE, turns
    )
    return delta, normal


@fused
def _plane(
    delta: Batch,
    margin: PerSample,
    gradient: Batch,
    momentum: PerSample,
    before: Batch,
    radius: PerSample,
    overshoot: float,
) -> tuple[Batch, PerSample, PerSample]:
    """The average of the normals, the level to be reached by it, and the radius."""
    gradient, slope, unit = tamed(gradient)
    slope = nonzero(slope)
    normal = gradient / expand(slope, gradient)
    with np.errstate(over="ignore"):
        height = margin / unit / slope
    height = maximum(minimum(height, _FAR), -_FAR)
    weight = expand(momentum, normal)
    normal = weight * before + (1 - weight) * normal
    radius = where(radius < math.inf, radius, 1.5 * height.abs())
    level = total(normal * delta) - height - overshoot * height.abs()
    return normal, level, radius
