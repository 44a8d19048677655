"""Attack to attack."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from robustkit.attacks.gradient import pgd
from robustkit.engine.attack import Attack, FixedBudget
from robustkit.engine.problem import Problem
from robustkit.numerics.tensors import (
    Mask,
    PerSample,
    Tensor,
    full,
    maximum,
    minimum,
    where,
)

__all__ = ["Minimise", "minimum_norm_pgd"]

S = TypeVar("S")


@dataclass(frozen=True)
class State(Generic[S]):
    """Where each sample's search over the radius stands.

    Attributes:
        inner: The state of the fixed-budget attack.
        epsilon: (n,) radius of the present round, in norm units.
        lower: (n,) radius of the last round that failed, below `upper`.
        upper: (n,) best distance so far; infinite before the first success.
        age: (n,) questions asked in the present round.
    """

    inner: S
    epsilon: PerSample
    lower: PerSample
    upper: PerSample
    age: PerSample


@dataclass(frozen=True)
class Minimise(Attack[State[S]], Generic[S]):
    """Make a fixed-budget attack a minimum-norm one by a search over its radius.

    Each sample has rounds of its own. A round that succeeds ends at once, and the next
    one tries a smaller radius, between the best distance and the radius that failed
    last; a round that fails takes all the attack's steps. The first radius is the
    estimated distance of the boundary, then four times that, and so on.

    Args:
        attack: Its `steps` are those of one round; its `epsilon` is not used.
        steps: Of all rounds together, each at the cost of a step of the attack.
        share: Where between the two ends the next radius lies. Above a half, because
            a round that fails costs more than one that succeeds.

    >>> from robustkit.attacks.gradient.pgd import PGD
    >>> Minimise(PGD(epsilon=1.0, steps=20), steps=200).within(101).steps
    100
    """

    attack: FixedBudget[S]
    steps: int = 200
    share: float = 0.8

    def __post_init__(self) -> None:
        for name in ("access", "norms", "cost", "source"):
            object.__setattr__(self, name, getattr(self.attack, name))

    def init(self, p: Problem) -> State[S]:
        a = p.gradient(p.x)
        guess = 1.05 * p.norm.to_boundary(a.margin, a.gradient)
        # Not zero where the margin is, since multiples of it would be.
        epsilon = minimum(maximum(guess, 1e-5 * p.largest), p.largest)
        inner = self.attack.start(p, epsilon, p.rng(-1))
        zero = full(p.x, 0.0)
        return State(inner, epsilon, zero, full(p.x, math.inf), zero)

    def step(self, p: Problem, s: State[S], t: int) -> State[S]:
        inner = self.attack.advance(p, s.inner, s.age / self.attack.steps)
        best, age = p.ledger.distance, s.age + 1
        won = best < s.upper
        lost = (age >= self.attack.steps).logical_and(won.logical_not())
        over = won.logical_or(lost)
        lower = minimum(where(lost, s.epsilon, s.lower), best)
        # Where the two ends have met, what failed once is tried again from there.
        lower = where(best - lower < 1e-3 * best, 0.9 * best, lower)
        between = lower + self.share * (best - lower)
        wider = minimum(4 * s.epsilon, p.largest)
        epsilon = where(over, where(p.ledger.found, between, wider), s.epsilon)
        if bool(over.any()):
            inner = _choose(over, self.attack.start(p, epsilon, p.rng(t)), inner)
        return State(inner, epsilon, lower, best, where(over, 0.0, age))

    def check(self, p: Problem) -> None:
        self.attack.check(p)
        super().check(p)

    def within(self, budget: int) -> "Minimise[S]":
        """One question is about the original; a round takes at most a fifth."""
        steps = max(budget - 1, 1)
        length = max(min(self.attack.steps, steps // 5), 1)
        attack = dataclasses.replace(self.attack, steps=length)  # type: ignore[type-var]
        return dataclasses.replace(self, attack=attack, steps=steps)


def minimum_norm_pgd() -> Minimise[pgd.State]:
    """PGD with a search over its radius."""
    return Minimise(pgd.PGD(epsilon=1.0, steps=20))


def _choose(mask: Mask, yes: Any, no: Any) -> Any:
    """Each sample's row of one state or of the other."""
    rows = {
        field.name: where(mask, getattr(yes, field.name), getattr(no, field.name))
        for field in dataclasses.fields(yes)
        if isinstance(getattr(yes, field.name), Tensor)
    }
    return dataclasses.replace(yes, **rows)
