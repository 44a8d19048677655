"""Sign-OPT: descent on the distance to the boundary along a direction."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.probing import (
    across,
    estimate_normal,
    noise,
    steps_for,
    subspace_of,
    unit,
)
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import bisect, starting_point, unspent
from robustkit.models.base import Access
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    expand,
    full,
    magnitude,
    take,
    where,
)

__all__ = ["SignOPT"]

# Of the line search: no factor between 2 ** 8 and 4 ** -8 is left out.
_LENGTHS = 8


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) the boundary along the present direction.
        stepsize: (n,) of the next line search, as a share of the distance.
        size: (n,) of the probes, as a share of the distance.
    """

    delta: Batch
    stepsize: PerSample
    size: PerSample


@dataclass(frozen=True)
class SignOPT(Attack[State]):
    """Turn the direction in which the boundary is sought to where it is nearer.

    Whether the boundary is nearer along another direction is one question: is the point
    at the present distance along it adversarial? The sum of random turns, each with the
    sign of its answer, is the direction of descent for a line search.

    Args:
        steps: How many; each costs the probes and 10 to 30 questions of the line
            search.
        tries: How many starting points of each kind to try (see `starting_point`).
        probes: In each step.
        stepsize: Of the first line search, as a share of the distance.
        size: Of the first probes, as a share of the distance.
        tolerance: Of distances, as a share of them.

    Source:
        Cheng, Singh, Chen, Chen, Liu, Hsieh: Sign-OPT: A Query-Efficient Hard-Label
        Adversarial Attack, ICLR 2020.

    Differences from the paper:
        - Answers count by how far they lie from their mean, and the descent direction
          is brought to length 1.
        - A distance is bisected only where one question has shown it to be smaller.
        - Starts are the nearest of several (`starting_point`).

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.SignOPT(steps=10), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "210 forwards and more"
    source: ClassVar[str] = "Cheng, Singh, Chen, Chen, Liu, Hsieh, ICLR 2020"
    positive: ClassVar[tuple[str, ...]] = ("probes", "stepsize", "size")

    steps: int = 50
    tries: int = 20
    probes: int = 200
    stepsize: float = 0.2
    size: float = 0.01
    tolerance: float = 1e-4

    def init(self, p: Problem) -> State:
        start, _ = starting_point(p, p.rng(-1), self.tries)
        delta = bisect(p, start, p.ledger.found, self.tolerance) - p.x
        return State(delta, full(p.x, self.stepsize), full(p.x, self.size))

    def step(self, p: Problem, s: State, t: int) -> State:
        white, along = noise(subspace_of(p, "all", 1.0)), unit(s.delta)

        def draw(rng: Rng, number: int, rows: Array) -> Tensor:
            return across(white(rng, number, rows), take(along, rows))

        distance = magnitude(s.delta, 2)
        descent = estimate_normal(
            p,
            p.x + s.delta,
            distance * s.size,
            np.full(p.size, self.probes),
            p.rng(t),
            draw,
        ).direction
        delta, stepsize = self._searched(p, s, descent)
        moved = magnitude(delta, 2) < distance
        return State(
            delta,
            where(moved, stepsize, full(p.x, self.stepsize)),
            where(moved, s.size, s.size / 2),
        )

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        steps = steps_for(budget, lambda _: self.probes)
        return dataclasses.replace(self, steps=steps)

    def _searched(
        self, p: Problem, s: State, descent: Batch
    ) -> tuple[Batch, PerSample]:
        """Ever longer steps while they help, or ever shorter ones until one does."""
        delta, stepsize, best = s.delta, s.stepsize, s.stepsize
        improved = stepsize < 0
        active = unspent(p)
        start = unit(s.delta)
        for _ in range(_LENGTHS):
            if not bool(active.any()):
                break
            direction = unit(start + descent * expand(stepsize, descent))
            shorter = magnitude(delta, 2) * (1 - self.tolerance)
            point = p.bounds.clip(p.x + direction * expand(shorter, direction))
            passed = p.decide(point, active)
            nearer = bisect(p, point, passed, self.tolerance)
            delta = where(passed, nearer - p.x, delta)
            best = where(passed, stepsize, best)
            # Shorter steps end with the first that helps, longer ones with the last.
            again = passed.logical_and(stepsize >= s.stepsize).logical_or(
                passed.logical_or(improved).logical_not()
            )
            improved = improved.logical_or(passed)
            active = active.logical_and(again).logical_and(unspent(p))
            stepsize = where(passed, stepsize * 2, stepsize / 4)
        return delta, best
