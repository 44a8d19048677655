"""Iterative fast gradient method with momentum, within a given distance."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    expand,
    flatten,
    magnitude,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["MIFGSM"]


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        momentum: (n, ...) decaying sum of gradients, each of mean size 1.
        epsilon: (n,) radius of the ball that holds `delta`, in norm units.
    """

    delta: Batch
    momentum: Batch
    epsilon: PerSample


@dataclass(frozen=True)
class MIFGSM(FixedBudget[State]):
    """Equal steps along a decaying sum of all gradients so far (MI-FGSM, NI-FGSM).

    Examples made so transfer better to other models than those of plain descents.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many; 1 forward and 1 backward pass each.
        decay: Of the sum, per step. With 0 this is the basic iterative method (BIM).
        reach: Length of all steps together, in radii of the ball.
        nesterov: Ask about the point that the momentum leads to (NI-FGSM).
        loss: What to descend; a name of `robustkit.engine.losses`.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        Dong, Liao, Pang, Su, Zhu, Hu, Li: Boosting Adversarial Attacks with Momentum,
        CVPR 2018, algorithm 1. NI-FGSM: Lin, Song, He, Wang, Hopcroft: Nesterov
        Accelerated Gradient and Scale Invariance for Adversarial Attacks, ICLR 2020,
        equations 6 to 8. BIM: Kurakin, Goodfellow, Bengio: Adversarial Examples in the
        Physical World, ICLR 2017 workshop.

    Differences from the paper:
        - Gradients are divided by their mean absolute value, as the authors' code does,
          and not by their L1 norm: else looking ahead would lead nowhere.
        - Points asked about with `nesterov` are projected on ball and box.
        - Where an adversarial is known, as inside `Minimise`, the descent starts from
          it, drawn into the ball.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(MIFGSM(epsilon=0.25), model, x, y, norm="linf")
    >>> bool(result.found[0])
    True
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward; 1 forward at the end"
    source: ClassVar[str] = "Dong et al., CVPR 2018, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("reach",)
    aside: ClassVar[int] = 1

    epsilon: float
    steps: int = 10
    decay: float = 1.0
    reach: float = 1.0
    nesterov: bool = False
    loss: str = "cross-entropy"
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        delta = p.norm.project_box(p.ledger.best - p.x, epsilon, p.low, p.high)
        return State(delta, p.x.zeros_like(), epsilon)

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        ahead = s.delta
        if self.nesterov:
            length = expand(s.epsilon * (self.decay * self.reach / self.steps), ahead)
            ahead = ahead - length * s.momentum
            ahead = p.norm.project_box(ahead, s.epsilon, p.low, p.high)
        a = p.gradient(p.place(ahead), self.loss)
        size = magnitude(a.gradient, 1) / flatten(a.gradient).shape[1]
        momentum = self.decay * s.momentum + a.gradient / expand(nonzero(size), ahead)
        share = self.reach / self.steps
        stride = p.norm.stride(momentum, s.epsilon, share, p.x + s.delta, p.bounds)
        delta = p.norm.project_box(s.delta - stride, s.epsilon, p.low, p.high)
        return State(delta, momentum, s.epsilon)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.epsilon) if self.stop else None

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)
