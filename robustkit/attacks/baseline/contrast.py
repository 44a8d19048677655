"""Less contrast, or more."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.problem import Problem
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch, expand, flatten, where

__all__ = ["Contrast"]


@dataclass(frozen=True)
class Contrast(Walk):
    """Fade the input to a grey, or drive it to black and white.

    The first step fades to the input's own mean, the second drives every feature away
    from it to the nearest bound, and each further one fades to a random grey.

    Args:
        steps: How many; most cost 1 question.

    Source:
        Rauber, Brendel, Bethge: Foolbox, ICML workshop 2017 (contrast reduction).

    Differences from the paper:
        More than one grey, and more contrast besides less; bisection.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> _ = model.bias.data.copy_(torch.tensor([0.0, 0.5]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.Contrast(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.3
    """

    source: ClassVar[str] = "Rauber, Brendel, Bethge, 2017"

    steps: int = 20

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        mean = expand(flatten(p.x).mean(axis=1), p.x)
        if t == 0:
            return p.x.zeros_like() + mean
        if t == 1:
            white = p.x.zeros_like() + p.bounds.upper
            return where(p.x > mean, white, p.bounds.lower)
        grey = rng.uniform((), p.bounds.lower, p.bounds.upper)
        return p.x.zeros_like() + expand(grey, p.x)
