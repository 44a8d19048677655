"""Decoupled direction and norm."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.fused import fused
from robustkit.numerics.norms import Norm
from robustkit.numerics.schedules import cosine
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    full,
    maximum,
    minimum,
    minus,
    plus,
    times,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["DDN"]


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        radius: (n,) of the sphere that delta is put on, in norm units.
    """

    delta: Batch
    radius: PerSample


@dataclass(frozen=True)
class DDN(Attack[State]):
    """Turn the perturbation by the gradient; choose its length by the answers alone.

    Each step moves down the loss and puts the result on a sphere around the original.
    The sphere shrinks by a fixed share while the point is adversarial and grows by it
    while it is not, so no weight between distance and loss has to be found.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: First step, as a share of the radius.
        gamma: First change of the radius, as a share of it.
        loss: What to descend; a name of `robustkit.engine.losses`.

    Source:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger: Decoupling Direction and
        Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses, CVPR
        2019, algorithm 1.

    Differences from the paper:
        - The first radius is the estimated distance of the boundary plus 5 %, not 1,
          and steps are a share of the radius, so nothing depends on the scale of the
          inputs.
        - The radius changes less and less (by cosine to a fiftieth), in place of the
          same 5 % to the end: it closes in on the boundary.
        - The margin is descended by default. On real networks this gave smaller
          distances than the cross-entropy of the paper.
        - Where the gradient vanishes, the step goes along random noise, which the paper
          does not mention and its authors' code does.
        - Features that stand at a bound and are pushed outwards get no share of the
          step (`Norm.stride`), and results are not rounded to whole grey levels.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.ddn import DDN
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(DDN(steps=50), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Rony et al., CVPR 2019, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("stepsize",)

    steps: int = 100
    stepsize: float = 1.0
    gamma: float = 0.1
    loss: str = "margin"

    def init(self, p: Problem) -> State:
        return State(delta=p.x.zeros_like(), radius=full(p.x, 0.0))

    def step(self, p: Problem, s: State, t: int) -> State:
        stepsize = cosine(t / self.steps, self.stepsize, self.stepsize / 100)
        gamma = cosine(t / self.steps, self.gamma, self.gamma / 50)
        a = p.gradient(p.place(s.delta), self.loss)
        flat = p.norm.dual(a.gradient) == 0
        if t == 0:
            reach = 1.05 * p.norm.to_boundary(a.margin, a.gradient)
            # Nothing is known of a flat place; the radius of the paper is as good.
            reach = where(flat, p.bounds.width, reach)
            # Not zero where the margin is, since shares of it would be.
            radius = maximum(reach, 1e-5 * p.largest)
        else:
            radius = s.radius * where(a.adversarial, full(p.x, 1 - gamma), 1 + gamma)
        radius = minimum(radius, p.largest)
        gradient = a.gradient
        if bool(flat.any()):
            gradient = where(flat, p.rng(t).normal(p.x.shape[1:]), gradient)
        moved = _moved(p.norm, p.bounds, p.x, a.point, gradient, radius, stepsize)
        return State(moved, radius)


@fused
def _moved(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    point: Batch,
    gradient: Batch,
    radius: PerSample,
    share: float,
) -> Batch:
    """The perturbation down the gradient, on the sphere, then clipped to the bounds."""
    stride = norm.stride(gradient, radius, share, point, bounds)
    delta = minus(point - x, stride, reuse=True)
    size = nonzero(norm(delta))
    delta = times(delta, expand(radius / size, delta), reuse=True)
    return bounds.clip(plus(delta, x, reuse=True), reuse=True) - x
