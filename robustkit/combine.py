"""Attack to attack."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from robustkit.arguments import as_number, as_whole
from robustkit.attacks.gradient import pgd
from robustkit.engine.attack import Attack, FixedBudget, broken
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Mask,
    PerSample,
    choose,
    full,
    like,
    maximum,
    minimum,
    to_numpy,
    where,
)

__all__ = ["ByAim", "Cascade", "Minimise", "Part", "minimum_norm_pgd"]

S = TypeVar("S")

# Steps of a round before any adversarial is known: a larger radius finds one sooner.
_BRIEF = 25.0
# Whom so many steps at a first radius that was given do not reach is likely to be far
# away.
_PATIENCE = 150.0


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
    estimated distance of the boundary (without gradients an eighth of the largest
    distance there is), then four times that, and so on; until an adversarial is known
    rounds are brief. After a first radius that is given and four times that, or where
    few steps are left, an eighth of the largest distance is the least.

    Args:
        attack: Its `steps` are those of one round; its `epsilon` is not used.
        steps: Of all rounds together, each at the cost of a step of the attack.
        share: Where between the two ends the next radius lies, above 0 and below 1.
            Above a half, because a round that fails costs more than one that succeeds.
        first: The first radius, in norm units, where one is of more interest than
            others; None: as above.
        patience: How many steps the round at that radius may take; None: for as long
            as it is likely to succeed, 150, or the root of the number of features if
            that is more, and less where there are few steps.

    Raises:
        BadInput: The attack works at every radius already, the share is no such share,
            or the first radius or the patience is not above zero.

    >>> from robustkit.attacks.gradient.pgd import PGD
    >>> Minimise(PGD(epsilon=1.0, steps=20), steps=200).within(101).steps
    100
    """

    attack: FixedBudget[S]
    steps: int = 200
    share: float = 0.8
    first: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attack, FixedBudget):
            raise BadInput(
                "Minimise searches over the radius of an attack within a given "
                f"distance, such as PGD(epsilon=1.0); got {self.attack!r}"
            )
        if not 0 < as_number(self.share, "the share") < 1:
            raise BadInput(f"the share must be above 0 and below 1; got {self.share}")
        if self.first is not None:
            as_number(self.first, "the first radius", above=0)
        if self.patience is not None:
            as_whole(self.patience, "the patience", least=1)
        for name in ("access", "norms", "cost", "source"):
            object.__setattr__(self, name, getattr(self.attack, name))
        estimates = self.first is None and self.access >= Access.GRADIENT
        object.__setattr__(self, "aside", int(estimates))

    def init(self, p: Problem) -> State[S]:
        epsilon = p.largest / 8
        if self.first is not None:
            epsilon = minimum(full(p.x, self.first), p.largest)
        elif self.aside:
            a = p.gradient(p.x)
            guess = 1.05 * p.norm.to_boundary(a.margin, a.gradient)
            # Not zero where the margin is, since multiples of it would be.
            epsilon = minimum(maximum(guess, 1e-5 * p.largest), p.largest)
        # What others have found may be far away, so it limits the first round only.
        best = p.ledger.distance
        epsilon = minimum(epsilon, self.share * best)
        inner = self.attack.start(p, epsilon, p.rng(-1))
        zero = full(p.x, 0.0)
        return State(inner, epsilon, zero, best, zero)

    def step(self, p: Problem, s: State[S], t: int) -> State[S]:
        rng = p.rng(t)
        length = self._length(p, s)
        progress = s.age / length
        inner = self.attack.advance(p, s.inner, progress, rng)
        best, age = p.ledger.distance, s.age + 1
        won = best < s.upper
        lost = (age >= length).logical_and(won.logical_not())
        over = won.logical_or(lost)
        lower = minimum(where(lost, s.epsilon, s.lower), best)
        # Where the two ends have met, what failed once is tried again from there.
        lower = where(best - lower < 1e-3 * best, 0.9 * best, lower)
        between = lower + self.share * (best - lower)
        wider = self._wider(p, s, t)
        epsilon = where(over, where(p.ledger.found, between, wider), s.epsilon)
        if bool(over.any()):
            inner = choose(over, self.attack.restart(p, inner, epsilon, rng), inner)
        return State(inner, epsilon, lower, best, where(over, 0.0, age))

    def check(self, p: Problem) -> None:
        self.attack.check(p)
        super().check(p)

    def within(self, budget: int) -> Self:
        """A round takes less than a fifth of the budget, but for one at a given radius.

        Where the first radius is estimated, one question is about the original.
        """
        # An attack's own plan has room for questions after its last step.
        last = self.attack.aside
        steps = self.attack.within(max(budget - self.aside, 1) + last).steps
        attack = self.attack.within(max((budget - 1) // 5, 1) + last)
        if attack.steps > self.attack.steps:
            attack = self.attack
        return dataclasses.replace(self, attack=attack, steps=steps)

    def _wider(self, p: Problem, s: State[S], t: int) -> PerSample:
        """(n,) the next radius of who has no adversarial yet."""
        wider = 4 * s.epsilon
        if self.first is not None:
            few = self.steps - t <= 2 * _BRIEF
            leaps = s.epsilon > (0.0 if few else self.first)
            wider = where(leaps, maximum(wider, p.largest / 8), wider)
        return minimum(wider, p.largest)

    def _length(self, p: Problem, s: State[S]) -> PerSample:
        """(n,) how many steps the present round may take."""
        steps = float(self.attack.steps)
        searching = s.upper == math.inf
        length = where(searching, full(s.epsilon, min(steps, _BRIEF)), steps)
        if self.first is None:
            return length
        first = searching.logical_and(s.epsilon <= self.first)
        return where(first, float(self.patience or self._likely(p)), length)

    def _likely(self, p: Problem) -> float:
        """How many steps at the first radius are likely to lead to success there."""
        usual = min(_PATIENCE, self.steps / 2)
        # Large images take longer.
        features = math.prod(p.x.shape[1:])
        return max(usual, min(math.sqrt(features), 0.8 * self.steps), 1.0)


@dataclass(frozen=True)
class Stage:
    """Where a cascade stands.

    Attributes:
        inner: The state of the attack whose turn it is; None before the first.
        place: Which of the attacks that is.
    """

    inner: Any
    place: int


@dataclass(frozen=True)
class Cascade(Attack[Stage]):
    """Run attacks one after another; a sample that one has broken leaves.

    All share the ledger, so an attack that starts from adversarials known starts from
    those of the attacks before it.

    Args:
        attacks: In their order; a tuple or a list.
        epsilon: A sample leaves once an adversarial within this distance (norm units)
            is known. With 0 nobody leaves before the end.
        successor: Goes on with samples that one of the attacks gives up, until their
            budget is spent. None: they are not given up. Successors of the attacks
            themselves are not asked.
        budget: The most questions per sample, where there is a successor; None: what
            the steps take.

    Raises:
        BadInput: There is no attack, or something that is none.

    >>> from robustkit.attacks.gradient.fmn import FMN
    >>> from robustkit.attacks.gradient.pgd import PGD
    >>> Cascade((PGD(epsilon=0.1), FMN(steps=100)), epsilon=0.1).steps
    140
    """

    cost: ClassVar[str] = "that of the attack whose turn it is"

    attacks: tuple[Attack[Any], ...]
    epsilon: float = 0.0
    successor: Attack[Any] | None = None
    budget: int | None = None
    steps: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        given: Any = self.attacks
        if not isinstance(given, tuple | list):
            raise BadInput(
                f"a cascade needs a tuple or a list of attacks; got {given!r}"
            )
        object.__setattr__(self, "attacks", tuple(given))
        if not self.attacks:
            raise BadInput("a cascade needs at least one attack; got none")
        _check_attacks(self._parts())
        norms = frozenset.intersection(*(part.norms for part in self._parts()))
        access = max(part.access for part in self._parts())
        object.__setattr__(self, "norms", norms)
        object.__setattr__(self, "access", access)
        sources = dict.fromkeys(part.source for part in self._parts())
        object.__setattr__(self, "source", "; ".join(sources))
        object.__setattr__(self, "steps", sum(a.steps for a in self.attacks))

    def init(self, p: Problem) -> Stage:
        return Stage(None, 0)

    def step(self, p: Problem, s: Stage, t: int) -> Stage:
        place, turn = self._at(t)
        attack = self.attacks[place]
        # Of the whole cascade's step, so that a random start is never the same twice.
        rng = p.rng(t)
        inner = s.inner
        if isinstance(attack, FixedBudget):
            if turn == 0:
                inner = attack.start(p, full(p.x, attack.epsilon), rng)
            inner = attack.advance(p, inner, full(p.x, turn / attack.steps), rng)
        else:
            if turn == 0:
                inner = attack.init(p)
            inner = attack.step(p, inner, turn)
        if turn == attack.steps - 1:
            attack.finalise(p, inner)
        return Stage(inner, place)

    def finished(self, p: Problem, s: Stage) -> Mask:
        return broken(p, self.epsilon)

    def given_up(self, p: Problem, s: Stage) -> Mask | None:
        return None if s.inner is None else self.attacks[s.place].given_up(p, s.inner)

    def check(self, p: Problem) -> None:
        for part in self._parts():
            part.check(p)
        super().check(p)

    def within(self, budget: int) -> Self:
        """Each attack gets its share of the steps, the successor what others leave."""
        return dataclasses.replace(
            self,
            attacks=tuple(
                a.within(max(budget * a.steps // self.steps, 1)) for a in self.attacks
            ),
            successor=None if self.successor is None else self.successor.within(budget),
            budget=None if self.successor is None else budget,
        )

    def _parts(self) -> tuple[Attack[Any], ...]:
        return self.attacks + (() if self.successor is None else (self.successor,))

    def _at(self, step: int) -> tuple[int, int]:
        """Which attack's turn it is, and the number of its step."""
        for place, attack in enumerate(self.attacks):
            if step < attack.steps:
                return place, step
            step -= attack.steps
        raise AssertionError("the loop took more steps than there are")


@dataclass(frozen=True)
class Allotment(Generic[S]):
    """How far a part of a budget reaches.

    Attributes:
        inner: The attack's state.
        end: (n,) the number of forward passes from which on the successor's turn is.
    """

    inner: S
    end: PerSample


@dataclass(frozen=True)
class Part(Attack[Allotment[S]], Generic[S]):
    """An attack for a share of what is left of each sample's budget.

    Whoever has spent that goes on with the successor; without a budget nobody does.

    Args:
        attack: As many steps of it are taken as the share has room for.
        share: Of the passes left to a sample when the attack begins.
        successor: For the rest of them.

    >>> from robustkit.attacks.gradient.fmn import FMN
    >>> from robustkit.attacks.gradient.pgd import PGD
    >>> half = Part(FMN(steps=1000), 0.5, PGD(epsilon=0.1, steps=1000))
    """

    cost: ClassVar[str] = "that of the attack whose turn it is"

    attack: Attack[S]
    share: float
    successor: Attack[Any]
    steps: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        first, second = self.attack, self.successor
        _check_attacks((first, second))
        object.__setattr__(self, "norms", first.norms & second.norms)
        object.__setattr__(self, "access", max(first.access, second.access))
        object.__setattr__(self, "source", f"{first.source}; {second.source}")
        object.__setattr__(self, "steps", first.steps)

    def init(self, p: Problem) -> Allotment[S]:
        ledger = p.ledger
        end = ledger.forwards + self.share * ledger.passes * ledger.left()
        return Allotment(self.attack.init(p), like(p.x, end))

    def step(self, p: Problem, s: Allotment[S], t: int) -> Allotment[S]:
        return Allotment(self.attack.step(p, s.inner, t), s.end)

    def given_up(self, p: Problem, s: Allotment[S]) -> Mask:
        return like(p.x, p.ledger.forwards >= to_numpy(s.end))

    def check(self, p: Problem) -> None:
        self.attack.check(p)
        self.successor.check(p)
        super().check(p)

    def within(self, budget: int) -> Self:
        """The attack is planned for its share, and may take as many steps as before.

        Where its steps are those of its parts, as many as are planned.
        """
        attack = self.attack.within(max(int(self.share * budget), 1))
        if not isinstance(attack, Cascade | Part):
            # Every attack is a dataclass, which its type does not say.
            attack = dataclasses.replace(attack, steps=self.attack.steps)  # type: ignore[type-var]
        return dataclasses.replace(self, attack=attack)


@dataclass(frozen=True)
class ByAim(Attack[Any]):
    """One attack where a certain class is to be reached, another where any will do.

    Args:
        aimed: For criteria with `Criterion.aims`.
        free: For others.

    >>> from robustkit.attacks.gradient.fmn import FMN
    >>> from robustkit.attacks.gradient.pgd import PGD
    >>> ByAim(FMN(steps=50), FMN(steps=50, loss="dlr")).within(20).steps
    20
    """

    cost: ClassVar[str] = "that of the attack whose turn it is"

    aimed: Attack[Any]
    free: Attack[Any]
    steps: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_attacks((self.aimed, self.free))
        object.__setattr__(self, "norms", self.aimed.norms & self.free.norms)
        object.__setattr__(self, "access", max(self.aimed.access, self.free.access))
        object.__setattr__(self, "source", f"{self.aimed.source}; {self.free.source}")
        object.__setattr__(self, "steps", max(self.aimed.steps, self.free.steps))

    def init(self, p: Problem) -> Any:
        return self._chosen(p).init(p)

    def step(self, p: Problem, s: Any, t: int) -> Any:
        chosen = self._chosen(p)
        return chosen.step(p, s, t) if t < chosen.steps else s

    def finalise(self, p: Problem, s: Any) -> None:
        self._chosen(p).finalise(p, s)

    def finished(self, p: Problem, s: Any) -> Mask | None:
        return self._chosen(p).finished(p, s)

    def given_up(self, p: Problem, s: Any) -> Mask | None:
        return self._chosen(p).given_up(p, s)

    def check(self, p: Problem) -> None:
        self._chosen(p).check(p)
        super().check(p)

    def within(self, budget: int) -> Self:
        return dataclasses.replace(
            self, aimed=self.aimed.within(budget), free=self.free.within(budget)
        )

    def _chosen(self, p: Problem) -> Attack[Any]:
        return self.aimed if p.criterion.aims else self.free


def _check_attacks(attacks: tuple[Any, ...]) -> None:
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise BadInput(f"expected an attack, such as FMN(); got {attack!r}")


def minimum_norm_pgd() -> Minimise[pgd.State]:
    """PGD with a search over its radius."""
    return Minimise(pgd.PGD(epsilon=1.0, steps=20))
