"""Salt and pepper: random features at the bounds."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.problem import Problem
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch, PerSample, expand, flatten, minimum, where
from robustkit.numerics.thresholds import nonzero

__all__ = ["SaltAndPepper"]


@dataclass(frozen=True)
class SaltAndPepper(Walk):
    """Set random features to the lowest or the highest value.

    Each step draws which features, and how many. In every other step each order of
    magnitude is as likely as any other, since few features may do and all may be
    needed; in those between, about as many as come a little nearer than the best, or
    rather many until there is one.

    Args:
        steps: How many noises to try; most cost 1 question.

    Source:
        Folklore; as an attack in Rauber, Brendel, Bethge: Foolbox, ICML workshop 2017.

    Differences from the paper:
        Each draw is followed down to the boundary by bisection. Every other two draws
        set all channels of a position alike.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(3, 2).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> _ = model.bias.data.copy_(torch.tensor([0.0, 0.6]))
    >>> x, y = torch.tensor([[0.9, 0.1, 0.1]]), torch.tensor([0])
    >>> result = rk.run(rk.SaltAndPepper(steps=100), model, x, y, norm="l0")
    >>> float(result.distance[0])
    1.0
    """

    source: ClassVar[str] = "folklore; Rauber, Brendel, Bethge, 2017"
    baseline: ClassVar[str | None] = "noise"

    steps: int = 100

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        shape = p.x.shape[1:]
        if len(shape) > 1 and t % 4 < 2:
            # All channels of a position alike.
            shape = (1, *shape[1:])
        black = p.x.zeros_like() + p.bounds.lower
        extreme = where(rng.uniform(shape) < 0.5, p.bounds.upper, black)
        features = flatten(p.x).shape[1]
        share = (rng.uniform(()) * -math.log(features)).exp()
        if t % 2:
            share = where(p.ledger.found, self._nearer(p, rng, extreme), share.sqrt())
        spots = p.x.zeros_like() + rng.uniform(shape)
        return where(spots < expand(share, p.x), extreme, p.x)

    def _nearer(self, p: Problem, rng: Rng, extreme: Batch) -> PerSample:
        """The share (n,) of features that makes about the best distance."""
        if p.norm.name == "linf":
            # Any number does.
            return rng.uniform(())
        reach = minimum(p.ledger.distance / nonzero(p.norm(extreme - p.x)), 1.0)
        if p.norm.name == "l2":
            reach = reach.square()
        return rng.uniform((), 0.5, 1.1) * reach
