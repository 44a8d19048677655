"""SuperDeepFool."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.planes import Linearised, cross
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import Batch, Mask, full, total, where

__all__ = ["SuperDeepFool"]


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        turned: (n, ...) the last perturbation that an adversarial was turned to; zero
            before the first.
        converged: (n,) whether turning an adversarial gains nothing any more.
    """

    delta: Batch
    turned: Batch
    converged: Mask


@dataclass(frozen=True)
class SuperDeepFool(Attack[State]):
    """Turn what DeepFool finds until it stands upright on the boundary.

    The nearest point of a smooth boundary is the one whose perturbation is along the
    boundary's normal. From every adversarial on the way, the walk goes on at the
    nearest point of the plane through it (its tangent, that is); from a point that is
    not adversarial, by a step of DeepFool.

    Args:
        steps: At most; 1 forward pass and 1 backward pass per way each.
        ways: How many of the likeliest ways to linearise, classes for instance.
        overshoot: How far beyond the tangent's boundary to step, as a share.
        tolerance: Stop where turning an adversarial makes it smaller by less than this
            share; below zero, never.

    Source:
        Abdollahpour, Rahmati, Moosavi-Dezfooli: SuperDeepFool: a new fast and accurate
        minimal adversarial attack, NeurIPS 2024, algorithm 2.

    Differences from the paper:
        - The walk does not end with the first turned point that is adversarial: it is
          turned again, until that gains nothing. The ledger keeps the best, so no line
          search follows.
        - Each turned point is the mean of the new and the last one, since at a kink the
          normals of both sides take turns: on real networks a third of the passes then
          gave smaller distances than the paper's way.
        - The nearest point of the plane is that within the bounds, in the problem's
          norm (`Norm.project_halfspace`), which makes it an attack for Linf, too.
        - A few of the likeliest ways, not all classes, are linearised.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.super_deepfool import SuperDeepFool
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(SuperDeepFool(overshoot=0.001), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward per way; 1 forward at the end"
    source: ClassVar[str] = "Abdollahpour et al., NeurIPS 2024, algorithm 2"
    aside: ClassVar[int] = 1
    signed: ClassVar[tuple[str, ...]] = ("tolerance",)

    steps: int = 50
    ways: int = 3
    overshoot: float = 0.01
    tolerance: float = 1e-4

    def init(self, p: Problem) -> State:
        nothing = p.x.zeros_like()
        return State(nothing, nothing, converged=full(p.x, 0.0) > 0)

    def step(self, p: Problem, s: State, t: int) -> State:
        here = Linearised(p, p.x + s.delta)
        plane = here.nearest(self.ways)
        ahead = cross(p, here, plane, self.overshoot)
        height = -total(plane.gradient * here.delta)
        turned = p.norm.project_halfspace(plane.gradient, height, p.low, p.high)
        again = p.norm(s.turned) > 0
        turned = where(again, (turned + s.turned) / 2, turned)
        least = (1 - self.tolerance) * p.norm(here.delta)
        converged = here.adversarial.logical_and(p.norm(turned) >= least)
        return State(
            where(here.adversarial, turned, ahead),
            where(here.adversarial, turned, s.turned),
            converged,
        )

    def finished(self, p: Problem, s: State) -> Mask:
        return s.converged

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)
