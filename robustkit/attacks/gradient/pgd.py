"""Projected gradient descent within a given distance."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import FixedBudget
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch, Mask, PerSample, expand

__all__ = ["PGD"]


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        point: (n, ...) to be asked about next.
        epsilon: (n,) radius of the ball that holds it, in norm units.
    """

    point: Batch
    epsilon: PerSample


@dataclass(frozen=True)
class PGD(FixedBudget[State]):
    """Descend the loss inside a ball around the original.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: First step, as a share of the ball (see `Norm.stride`). It falls
            linearly to a twentieth.
        loss: What to descend; a name of `robustkit.engine.losses`.
        random_start: Start at a random point of the ball, not at the original.
        stop: Stop working on a sample once an adversarial is known.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant
        to Adversarial Attacks, ICLR 2018, section 2. For L1: Croce, Hein: Mind the
        Box, ICML 2021 (projection on ball and box together).

    Differences from the paper:
        - The step falls over time and is a share of the ball.
        - The projection is on the intersection of ball and box, and for L2 and L1
          features that stand at a bound and are pushed outwards get no share of the
          step (`Norm.stride`).
        - Where an adversarial is known, as inside `Minimise`, the descent starts from
          it, drawn into the ball.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.PGD(epsilon=0.25), model, x, y, norm="linf")
    >>> bool(result.found[0])
    True
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward; 1 forward at the end"
    source: ClassVar[str] = "Madry et al., ICLR 2018"
    positive: ClassVar[tuple[str, ...]] = ("stepsize",)
    aside: ClassVar[int] = 1

    epsilon: float
    steps: int = 40
    stepsize: float = 1.0
    loss: str = "margin"
    random_start: bool = False
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        delta = p.ledger.best - p.x
        if self.random_start:
            noise = rng.uniform(p.x.shape[1:], -1.0, 1.0)
            delta = noise * expand(epsilon / p.norm(noise), noise)
        delta = p.norm.project_box(delta, epsilon, p.low, p.high)
        return State(p.x + delta, epsilon)

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        a = p.gradient(s.point, self.loss)
        share = self.stepsize * (1 - 0.95 * progress)
        return State(p.descend(a, s.epsilon, share), s.epsilon)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return p.ledger.found if self.stop else None

    def finalise(self, p: Problem, s: State) -> None:
        p.score(s.point)
