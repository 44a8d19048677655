"""Towards the negative of the input."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.problem import Problem
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch

__all__ = ["Inversion"]


@dataclass(frozen=True)
class Inversion(Walk):
    """Walk towards the inverted input, as far as the decision boundary.

    It says at little cost whether a model reads shapes or brightness: a negative shows
    the same shapes.

    Args:
        steps: 1; a second walk to the same point finds nothing new.

    Source:
        Hosseini, Xiao, Jaiswal, Poovendran: On the Limitation of Convolutional Neural
        Networks in Recognizing Negative Images, ICMLA 2017. As an attack: Rauber,
        Brendel, Bethge: Foolbox, ICML workshop 2017 (inversion).

    Differences from the paper:
        The full negative is followed down to the boundary, by the projections of the
        norm (for L2 a straight line) and bisection.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Inversion(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.2
    """

    source: ClassVar[str] = "Hosseini et al., ICMLA 2017"

    steps: int = 1

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        return p.bounds.lower + p.bounds.upper - p.x

    def within(self, budget: int) -> "Inversion":
        """One step, whatever the budget: the bisection in it stops there."""
        return self
