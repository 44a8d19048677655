"""What random searches share: change a part of the best, and keep what is better."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Array, Batch, PerSample, where

__all__ = ["RandomSearch", "Schedule", "State", "check_share", "searched"]

_HORIZON = 10_000


@dataclass(frozen=True)
class State:
    """Where a search stands.

    Attributes:
        delta: (n, ...) the best perturbation so far, in input units.
        margin: (n,) of it; infinite before the first question.
        proposal: (n, ...) the perturbation to be asked about next.
        epsilon: (n,) radius of the ball, in norm units.
    """

    delta: Batch
    margin: PerSample
    proposal: Batch
    epsilon: PerSample


class Changing(Protocol):
    """An attack that changes a share at a time, which falls with its steps."""

    @property
    def steps(self) -> int: ...
    @property
    def share(self) -> float: ...


class RandomSearch(Changing, Protocol):
    """A search by proposals."""

    def propose(
        self,
        p: Problem,
        delta: Batch,
        epsilon: PerSample,
        progress: PerSample,
        rng: Rng,
    ) -> Batch:
        """The perturbations (n, ...) of ball and box, changed in a part of them.

        Args:
            p: The problem.
            delta: (n, ...) perturbations.
            epsilon: (n,) radius of the ball, in norm units.
            progress: (n,) from 0 to below 1, on which the size of the part depends.
            rng: Random numbers.
        """


def searched(
    attack: RandomSearch, p: Problem, s: State, progress: PerSample, rng: Rng
) -> State:
    """The state after asking about the proposal, with a new one."""
    a = p.score(p.x + s.proposal)
    better = a.margin < s.margin
    delta = where(better, a.delta, s.delta)
    margin = where(better, a.margin, s.margin)
    proposal = attack.propose(p, delta, s.epsilon, progress, rng)
    return State(delta, margin, proposal, s.epsilon)


@dataclass(frozen=True)
class Schedule:
    """How the share falls, as the originals have it in a search of 10,000 questions.

    Args:
        after: So many questions, of 10,000; ascending.
        divisors: Of the share: one to begin with, and one from each of these on.
    """

    after: tuple[int, ...]
    divisors: tuple[float, ...]

    def share(self, attack: Changing, progress: Array, rescale: bool) -> Array:
        """(n,) the share to change now.

        Args:
            attack: Whose share it is at first.
            progress: (n,) how much of its steps is over, from 0 to 1.
            rescale: Whether its steps stand for a search of 10,000 questions, however
                many they are; else the share falls as at the beginning of one.

        >>> from robustkit.attacks.score.square import Square
        >>> halved = Schedule(after=(100,), divisors=(1, 2))
        >>> attack = Square(epsilon=0.1, steps=50, share=0.8)
        >>> halved.share(attack, np.array([0.01, 0.02]), rescale=True).tolist()
        [0.8, 0.4]
        """
        asked = progress * (_HORIZON if rescale else attack.steps)
        stage = (asked[:, None] > np.array(self.after)).sum(axis=1)
        return np.asarray(attack.share / np.array(self.divisors)[stage])


def check_share(attack: Changing) -> None:
    """Whether the share is one.

    Raises:
        BadInput: It is not.
    """
    if not 0 < attack.share <= 1:
        name = type(attack).__name__
        raise BadInput(
            f"{name} needs a share above 0 and at most 1; got {attack.share}"
        )
