"""What an attack is: hyper-parameters, a first state, and a step."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Self, TypeVar

from robustkit.arguments import as_flag, as_number, as_whole
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, Model
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Array, Mask, PerSample, full

__all__ = [
    "Attack",
    "FixedBudget",
    "broken",
    "check_images",
    "edge",
    "questions",
]

_ROUNDING = 1e-5

S = TypeVar("S")
D = TypeVar("D", float, Array, PerSample, PerSample | float)


class Attack(ABC, Generic[S]):
    """Asks questions of a problem, step by step; everything else is the loop's.

    A subclass is a frozen dataclass whose fields are its hyper-parameters. Its state
    `S` is a dataclass of (n, ...) tensors, one row per sample; settings that are the
    same for all samples may stand beside them. The ledger keeps the best of every
    question, so an attack returns nothing.

    Attributes:
        access: What the attack needs to see of the model.
        norms: Names of the norms it can minimise.
        cost: Model passes per step, in words.
        source: The paper or the algorithm.
        aside: Questions per sample before the first step and after the last one.
        baseline: "noise" or "single step": as which of these it is a yardstick, and no
            attack worth its name; None: as neither.
        positive: Names of the settings that must be above zero, besides `steps`.
        signed: Names of those that may be below; all others are at least zero.
        steps: How many steps to take at most.
        successor: Goes on with the samples that this attack gives up; None: nobody, and
            none is given up.
        budget: The most questions per sample, whatever number of passes each takes,
            for attacks with a successor; None: the steps say it.
    """

    access: ClassVar[Access]
    norms: ClassVar[frozenset[str]]
    cost: ClassVar[str] = "not stated"
    source: ClassVar[str] = "not stated"
    aside: ClassVar[int] = 0
    baseline: ClassVar[str | None] = None
    positive: ClassVar[tuple[str, ...]] = ()
    signed: ClassVar[tuple[str, ...]] = ()
    steps: int
    successor: "Attack[Any] | None" = None
    budget: int | None = None

    @abstractmethod
    def init(self, p: Problem) -> S:
        """The state before the first step; questions are allowed."""

    @abstractmethod
    def step(self, p: Problem, s: S, t: int) -> S:
        """The state after step `t` = 0, ..., `steps` - 1."""

    def finished(self, p: Problem, s: S) -> Mask | None:
        """(n,) which samples need no more steps; None: nobody is finished early."""
        return None

    def given_up(self, p: Problem, s: S) -> Mask | None:
        """(n,) which samples the successor shall go on with; None: none."""
        return None

    def finalise(self, p: Problem, s: S) -> None:
        """Last questions about the samples that took all steps."""
        return None

    def within(self, budget: int) -> Self:
        """This attack planned for `budget` questions per sample.

        One question per step unless a subclass knows better, and those `aside`.
        """
        steps = max(budget - self.aside, 1)
        return dataclasses.replace(self, steps=steps)  # type: ignore[type-var]

    def check(self, p: Problem) -> None:
        """Whether this attack can work on `p`.

        Raises:
            BadInput: It cannot minimise the norm, the model shows too little, or a
                setting that its class annotates as a number, or as True or False, is
                none, or too small.
        """
        name = type(self).__name__
        if p.norm.name not in self.norms:
            raise BadInput(
                f"{name} cannot minimise the norm {p.norm}; "
                f"{suggestion(p.norm.name, self.norms)}"
            )
        if self.access > p.model.access:
            raise BadInput(
                f"{name} needs {self.access.name.lower()} access, but the model "
                f"'{p.model.name}' shows {p.model.access.name.lower()}s only; choose "
                "another attack (robustkit attacks lists them) or an adapter that "
                "shows more"
            )
        self._check_settings()
        if self.steps < 1:
            raise BadInput(f"{name} needs at least 1 step; got {self.steps}")
        for setting in self.positive:
            value = getattr(self, setting)
            if not value > 0:
                raise BadInput(f"{name} needs its {setting} to be above 0; got {value}")

    def _check_settings(self) -> None:
        # These have messages of their own.
        free = {"steps", *self.positive, *self.signed}
        for field in getattr(self, "__dataclass_fields__", {}).values():
            value, least = getattr(self, field.name), None if field.name in free else 0
            what = f"the {field.name} of {type(self).__name__}"
            if field.type in (int, "int"):
                plain: float = as_whole(value, what, least)
            elif field.type in (float, "float"):
                plain = as_number(value, what, least=least)
            elif field.type in (bool, "bool") or (
                field.type in (bool | None, "bool | None") and value is not None
            ):
                plain = as_flag(value, what)
            else:
                continue
            if type(value) not in (int, float, bool):
                # Numbers of NumPy's do not mix with tensors of others.
                object.__setattr__(self, field.name, plain)


class FixedBudget(Attack[S]):
    """Looks for an adversarial within a given distance; a nearer one is no better.

    Radius and progress are given per sample, so that another attack can search over
    the radius with every sample at its own place (`robustkit.combine.Minimise`).

    Attributes:
        epsilon: The largest distance allowed, in norm units.
    """

    epsilon: float

    @abstractmethod
    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> S:
        """The first state of a search within `epsilon` (n,); asks no question.

        It starts from the best adversarials known, drawn into the ball.
        """

    def restart(self, p: Problem, s: S, epsilon: PerSample, rng: Rng) -> S:
        """The first state of another search, after one that ended in `s`.

        As `start`, unless a subclass has learned what serves every radius.
        """
        return self.start(p, epsilon, rng)

    @abstractmethod
    def advance(self, p: Problem, s: S, progress: PerSample, rng: Rng) -> S:
        """The next state, by one question; `progress` (n,) grows from 0 to below 1."""

    def init(self, p: Problem) -> S:
        return self.start(p, full(p.x, self.epsilon), p.rng(-1))

    def step(self, p: Problem, s: S, t: int) -> S:
        return self.advance(p, s, full(p.x, t / self.steps), p.rng(t))

    def check(self, p: Problem) -> None:
        name = type(self).__name__
        if not as_number(self.epsilon, f"the epsilon of {name}") > 0:
            raise BadInput(
                f"{name} needs an epsilon above 0, in units of the norm "
                f"{p.norm}; got {self.epsilon}"
            )
        super().check(p)


def check_images(attack: Attack[Any], p: Problem, advice: str = "") -> None:
    """Whether inputs are images, for attacks that need some.

    Args:
        attack: That is to work on them.
        p: Whose inputs they are.
        advice: What to do where they are none, to follow the message.

    Raises:
        BadInput: They have not four axes.
    """
    if p.x.ndim != 4:
        raise BadInput(
            f"{type(attack).__name__} needs images (n, channels, height, width); these "
            f"inputs have the shape {tuple(p.x.shape)}{advice}"
        )


def questions(budget: float, model: Model, access: Access) -> int:
    """How many questions of an attack so many passes are enough for; one at least.

    Args:
        budget: Passes per sample, as they are billed.
        model: To be attacked.
        access: What the attack needs of it.
    """
    cost = model.passes_per_question
    if access is Access.GRADIENT:
        cost += model.passes_per_gradient
    return max(int(budget) // cost, 1)


def edge(epsilon: D) -> D:
    """The largest distance that counts as within `epsilon`.

    Attacks with a fixed budget put their points on the edge of the ball, where rounding
    in single precision decides on which side they are.

    >>> edge(0.5)
    0.500005
    """
    return epsilon * (1 + _ROUNDING)


def broken(p: Problem, epsilon: PerSample | float) -> Mask:
    """(n,) for whom an adversarial within `epsilon` (norm units) is known."""
    mask: Mask = p.ledger.distance <= edge(epsilon)
    return mask
