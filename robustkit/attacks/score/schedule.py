"""What random searches share: they change less and less of what they have found."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["RandomSearch", "Schedule", "check_share"]

_HORIZON = 10_000


class RandomSearch(Protocol):
    """An attack that changes a share at a time, which falls with its steps."""

    @property
    def steps(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def rescale(self) -> bool: ...


@dataclass(frozen=True)
class Schedule:
    """How the share falls, as the originals have it in a search of 10,000 questions.

    Args:
        after: So many questions, of 10,000; ascending.
        divisors: Of the share: one to begin with, and one from each of these on.
    """

    after: tuple[int, ...]
    divisors: tuple[float, ...]

    def share(self, attack: RandomSearch, progress: Array) -> Array:
        """(n,) the share to change after so much of its steps, (n,) from 0 to 1.

        >>> from robustkit.attacks.score.square import Square
        >>> halved = Schedule(after=(100,), divisors=(1, 2))
        >>> attack = Square(epsilon=0.1, steps=50, share=0.8)
        >>> halved.share(attack, np.array([0.01, 0.02])).tolist()
        [0.8, 0.4]
        """
        asked = progress * (_HORIZON if attack.rescale else attack.steps)
        stage = (asked[:, None] > np.array(self.after)).sum(axis=1)
        return np.asarray(attack.share / np.array(self.divisors)[stage])


def check_share(attack: RandomSearch) -> None:
    """Whether the share is one.

    Raises:
        BadInput: It is not.
    """
    if not 0 < attack.share <= 1:
        name = type(attack).__name__
        raise BadInput(
            f"{name} needs a share above 0 and at most 1; got {attack.share}"
        )
