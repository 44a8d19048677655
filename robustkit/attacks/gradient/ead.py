"""Elastic-net attack: an L1 term that undoes small changes."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.gradient.tradeoff import Tradeoff, round_length
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import Batch, Mask, expand, full, maximum, where

__all__ = ["EAD"]


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation, in widths of the bounds.
        ahead: (n, ...) where the next question is asked: beyond `delta`.
        tradeoff: Of margin and distance, in the present round.
        won: (n,) whether the present round has found an adversarial.
    """

    delta: Batch
    ahead: Batch
    tradeoff: Tradeoff
    won: Mask


@dataclass(frozen=True)
class EAD(Attack[State]):
    """Descend squared distance and margin by proximal steps that keep changes sparse.

    After each step every change shrinks by the same amount, small ones to zero. Several
    rounds look for the weight of the margin against the distance.

    Args:
        steps: Of all rounds together; 1 forward and 1 backward pass each.
        rounds: How many weights to try, each in two steps or more.
        stepsize: First step, as a share of the gradient in widths of the bounds.
        shrinkage: How far a change moves back per step, in widths of the bounds.

    Source:
        Chen, Sharma, Zhang, Yi, Hsieh: EAD: Elastic-Net Attacks to Deep Neural Networks
        via Adversarial Examples, AAAI 2018, algorithm 1.

    Differences from the paper:
        - Only the points where the gradient is taken are asked about, at half the
          passes.
        - The first weight is the one that would reach the boundary of a linear model,
          not one for all models.
        - Inputs are measured in widths of the bounds.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Chen et al., AAAI 2018, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("rounds", "stepsize")

    steps: int = 900
    rounds: int = 9
    stepsize: float = 0.01
    shrinkage: float = 0.01

    def init(self, p: Problem) -> State:
        zero, unknown = p.x.zeros_like(), full(p.x, 0.0)
        tradeoff = Tradeoff(unknown, unknown, unknown)
        return State(zero, zero, tradeoff, unknown < 0)

    def step(self, p: Problem, s: State, t: int) -> State:
        width, length = p.bounds.width, round_length(self.steps, self.rounds)
        age = t % length
        tradeoff, won, before, ahead = s.tradeoff, s.won, s.delta, s.ahead
        if t and age == 0:
            tradeoff, won = tradeoff.after(won), won != won
            before = ahead = p.x.zeros_like()
        a = p.gradient(p.place(ahead * width))
        if t == 0:
            tradeoff = Tradeoff.guess(a, width)
        ahead = a.delta / width
        weight = where(a.adversarial, 0.0, tradeoff.weight * width)
        slope = 2 * ahead + a.gradient * expand(weight, ahead)
        stepsize = self.stepsize * (1 - age / length) ** 0.5
        moved = ahead - stepsize * slope
        delta = moved.sign() * maximum(moved.abs() - self.shrinkage, 0.0)
        delta = (p.bounds.clip(p.x + delta * width) - p.x) / width
        ahead = delta + age / (age + 3) * (delta - before)
        return State(delta, ahead, tradeoff, won.logical_or(a.adversarial))
