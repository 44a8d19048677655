"""Carlini and Wagner's attacks: no bounds to heed, after a change of variables."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from robustkit.attacks.gradient.tradeoff import Tradeoff
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.optimisers import Adam
from robustkit.numerics.schedules import geometric
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

__all__ = ["CarliniWagnerL0", "CarliniWagnerL2", "CarliniWagnerLinf"]

# So that the new variables of features at a bound are finite, in float32 too.
_INSIDE = 1 - 1e-6
# Steps in which a feature that stands at a bound can come away from it.
_ROUND = 100


@dataclass(frozen=True)
class StateL2:
    """Where the descent stands.

    Attributes:
        variables: (n, ...) whose tanh is the input, with the bounds at -1 and 1.
        optimiser: Of the step.
        tradeoff: Of margin and distance, in the present round.
        won: (n,) whether the present round has found an adversarial.
    """

    variables: Batch
    optimiser: Adam
    tradeoff: Tradeoff
    won: Mask


@dataclass(frozen=True)
class CarliniWagnerL2(Attack[StateL2]):
    """Descend squared distance and margin, whose weight several rounds look for.

    Args:
        steps: Of all rounds together; 1 forward and 1 backward pass each.
        rounds: How many weights to try.
        stepsize: Of each variable; the bounds are at plus and minus infinity, and an
            input in the middle of them moves half as far in widths of the bounds.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
        Symposium on Security and Privacy 2017, section VI-A.

    Differences from the paper:
        - The first weight is the one that would reach the boundary of a linear model,
          not one for all models.
        - A round goes to its end; the published early end depends on the whole batch.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Carlini, Wagner, S&P 2017, section VI-A"

    steps: int = 900
    rounds: int = 9
    stepsize: float = 0.1

    def init(self, p: Problem) -> StateL2:
        unknown = full(p.x, 0.0)
        tradeoff = Tradeoff(unknown, unknown, unknown)
        return StateL2(_variables(p), Adam.at(p.x), tradeoff, unknown < 0)

    def step(self, p: Problem, s: StateL2, t: int) -> StateL2:
        width, length = p.bounds.width, -(-self.steps // self.rounds)
        variables, optimiser, tradeoff, won = (
            s.variables,
            s.optimiser,
            s.tradeoff,
            s.won,
        )
        if t and t % length == 0:
            tradeoff, won = tradeoff.after(won), won != won
            variables, optimiser = _variables(p), Adam.at(p.x)
        bent = variables.tanh()
        a = p.gradient(_input(p, bent))
        if t == 0:
            tradeoff = Tradeoff.guess(a, width)
        weight = where(a.adversarial, 0.0, tradeoff.weight * width)
        slope = 2 * a.delta / width + a.gradient * expand(weight, bent)
        optimiser = optimiser.after(slope * _derivative(bent))
        variables = variables - self.stepsize * optimiser.direction
        return StateL2(variables, optimiser, tradeoff, won.logical_or(a.adversarial))

    def within(self, budget: int) -> "CarliniWagnerL2":
        """Fewer rounds where they would be short, but two at least."""
        rounds = min(self.rounds, max(budget // _ROUND, 2))
        return replace(self, steps=budget, rounds=rounds)


@dataclass(frozen=True)
class StateLinf:
    """Where the descent stands.

    Attributes:
        variables: (n, ...) whose tanh is the input, with the bounds at -1 and 1.
        optimiser: Of the step.
        level: (n,) what changes should stay below, in widths of the bounds.
        weight: (n,) of the margin.
        age: (n,) steps since the level or the weight changed.
    """

    variables: Batch
    optimiser: Adam
    level: PerSample
    weight: PerSample
    age: PerSample


@dataclass(frozen=True)
class CarliniWagnerLinf(Attack[StateLinf]):
    """Descend the margin and all that changes exceed a level by, and lower the level.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        patience: Steps without success after which the margin weighs more.
        stepsize: First step of each variable, as in `CarliniWagnerL2`. It falls to a
            tenth.
        decrease: The next level, as a share of a distance that was reached.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
        Symposium on Security and Privacy 2017, section VI-C.

    Differences from the paper:
        - Each sample's level falls as soon as an adversarial below it is known, and
          its weight grows when it waits too long, in one descent without rounds.
        - The first weight makes the margin's gradient as long as one exceeding feature
          pulls, and it doubles from there.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Carlini, Wagner, S&P 2017, section VI-C"

    steps: int = 1000
    patience: int = 20
    stepsize: float = 0.05
    decrease: float = 0.9

    def init(self, p: Problem) -> StateLinf:
        zero, one = full(p.x, 0.0), full(p.x, 1.0)
        return StateLinf(_variables(p), Adam.at(p.x), one, zero, zero)

    def step(self, p: Problem, s: StateLinf, t: int) -> StateLinf:
        width = p.bounds.width
        bent = s.variables.tanh()
        a = p.gradient(_input(p, bent))
        weight = s.weight
        if t == 0:
            steep = p.norm.dual(a.gradient) * width
            weight = where(steep > 0, 1 / where(steep > 0, steep, 1.0), 1.0)
        change = a.delta / width
        over = (change.abs() > expand(s.level, change)).astype(change.dtype)
        pull = where(a.adversarial, 0.0, weight * width)
        slope = change.sign() * over + a.gradient * expand(pull, change)
        optimiser = s.optimiser.after(slope * _derivative(bent))
        stepsize = geometric(t / self.steps, self.stepsize, self.stepsize / 10)
        variables = s.variables - stepsize * optimiser.direction
        reached = a.adversarial.logical_and(a.distance <= s.level * width)
        tired = s.age >= self.patience
        level = where(reached, self.decrease * a.distance / width, s.level)
        weight = where(tired, minimum(2 * weight, 1e10), weight)
        age = where(reached.logical_or(tired), 0.0, s.age + 1)
        return StateLinf(variables, optimiser, level, weight, age)


@dataclass(frozen=True)
class StateL0:
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
class CarliniWagnerL0(Attack[StateL0]):
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

    steps: int = 1000
    patience: int = 16
    tries: int = 3
    share: float = 0.3
    stepsize: float = 0.3

    def init(self, p: Problem) -> StateL0:
        assert isinstance(p.norm, L0)
        variables, zero = _variables(p), full(p.x, 0.0)
        none = p.norm.summed(p.x).zeros_like()
        return StateL0(
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

    def step(self, p: Problem, s: StateL0, t: int) -> StateL0:
        assert isinstance(p.norm, L0)
        width = p.bounds.width
        bent = s.variables.tanh()
        a = p.gradient(p.x + (_input(p, bent) - p.x) * s.free)
        first = Tradeoff.guess(a, width).weight if t == 0 else s.least
        weight = first if t == 0 else s.weight

        held = where(a.adversarial, s.free, s.held)
        start = where(a.adversarial, s.variables, s.start)
        tired = a.adversarial.logical_not().logical_and(s.age + 1 >= self.patience)
        failed = tired.logical_and(weight >= first * 10.0 ** (self.tries - 1))
        # Before the first success there is nothing to give back.
        failed = failed.logical_and(p.ledger.found)
        weight = where(tired, minimum(10 * weight, 1e10), weight)
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
        optimiser = s.optimiser.after(slope * _derivative(bent) * s.free)
        moved = s.variables - self.stepsize * optimiser.direction
        variables = where(a.adversarial, s.variables, where(failed, start, moved))
        age = where(tired.logical_or(a.adversarial), 0.0, s.age + 1)
        return StateL0(
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

    def finished(self, p: Problem, s: StateL0) -> Mask | None:
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


def _variables(p: Problem) -> Batch:
    """Those of the original inputs."""
    middle = (p.bounds.upper + p.bounds.lower) / 2
    share = (p.x - middle) * (2 * _INSIDE / p.bounds.width)
    return maximum(minimum(share, _INSIDE), -_INSIDE).arctanh()


def _input(p: Problem, bent: Batch) -> Batch:
    middle = (p.bounds.upper + p.bounds.lower) / 2
    return middle + bent * (p.bounds.width / 2)


def _derivative(bent: Batch) -> Batch:
    """Of the input in widths of the bounds, by the variables."""
    return (1 - bent.square()) / 2
