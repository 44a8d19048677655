"""CGBA and CGBA-H: a circle through the original and a boundary point."""

import dataclasses
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.probing import (
    Path,
    estimate_normal,
    follow,
    noise,
    semicircle,
    steps_for,
    subspace_of,
)
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import bisect, starting_point, unspent
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    full,
    like,
    magnitude,
    to_numpy,
    where,
)

__all__ = ["CGBA", "CGBAH"]

# 2 to the power of minus 12 of a quarter circle gains nothing.
_ANGLES = 12


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) adversarial, at the boundary but for the tolerance.
        slope: (n,) of the last move around the circle.
    """

    delta: Batch
    slope: PerSample


class Circle(Attack[State], ABC):
    """What both share: in each step one circle through the original, across a normal.

    The circle lies in the plane of the perturbation and the boundary's estimated
    normal, and the present perturbation is its diameter.
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "40 forwards and more"
    source: ClassVar[str] = "Reza, Rahmati, Wu, Dai, ICCV 2023"
    positive: ClassVar[tuple[str, ...]] = ("probes", "size")

    tries: int
    probes: int
    frequencies: float
    size: float
    tolerance: float

    def init(self, p: Problem) -> State:
        start, _ = starting_point(p, p.rng(-1), self.tries)
        point = bisect(p, start, p.ledger.found, self.start_tolerance)
        return State(point - p.x, full(p.x, 0.5))

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        steps = steps_for(budget, self._count)
        return dataclasses.replace(self, steps=steps)  # type: ignore[type-var]

    def check(self, p: Problem) -> None:
        super().check(p)
        subspace_of(p, "frequencies", self.frequencies)

    def _count(self, t: int) -> int:
        """How many probes a step has."""
        return int(self.probes * np.sqrt(t + 1))

    @property
    def start_tolerance(self) -> float:
        """Of the first bisection, as a share of the distance."""
        return self.tolerance

    def circle(self, p: Problem, s: State, t: int) -> Path:
        """The points of the next circle, by the tangent of the angle (`semicircle`)."""
        count = np.full(p.size, self._count(t))
        size = self.size * magnitude(s.delta, 2)
        drawn = noise(subspace_of(p, "frequencies", self.frequencies))
        normal = estimate_normal(p, p.x + s.delta, size, count, p.rng(t), drawn)
        return semicircle(p, s.delta, normal.direction)


@dataclass(frozen=True)
class CGBA(Circle):
    """Follow the circle through original and boundary point until it leaves the class.

    The circle lies in the plane of the perturbation and the boundary's estimated
    normal, and the present perturbation is its diameter. If the boundary is a line in
    that plane, the circle crosses it at the point nearest to the original. All
    places on it are nearer than the present one, so every adversarial found on it is an
    improvement.

    Args:
        steps: How many; each costs the probes and about 10 questions on the circle.
        tries: How many starting points of each kind to try (see `starting_point`).
        probes: In the first step; the square root of the step's number times as many
            later.
        frequencies: The share of each side's that probes are made of.
        size: Of the probes, as a share of the distance.
        tolerance: Of the place on the circle, as a share of the way to it.

    Source:
        Reza, Rahmati, Wu, Dai: CGBA: Curvature-aware Geometric Black-box Attack,
        ICCV 2023.

    Differences from the paper:
        - The place on the circle is bisected to a share of the move, starting from the
          move of the step before, not from a quarter circle to a fixed angle.
        - The size of probes is a share of the distance, not fixed.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.CGBA(steps=5), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    steps: int = 100
    tries: int = 20
    probes: int = 30
    frequencies: float = 0.25
    size: float = 0.01
    tolerance: float = 0.02

    @property
    def start_tolerance(self) -> float:
        return self.tolerance * self.size

    def step(self, p: Problem, s: State, t: int) -> State:
        path = self.circle(p, s, t)
        slope = follow(p, path, to_numpy(s.slope), self.tolerance)
        moved = like(p.x, slope > 0)
        return State(
            delta=where(moved, path(np.arange(p.size), slope) - p.x, s.delta),
            slope=where(moved, like(p.x, slope), s.slope / 4),
        )


@dataclass(frozen=True)
class CGBAH(Circle):
    """CGBA for boundaries that curve much, as they do around a target class.

    The first place beyond the boundary is sought from the far end of the circle, by
    halving the angle, and then on the straight line from the original through it. So
    the search ends in the class also where the circle crosses it only shortly.

    Args:
        steps: How many; each costs the probes and 15 to 25 questions for the search.
        tries: How many starting points of each kind to try (see `starting_point`).
        probes: In the first step; the square root of the step's number times as many
            later.
        frequencies: The share of each side's that probes are made of.
        size: Of the probes, as a share of the distance.
        tolerance: Of the final bisection, as a share of the distance.

    Source:
        Reza, Rahmati, Wu, Dai: CGBA: Curvature-aware Geometric Black-box Attack,
        ICCV 2023.

    Differences from the paper:
        - The size of probes is a share of the distance, not fixed.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.CGBAH(steps=10), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    steps: int = 100
    tries: int = 20
    probes: int = 30
    frequencies: float = 0.25
    size: float = 0.01
    tolerance: float = 2e-4

    def step(self, p: Problem, s: State, t: int) -> State:
        path = self.circle(p, s, t)
        point, slope = p.x + s.delta, to_numpy(full(p.x, 2.0))
        waiting = unspent(p)
        for _ in range(_ANGLES):
            if not bool(waiting.any()):
                break
            place = path(np.arange(p.size), slope)
            passed = p.decide(place, waiting)
            point = where(passed, place, point)
            waiting = waiting.logical_and(passed.logical_not())
            waiting = waiting.logical_and(unspent(p))
            slope = slope / 2
        delta = bisect(p, point, tolerance=self.tolerance) - p.x
        return State(delta, s.slope)
