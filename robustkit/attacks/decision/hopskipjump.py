"""HopSkipJump, and with probes from a subspace: QEBA."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.probing import (
    estimate_normal,
    noise,
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
    expand,
    flatten,
    full,
    magnitude,
    where,
)

__all__ = ["HopSkipJump", "qeba"]

# Half of the step each time; then there is nothing left of it.
_HALVINGS = 30


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        point: (n, ...) adversarial, at the boundary but for the tolerance.
    """

    point: Batch


@dataclass(frozen=True)
class HopSkipJump(Attack[State]):
    """Estimate the boundary's normal, step along it, and bisect back to the boundary.

    Args:
        steps: How many; each costs the probes, 1 question or more for the step, and
            the bisection.
        tries: How many starting points of each kind to try (see `starting_point`).
        probes: In the first step; the square root of the step's number times as many
            later.
        most: Probes in one step.
        subspace: Where the probes are from: "all", "frequencies" (low ones) or
            "resized" (smaller images made larger).
        share: Of each side of the image, for the subspace's size.

    Source:
        Chen, Jordan, Wainwright: HopSkipJumpAttack: A Query-Efficient Decision-Based
        Attack, S&P 2020. With a subspace: Li, Xu, Zhang, Yang, Li: QEBA:
        Query-Efficient Boundary-Based Blackbox Attack, CVPR 2020.

    Differences from the paper:
        - Starts are the nearest of several (`starting_point`).
        - For Linf the tolerance of the bisection and the size of the probes are the
          same shares of the distance as for L2 (of the perturbation's L2 length), so
          that nothing depends on the scale of the inputs. Both are small also where
          there are few features.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.HopSkipJump(steps=20), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    cost: ClassVar[str] = "100 forwards and more"
    source: ClassVar[str] = "Chen, Jordan, Wainwright, S&P 2020"
    positive: ClassVar[tuple[str, ...]] = ("probes", "most")

    steps: int = 40
    tries: int = 20
    probes: int = 100
    most: int = 10_000
    subspace: str = "all"
    share: float = 0.25

    def init(self, p: Problem) -> State:
        start, _ = starting_point(p, p.rng(-1), self.tries)
        return State(bisect(p, start, p.ledger.found, _tolerance(p)))

    def step(self, p: Problem, s: State, t: int) -> State:
        distance, length = p.norm(s.point - p.x), magnitude(s.point - p.x, 2)
        features = flatten(p.x).shape[1]
        # The first boundary point may be far off, so its normal matters on a large
        # scale only.
        size = (
            length * min(1 / features, 1e-2) if t else full(p.x, 0.1 * p.bounds.width)
        )
        normal = estimate_normal(
            p,
            s.point,
            size,
            np.full(p.size, self._count(t)),
            p.rng(t),
            noise(
                subspace_of(p, self.subspace, self.share),
                uniform=p.norm.name == "linf",
            ),
        )
        direction = normal.direction
        if p.norm.name == "linf":
            direction = direction.sign()
        point = _leap(p, s.point, direction, distance / math.sqrt(t + 1))
        return State(bisect(p, point, tolerance=_tolerance(p)))

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        return dataclasses.replace(self, steps=steps_for(budget, self._count))

    def check(self, p: Problem) -> None:
        super().check(p)
        subspace_of(p, self.subspace, self.share)

    def _count(self, t: int) -> int:
        """How many probes a step has."""
        return int(min(self.probes * math.sqrt(t + 1), self.most))


def qeba(subspace: str = "frequencies", share: float = 0.25) -> HopSkipJump:
    """HopSkipJump whose probes are smooth.

    Args:
        subspace: "frequencies" or "resized".
        share: Of each side of the image, for the subspace's size.

    >>> qeba("resized").share
    0.25
    """
    return HopSkipJump(subspace=subspace, share=share)


def _tolerance(p: Problem) -> float:
    # So fine that the probes, as small as they are, lie on both sides.
    return float(min(flatten(p.x).shape[1] ** -1.5, 1e-3))


def _leap(p: Problem, start: Batch, direction: Batch, stepsize: PerSample) -> Batch:
    """The first adversarial of `start` and ever shorter steps; itself if none is."""
    point, waiting = start, unspent(p)
    for _ in range(_HALVINGS):
        if not bool(waiting.any()):
            break
        further = p.bounds.clip(start + direction * expand(stepsize, start))
        passed = p.decide(further, waiting)
        point = where(passed, further, point)
        waiting = waiting.logical_and(passed.logical_not())
        waiting = waiting.logical_and(unspent(p))
        stepsize = stepsize / 2
    return point
