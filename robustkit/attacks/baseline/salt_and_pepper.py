"""Salt and pepper: random features at the bounds."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.problem import Problem
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch, expand, flatten, where

__all__ = ["SaltAndPepper"]


@dataclass(frozen=True)
class SaltAndPepper(Walk):
    """Set random features to the lowest or the highest value.

    Each step draws which features, and how many: every order of magnitude is as likely
    as any other, since few features may do and all may be needed.

    Args:
        steps: How many noises to try; most cost 1 question.

    Source:
        Folklore; as an attack in Rauber, Brendel, Bethge: Foolbox, ICML workshop 2017.

    Differences from the paper:
        Each draw is followed down to the boundary by bisection; features are set one
        by one, not all channels of a position at once.

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

    steps: int = 100

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        shape = p.x.shape[1:]
        features = flatten(p.x).shape[1]
        share = (rng.uniform(()) * -math.log(features)).exp()
        changed = rng.uniform(shape) < expand(share, p.x)
        salt = rng.uniform(shape) < 0.5
        extreme = where(salt, p.x.zeros_like() + p.bounds.upper, p.bounds.lower)
        return where(changed, extreme, p.x)
