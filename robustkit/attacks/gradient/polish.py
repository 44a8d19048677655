"""The last thousandth: from an adversarial to the nearest one of its neighbourhood."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    full,
    minimum,
    total,
    where,
)

__all__ = ["Polish"]

# Beyond the linearised boundary, as a share of the margin it spans: a tie is none;
# and how often it grows by fours at most, until an adversarial is known.
_OVERSHOOT, _TIMES = 1e-6, 7


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        base: (n, ...) the perturbation to be improved.
        aim: (n, ...) the smallest one if the model were linear around `base`.
        share: (n,) how far to go from one to the other.
    """

    base: Batch
    aim: Batch
    share: PerSample


@dataclass(frozen=True)
class Polish(Attack[State]):
    """Replace the model by its tangent, solve that exactly, and repeat.

    Starts from the best adversarial known (from the original where there is none). The
    smallest perturbation inside the box that crosses the tangent has a closed form in
    every norm (`Norm.project_halfspace`); the next question lies on the way there, and
    half as far away after each that was no improvement. Where the model is linear it is
    exact after two questions.

    Args:
        steps: How many; 1 forward and 1 backward pass each.

    Source:
        Sequential linear programming; the steps without a start are those of
        Moosavi-Dezfooli, Fawzi, Frossard: DeepFool, CVPR 2016, with the box.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.polish import Polish
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Polish(steps=4), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 4)
    0.2828
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "sequential linear programming"

    steps: int = 20

    def init(self, p: Problem) -> State:
        base = p.ledger.best - p.x
        return State(base, base, full(p.x, 1.0))

    def step(self, p: Problem, s: State, t: int) -> State:
        found, best = p.ledger.found, p.ledger.distance
        a = p.gradient(p.place(s.base + expand(s.share, s.aim) * (s.aim - s.base)))
        taken = total(a.gradient * a.delta)
        # Where rounding was in the way, the same question would be no better.
        further = full(p.x, _OVERSHOOT * 4.0 ** min(t, _TIMES))
        overshoot = where(found.logical_or(a.adversarial), _OVERSHOOT, further)
        beyond = overshoot * (a.margin - taken).abs()
        aim = p.norm.project_halfspace(
            a.gradient, a.margin - taken + beyond, p.low, p.high
        )
        better = a.adversarial.logical_and(a.distance <= best)
        better = better.logical_or(found.logical_not())
        return State(
            base=where(better, a.delta, s.base),
            aim=where(better, aim, s.aim),
            share=where(better, minimum(1.5 * s.share, 1.0), s.share / 2),
        )
