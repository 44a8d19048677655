"""Blending with other samples."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import approach, ranked
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    full,
    like,
    take,
    to_numpy,
)

__all__ = ["Blend"]


@dataclass(frozen=True)
class State:
    """Whom to blend with.

    Attributes:
        order: (n, m) places in the pool, as `ranked`.
        tried: (n,) how many of them were.
    """

    order: Batch
    tried: PerSample


@dataclass(frozen=True)
class Blend(Attack[State]):
    """Walk towards other samples, the nearest first, as far as the decision boundary.

    The samples come from the problem's pool; they may be of any class. Where classes
    are known, those of a class that meets the criterion come before all others.

    Args:
        steps: How many samples to try at most; most cost 1 question.

    Raises:
        BadInput: There is no pool.

    Source:
        Folklore.

    Differences from the paper:
        There is no paper. Each blend is followed down to the boundary by bisection.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> pool = torch.tensor([[0.9, 0.3], [0.4, 0.8]])
    >>> result = rk.run(rk.Blend(), model, x, y, norm="l2", pool=pool)
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = Walk.norms
    cost: ClassVar[str] = Walk.cost
    source: ClassVar[str] = "folklore"

    steps: int = 100

    def check(self, p: Problem) -> None:
        super().check(p)
        _pool(p)

    def init(self, p: Problem) -> State:
        order = ranked(p, _pool(p))[:, : self.steps]
        return State(like(p.x, order), full(p.x, 0.0))

    def step(self, p: Problem, s: State, t: int) -> State:
        if t >= s.order.shape[1]:
            # In a cascade nobody leaves before all steps are over.
            return s
        approach(p, take(_pool(p), to_numpy(s.order)[:, t]))
        return State(s.order, s.tried + 1)

    def finished(self, p: Problem, s: State) -> Mask:
        return s.tried >= s.order.shape[1]


def _pool(p: Problem) -> Batch:
    if p.pool is None or not p.pool.shape[0]:
        raise BadInput(
            "Blend walks towards other samples, but the problem has none; give some "
            "inputs as `pool`, or choose a noise attack"
        )
    return p.pool
