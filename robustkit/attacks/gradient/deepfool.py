"""DeepFool."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.planes import Linearised, cross
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import Batch, Mask

__all__ = ["DeepFool"]


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
    """

    delta: Batch


@dataclass(frozen=True)
class DeepFool(Attack[State]):
    """Step across the nearest boundary of the linearised model until one is crossed.

    The model is replaced by its tangent; there the nearest boundary and the way to it
    are known. A few such steps find an adversarial that is near, though not nearest:
    nothing draws the walk back to the original.

    Args:
        steps: At most; 1 forward pass and 1 backward pass per way each.
        ways: How many of the likeliest ways to linearise, classes for instance.
        overshoot: How far beyond the tangent's boundary to step, as a share.

    Source:
        Moosavi-Dezfooli, Fawzi, Frossard: DeepFool: a simple and accurate method to
        fool deep neural networks, CVPR 2016, algorithm 2 and section 3.3.

    Differences from the paper:
        - Each step overshoots by itself, not all of them together at the end, and by a
          ten-thousandth of the box besides (the authors' code does that, too), so that
          a tie of two classes, which is no success, is left behind.
        - Points stay within the bounds; in the second half of the steps, features that
          stand at a bound and are pushed outwards get no share (`Norm.stride`), without
          which some walks on real images never end.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.deepfool import DeepFool
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(DeepFool(overshoot=0.001), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 3)
    0.2
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward per way; 1 forward at the end"
    source: ClassVar[str] = "Moosavi-Dezfooli et al., CVPR 2016, algorithm 2"
    aside: ClassVar[int] = 1

    steps: int = 50
    ways: int = 9
    overshoot: float = 0.02

    def init(self, p: Problem) -> State:
        return State(delta=p.x.zeros_like())

    def step(self, p: Problem, s: State, t: int) -> State:
        here = Linearised(p, p.x + s.delta)
        plane, late = here.nearest(self.ways), 2 * t >= self.steps
        return State(cross(p, here, plane, self.overshoot, late=late))

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)
