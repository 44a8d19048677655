"""Few features, each as far as the box lets it go."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.schedules import cosine
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    maximum,
    minimum,
    where,
)

__all__ = ["Greedy"]


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        radius: (n,) how many features (or pixels) it may change.
    """

    delta: Batch
    radius: PerSample


@dataclass(frozen=True)
class Greedy(Attack[State]):
    """Change the features that the gradient says lower the margin most; for L0.

    Each feature counts for what it contributes to the linearised margin: those changed
    for all of their change, the others for a `stepsize` of what the box allows, so
    that fewer and fewer are exchanged. As many of the best stay as the ball allows,
    each moved as far as the box lets it go. The ball shrinks below an adversarial by
    the features that the margin has to spare and grows by at least one where there is
    none. Starts from the best adversarial known, else from the original.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: What an unchanged feature counts for at first; it falls to 0.02.
        gamma: First change of the radius, as a share of it; it falls to 0.002.

    Source:
        Kin to Papernot et al., The Limitations of Deep Learning in Adversarial
        Settings, EuroS&P 2016 (JSMA), with many features at once, and with features
        that come back.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.greedy import Greedy
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Greedy(steps=5), model, x, y, norm="l0")
    >>> float(result.distance[0])
    1.0
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "this project; kin to Papernot et al., EuroS&P 2016"

    steps: int = 50
    stepsize: float = 0.5
    gamma: float = 0.1

    def init(self, p: Problem) -> State:
        radius = where(p.ledger.found, p.norm.scale(p.ledger.distance, 0.95), 1.0)
        delta = p.norm.project_box(p.ledger.best - p.x, radius, p.low, p.high)
        return State(delta, radius)

    def step(self, p: Problem, s: State, t: int) -> State:
        stepsize = cosine(t / self.steps, self.stepsize, 0.02)
        gamma = cosine(t / self.steps, self.gamma, 0.002)
        a = p.gradient(p.x + s.delta)
        within = minimum(s.radius, p.ledger.distance)
        needed = a.distance - p.norm.slack(a.margin, a.gradient, a.delta)
        shrunk = p.norm.shrink(within, needed, gamma)
        grown = minimum(p.norm.scale(s.radius, 1 + gamma), p.ledger.distance)
        radius = minimum(where(a.adversarial, shrunk, grown), p.largest)
        corner = where(a.gradient > 0, p.low, p.high)
        moved = a.delta + stepsize * (corner - a.delta)
        gain = maximum(-a.gradient * moved, 0.0)
        # The ball keeps the largest squares.
        kept = p.norm.project(gain.sqrt(), radius) > 0
        return State(where(kept, corner, 0.0), radius)
