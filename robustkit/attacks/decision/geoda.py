"""GeoDA: the boundary is taken for a plane, and its normal found by many probes."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.probing import (
    Path,
    cross,
    estimate_normal,
    noise,
    steps_for,
    subspace_of,
)
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import bisect, starting_point
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    full,
    like,
    magnitude,
    take,
    to_numpy,
    total,
    where,
)

__all__ = ["GeoDA"]

# Half as far again each time; then the estimated normal is of no use.
_LONGER = 10


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        delta: (n, ...) adversarial, at the boundary but for the tolerance.
    """

    delta: Batch


@dataclass(frozen=True)
class GeoDA(Attack[State]):
    """From the original straight along the boundary's normal, as the norm has it.

    If the boundary were a plane with the estimated normal, its nearest point would be
    known but for the distance, which is bisected. There the normal is estimated anew,
    with more probes.

    Args:
        steps: How many; each costs the probes and about 12 questions on the way, or a
            few where that is no nearer.
        tries: How many starting points of each kind to try (see `starting_point`).
        probes: In the first step.
        growth: Of the number of probes from step to step.
        frequencies: The share of each side's that probes are made of.
        size: Of the probes, as a share of the distance.
        tolerance: Of the distance, as a share of it.

    Source:
        Rahmati, Moosavi-Dezfooli, Frossard, Dai: GeoDA: A Geometric Framework for
        Black-box Adversarial Attacks, CVPR 2020.

    Differences from the paper:
        - The next point is the smallest perturbation inside the bounds that reaches
          the plane, in any of the norms (for L1 the steepest features one after the
          other), not a multiple of one direction that is clipped.
        - The number of probes grows from step to step at a given rate, so that no
          budget need be known beforehand.
        - A search along a bad normal is not followed: the step begins at the nearest
          adversarial known.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.GeoDA(steps=5), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "50 forwards and more"
    source: ClassVar[str] = "Rahmati, Moosavi-Dezfooli, Frossard, Dai, CVPR 2020"
    positive: ClassVar[tuple[str, ...]] = ("probes", "size")

    steps: int = 12
    tries: int = 20
    probes: int = 40
    growth: float = 1.6
    frequencies: float = 0.25
    size: float = 0.01
    tolerance: float = 1e-3

    def init(self, p: Problem) -> State:
        start, _ = starting_point(p, p.rng(-1), self.tries)
        return State(bisect(p, start, p.ledger.found, self.tolerance) - p.x)

    def step(self, p: Problem, s: State, t: int) -> State:
        normal = estimate_normal(
            p,
            p.x + s.delta,
            self.size * magnitude(s.delta, 2),
            np.full(p.size, self._count(t)),
            p.rng(t),
            noise(subspace_of(p, "frequencies", self.frequencies)),
        ).direction
        # By which a plane through delta is reached.
        gain = total(normal * s.delta).abs()

        def path(rows: Array, share: Array) -> Batch:
            some, box = take(normal, rows), (take(p.low, rows), take(p.high, rows))
            moved = p.norm.project_halfspace(
                -some, like(p.x, share) * take(gain, rows), *box
            )
            return p.clip(take(p.x, rows) + moved)

        share = _crossing(p, path, p.norm(s.delta), self.tolerance)
        moved = path(np.arange(p.size), share) - p.x
        return State(where(like(p.x, share > 0), moved, s.delta))

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        return dataclasses.replace(self, steps=steps_for(budget, self._count))

    def check(self, p: Problem) -> None:
        super().check(p)
        subspace_of(p, "frequencies", self.frequencies)

    def _count(self, t: int) -> int:
        """How many probes a step has."""
        return int(min(self.probes * self.growth**t, 1e6))


def _crossing(p: Problem, path: Path, farthest: PerSample, tolerance: float) -> Array:
    """The least share (n,) found adversarial; zero if none is nearer."""
    share = to_numpy(full(p.x, 1.0)).copy()
    outside, found = np.zeros_like(share), np.zeros(p.size, dtype=bool)
    longest, near = to_numpy(farthest), np.ones(p.size, dtype=bool)
    for _ in range(_LONGER):
        rows = np.flatnonzero(near & ~found & ~p.ledger.spent())
        if len(rows) == 0:
            break
        point = path(rows, share[rows])
        # What is no nearer is not asked about, nor what lies beyond it.
        nearer = to_numpy(p.norm(point - take(p.x, rows))) < longest[rows]
        near[rows] = nearer
        rows, point = rows[nearer], take(point, np.flatnonzero(nearer))
        found[rows] = to_numpy(p.decide(point, rows=rows))
        missed = rows[~found[rows]]
        outside[missed] = share[missed]
        share[missed] *= 1.5
    share = cross(p, path, share, outside, found, tolerance)
    return np.where(found, share, 0)
