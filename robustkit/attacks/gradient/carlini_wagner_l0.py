"""Carlini and Wagner's attack in L0: one unit after another is spared."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.gradient import unbounded
from robustkit.attacks.gradient.tradeoff import Tradeoff
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.optimisers import Adam
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    expand,
    flatten,
    full,
    maximum,
    minimum,
    where,
)

__all__ = ["CarliniWagnerL0"]

# The largest weight of the margin, and how often one weighs ten times more at most.
_HEAVIEST, _MOST = 1e10, 27


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        variables: (n, ...) whose tanh is the input, with the bounds at -1 and 1.
        free: (n, ...) 1 for units that may change, 0 for those that may not.
        held: (n, ...) the last `free` with which an adversarial was found.
        start: (n, ...) the variables of that adversarial.
        needed: (n, ...) 1 for units that could not be spared from it.
        optimiser: Of the step.
        least: (n,) first weight of the margin.
        weight: (n,) present weight.
        share: (n,) of the units that one success takes away.
        age: (n,) steps since `free` changed.
    """

    variables: Batch
    free: Batch
    held: Batch
    start: Batch
    needed: Batch
    optimiser: Adam
    least: PerSample
    weight: PerSample
    share: PerSample
    age: PerSample


@dataclass(frozen=True)
class CarliniWagnerL0(Attack[State]):
    """Descend as in L2 until adversarial, and spare the units that matter least; again.

    A unit is a feature, or a pixel where those are counted. How much it matters is its
    change times the margin's slope.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        patience: Steps without success after which the margin weighs ten times more.
        tries: How many weights are tried before units are given back.
        share: Of the units that still change, what one success takes away at first.
        stepsize: Of each variable, as in `CarliniWagnerL2`; three times as far, since a
            success ends the descent.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
        Symposium on Security and Privacy 2017, section VI-B.

    Differences from the paper:
        - Several units go at once while many are left, as in the published code.
        - Where no adversarial is found without them, the units come back and half as
          many are taken; a single unit that was missed stays for good. The paper ends
          at the first failure.
        - The first weight is the one that would reach the boundary of a linear model.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Carlini, Wagner, S&P 2017, section VI-B"
    positive: ClassVar[tuple[str, ...]] = ("stepsize",)

    steps: int = 1000
    patience: int = 16
    tries: int = 3
    share: float = 0.3
    stepsize: float = 0.3

    def init(self, p: Problem) -> State:
        assert isinstance(p.norm, L0)
        variables, zero = unbounded.variables(p), full(p.x, 0.0)
        none = p.norm.summed(p.x).zeros_like()
        return State(
            variables,
            free=none + 1,
            held=none + 1,
            start=variables,
            needed=none,
            optimiser=Adam.at(p.x),
            least=zero,
            weight=zero,
            share=zero + self.share,
            age=zero,
        )

    def step(self, p: Problem, s: State, t: int) -> State:
        assert isinstance(p.norm, L0)
        width = p.bounds.width
        bent = s.variables.tanh()
        a = p.gradient(p.x + (unbounded.from_bent(p, bent) - p.x) * s.free)
        first = Tradeoff.guess(a, width).weight if t == 0 else s.least
        weight = first if t == 0 else s.weight

        held = where(a.adversarial, s.free, s.held)
        start = where(a.adversarial, s.variables, s.start)
        tired = a.adversarial.logical_not().logical_and(s.age + 1 >= self.patience)
        # No weight is larger, so whoever is there has tried all.
        most = minimum(first * 10.0 ** min(self.tries - 1, _MOST), _HEAVIEST)
        failed = tired.logical_and(weight >= most)
        # Before the first success there is nothing to give back.
        failed = failed.logical_and(p.ledger.found)
        weight = where(tired, minimum(10 * weight, _HEAVIEST), weight)
        weight = where(failed.logical_or(a.adversarial), first, weight)

        lost = held - s.free
        single = failed.logical_and(flatten(lost).sum(axis=1) <= 1)
        needed = where(single, s.needed + lost, s.needed)
        share = where(failed, s.share / 2, s.share)
        free = where(failed, held, s.free)
        if bool(a.adversarial.any()):
            matters = p.norm.summed((a.gradient * a.delta).abs())
            changed = p.norm.summed(a.delta.abs())
            spared = _spared(matters, changed, held, needed, share)
            free = where(a.adversarial, held - spared, free)

        slope = 2 * a.delta / width + a.gradient * expand(weight * width, bent)
        optimiser = s.optimiser.after(slope * unbounded.derivative(bent) * s.free)
        moved = s.variables - self.stepsize * optimiser.direction
        variables = where(a.adversarial, s.variables, where(failed, start, moved))
        age = where(tired.logical_or(a.adversarial), 0.0, s.age + 1)
        return State(
            variables=variables,
            free=free,
            held=held,
            start=start,
            needed=needed,
            optimiser=optimiser,
            least=first,
            weight=weight,
            share=share,
            age=age,
        )

    def finished(self, p: Problem, s: State) -> Mask | None:
        return flatten(s.held - s.needed).sum(axis=1) == 0


def _spared(
    matters: Batch, changed: Batch, held: Batch, needed: Batch, share: PerSample
) -> Batch:
    """1 for the units that matter least: all unchanged ones, and a share of the others.

    Args:
        matters: (n, ...) of each unit, at least zero.
        changed: (n, ...) zero for units that have not changed.
        held: (n, ...) 1 for those of which it may be spared.
        needed: (n, ...) 1 for those which may not.
        share: (n,) of the changed ones; of these at least one is spared.
    """
    spare = flatten(held - needed)
    idle = spare * (flatten(changed) == 0).astype(spare.dtype)
    busy = spare.sum(axis=1) - idle.sum(axis=1)
    count = idle.sum(axis=1) + maximum(share * busy, 1.0)
    order = where(spare > 0, flatten(matters), math.inf).argsort(axis=1)
    rank = order.argsort(axis=1).astype(spare.dtype)
    least = (rank < count.expand_dims(1)).astype(spare.dtype) * spare
    return least.reshape(held.shape)
