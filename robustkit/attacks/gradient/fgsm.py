"""The fast gradient method: one gradient, and how far to follow it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    full,
    maximum,
    minimum,
    where,
)

__all__ = ["FGSM"]

# Radii nearer to each other than this, as a share, are taken for one.
_CLOSE = 1e-4


@dataclass(frozen=True)
class State:
    """Where the search along the gradient stands.

    Attributes:
        gradient: (n, ...) of the loss at the original.
        radius: (n,) to be tried next, in norm units.
        growth: (n,) of the radius until the first success, as a factor.
        lower: (n,) the last radius that failed, below `upper`.
        upper: (n,) the smallest radius that succeeded; infinite before the first.
    """

    gradient: Batch
    radius: PerSample
    growth: PerSample
    lower: PerSample
    upper: PerSample


@dataclass(frozen=True)
class FGSM(Attack[State]):
    """Follow the gradient at the original, and search for the nearest success.

    The radius grows from the estimated distance of the boundary (with other losses than
    the margin, from a hundredth of the largest there is), so slowly that half of the
    steps would reach the end of the box, until the point is adversarial; then it is
    bisected. A weak attack by design, useful as a yardstick: a
    model that stands it and falls to others is likely to mask its gradients. For the
    step of one given size, say `PGD(epsilon, steps=1, stop=False)`.

    Args:
        steps: How many radii to try; 1 forward pass each.
        loss: Whose gradient; a name of `robustkit.engine.losses`.

    Source:
        Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples,
        ICLR 2015, section 4. The L2 form is also called the fast gradient method.

    Differences from the paper:
        The radius is searched for. Steps are those of `Norm.stride`, projected on ball
        and box together: along the sign for Linf, along the gradient for L2 and L1.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(FGSM(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 3)
    0.2
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward; 1 forward + 1 backward at the start"
    source: ClassVar[str] = "Goodfellow et al., ICLR 2015, section 4"
    aside: ClassVar[int] = 1
    baseline: ClassVar[str | None] = "single step"

    steps: int = 20
    loss: str = "margin"

    def init(self, p: Problem) -> State:
        a = p.gradient(p.x, self.loss)
        radius = p.largest / 100
        if self.loss == "margin":
            guess = 1.05 * p.norm.to_boundary(a.margin, a.gradient)
            # Not zero where the margin is, since multiples of it would be.
            radius = minimum(maximum(guess, 1e-5 * p.largest), p.largest)
        growth = (p.largest / radius) ** (2 / self.steps)
        lower, upper = full(p.x, 0.0), full(p.x, math.inf)
        return State(a.gradient, radius, growth, lower, upper)

    def step(self, p: Problem, s: State, t: int) -> State:
        stride = p.norm.stride(s.gradient, s.radius, 1.0, p.x, p.bounds)
        a = p.score(p.x + p.norm.project_box(-stride, s.radius, p.low, p.high))
        upper = where(a.adversarial, s.radius, s.upper)
        lower = where(a.adversarial, s.lower, s.radius)
        wider = minimum(s.growth * s.radius, p.largest)
        radius = where(upper < math.inf, (lower + upper) / 2, wider)
        return State(s.gradient, radius, s.growth, lower, upper)

    def finished(self, p: Problem, s: State) -> Mask:
        hopeless = s.lower >= (1 - _CLOSE) * p.largest
        return hopeless.logical_or(s.upper * (1 - _CLOSE) <= s.lower)
