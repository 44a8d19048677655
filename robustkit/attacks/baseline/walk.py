"""What the baselines share: walks from the original towards far points."""

from abc import ABC, abstractmethod
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import approach
from robustkit.models.base import Access
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch

__all__ = ["Walk"]


class Walk(Attack[None], ABC):
    """Towards a new far point in each step, as far as the decision boundary.

    A step asks about the point just below the best distance known, and bisects from
    there only where that passes: most steps cost 1 question. A subclass names the far
    points.
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward; about 10 more where it passes"

    @abstractmethod
    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        """(n, ...) what to walk towards in step `t`; will be clipped to the bounds."""

    def init(self, p: Problem) -> None:
        return None

    def step(self, p: Problem, s: None, t: int) -> None:
        approach(p, self.far(p, p.rng(t), t))
