"""Trust region attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.planes import Linearised, Plane, cross
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    Tensor,
    maximum,
    minimum,
    total,
    where,
)

__all__ = ["TrustRegion"]


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        radius: (n,) the longest step that the linear model is trusted for, in norm
            units.
        way: (n,) integers, which way of the criterion is gone.
        margin: (n,) of that way before the last step, in units of the logits; zero,
            from which nothing falls, where it was infinite.
        promise: (n,) by how much the linear model had it fall in the last step.
    """

    delta: Batch
    radius: PerSample
    way: Tensor
    margin: PerSample
    promise: PerSample


@dataclass(frozen=True)
class TrustRegion(Attack[State]):
    """Step to the tangent's boundary, but no farther than the tangent is to be trusted.

    The way that looks nearest at the original is gone to its end. Where the margin
    falls as the linear model promised, steps grow; where it does not, they shrink. It
    needs few passes, and ends with the first adversarial.

    Args:
        steps: At most; 1 forward and 1 backward pass each.
        ways: How many of the likeliest ways to compare at the original.
        radius: First length of a step, as a share of the estimated distance of the
            boundary from the original.
        overshoot: How far beyond the tangent's boundary to step, as a share.

    Source:
        Yao, Gholami, Xu, Keutzer, Mahoney: Trust Region Based Adversarial Attack on
        Neural Networks, CVPR 2019, algorithm 1 (adaptive).

    Differences from the paper:
        - The radius and its limits are shares of the estimated distance, not lengths.
        - A step is judged by the answer to the next one's question, which costs no pass
          of its own, and by the fall of the margin, not of the label's score.
        - Every step overshoots a little, and points stay within the bounds; in the
          second half of the steps, features that stand at a bound and are pushed
          outwards get no share (`Norm.stride`).

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.trust_region import TrustRegion
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(TrustRegion(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.2
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    cost: ClassVar[str] = (
        "1 forward + 1 backward; 1 forward + 1 backward per way at the start, "
        "1 forward at the end"
    )
    source: ClassVar[str] = "Yao et al., CVPR 2019, algorithm 1"
    aside: ClassVar[int] = 2

    steps: int = 100
    ways: int = 9
    radius: float = 0.05
    overshoot: float = 0.02

    def init(self, p: Problem) -> State:
        here = Linearised(p, p.x)
        plane = here.nearest(self.ways)
        reach = p.norm.to_boundary(plane.margin, plane.gradient)
        radius = maximum(self.radius * minimum(reach, p.largest), 1e-5 * p.largest)
        return self._next(p, here, plane, radius, late=False)

    def step(self, p: Problem, s: State, t: int) -> State:
        here = Linearised(p, p.x + s.delta)
        plane = here.plane(s.way)
        fall = s.margin - plane.margin
        radius = where(fall > 0.9 * s.promise, 1.2 * s.radius, s.radius)
        radius = where(fall < 0.5 * s.promise, s.radius / 1.2, radius)
        radius = maximum(minimum(radius, p.largest), 1e-5 * p.largest)
        late = 2 * t >= self.steps
        return self._next(p, here, plane, radius, late=late)

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)

    def _next(
        self,
        p: Problem,
        here: Linearised,
        plane: Plane,
        radius: PerSample,
        *,
        late: bool,
    ) -> State:
        delta = cross(p, here, plane, self.overshoot, radius, late=late)
        promise = -total(plane.gradient * (delta - here.delta))
        margin = where(plane.margin < math.inf, plane.margin, 0.0)
        return State(delta, radius, plane.way, margin, promise)
