"""Carlini and Wagner's attacks: no bounds to heed, after a change of variables."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from robustkit.attacks.gradient import unbounded
from robustkit.attacks.gradient.tradeoff import Tradeoff, round_length
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.optimisers import Adam
from robustkit.numerics.schedules import geometric
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    expand,
    full,
    minimum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["CarliniWagnerL2", "CarliniWagnerLinf"]

# Steps in which a feature that stands at a bound can come away from it.
_ROUND = 100
# The longest change of an input in a step in Linf, as a share of the level: longer ones
# jump to and fro over levels of a few thousandths.
_PACE = 0.05


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
        rounds: How many weights to try, each in two steps or more.
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
    positive: ClassVar[tuple[str, ...]] = ("rounds", "stepsize")

    steps: int = 900
    rounds: int = 9
    stepsize: float = 0.1

    def init(self, p: Problem) -> StateL2:
        unknown = full(p.x, 0.0)
        tradeoff = Tradeoff(unknown, unknown, unknown)
        return StateL2(unbounded.variables(p), Adam.at(p.x), tradeoff, unknown < 0)

    def step(self, p: Problem, s: StateL2, t: int) -> StateL2:
        width, length = p.bounds.width, round_length(self.steps, self.rounds)
        variables, optimiser, tradeoff, won = (
            s.variables,
            s.optimiser,
            s.tradeoff,
            s.won,
        )
        if t and t % length == 0:
            tradeoff, won = tradeoff.after(won), won != won
            variables, optimiser = unbounded.variables(p), Adam.at(p.x)
        bent = variables.tanh()
        a = p.gradient(unbounded.from_bent(p, bent))
        if t == 0:
            tradeoff = Tradeoff.guess(a, width)
        weight = where(a.adversarial, 0.0, tradeoff.weight * width)
        slope = 2 * a.delta / width + a.gradient * expand(weight, bent)
        optimiser = optimiser.after(slope * unbounded.derivative(bent))
        variables = variables - self.stepsize * optimiser.direction
        return StateL2(variables, optimiser, tradeoff, won.logical_or(a.adversarial))

    def within(self, budget: int) -> Self:
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
            tenth, and lower where the level is small.
        decrease: The next level, as a share of a distance that was reached.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
        Symposium on Security and Privacy 2017, section VI-C.

    Differences from the paper:
        - Each sample's level falls as soon as an adversarial below it is known, and
          its weight grows when it waits too long, in one descent without rounds.
        - The first weight makes the margin's gradient as long as one exceeding feature
          pulls, and it doubles from there.
        - No input changes by more than a share of the level in a step. Without that,
          distances of a hundredth of the bounds' width came out twice as large on a
          network for CIFAR-10.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Carlini, Wagner, S&P 2017, section VI-C"
    positive: ClassVar[tuple[str, ...]] = ("stepsize",)

    steps: int = 1000
    patience: int = 20
    stepsize: float = 0.05
    decrease: float = 0.9

    def init(self, p: Problem) -> StateLinf:
        zero, one = full(p.x, 0.0), full(p.x, 1.0)
        return StateLinf(unbounded.variables(p), Adam.at(p.x), one, zero, zero)

    def step(self, p: Problem, s: StateLinf, t: int) -> StateLinf:
        width = p.bounds.width
        bent = s.variables.tanh()
        a = p.gradient(unbounded.from_bent(p, bent))
        weight = s.weight
        if t == 0:
            steep = p.norm.dual(a.gradient) * width
            weight = where(steep > 0, 1 / where(steep > 0, steep, 1.0), 1.0)
        change = a.delta / width
        over = (change.abs() > expand(s.level, change)).astype(change.dtype)
        pull = where(a.adversarial, 0.0, weight * width)
        slope = change.sign() * over + a.gradient * expand(pull, change)
        derivative = unbounded.derivative(bent)
        optimiser = s.optimiser.after(slope * derivative)
        stepsize = geometric(t / self.steps, self.stepsize, self.stepsize / 10)
        pace = minimum(expand(_PACE * s.level, change) / nonzero(derivative), stepsize)
        variables = s.variables - pace * optimiser.direction
        reached = a.adversarial.logical_and(a.distance <= s.level * width)
        tired = s.age >= self.patience
        level = where(reached, self.decrease * a.distance / width, s.level)
        weight = where(tired, minimum(2 * weight, 1e10), weight)
        age = where(reached.logical_or(tired), 0.0, s.age + 1)
        return StateLinf(variables, optimiser, level, weight, age)
