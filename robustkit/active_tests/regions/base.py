"""What a region is."""

from abc import ABC, abstractmethod

import numpy as np

from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["ALL_NORMS", "ClosedForm", "Region", "size"]

ALL_NORMS = frozenset({"l0", "l1", "l2", "linf"})


def size(delta: Array, norm: str) -> float:
    """The size of one perturbation (d,), in norm units.

    >>> size(np.array([3.0, -4.0, 0.0]), "l2")
    5.0
    """
    if norm == "l0":
        return float(np.count_nonzero(delta))
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    return float(np.linalg.norm(delta, order))


class Region(ABC):
    """A closed set of points."""

    @property
    def norms(self) -> frozenset[str]:
        """Names of the norms in which its nearest points are known."""
        return ALL_NORMS

    @abstractmethod
    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        """A point (d,) of the region and of the box that is nearest to `x` (d,).

        Features that need not move are equal to those of `x`. None: the region has no
        point in the box.
        """

    def at_least(self, x: Array, norm: str, bounds: Bounds) -> float:
        """Quickly, a number that the distance is not below (infinite: out of reach)."""
        return 0.0


class ClosedForm(Region):
    """A region whose nearest points are found at once, and their distance with them."""

    def at_least(self, x: Array, norm: str, bounds: Bounds) -> float:
        nearest = self.nearest(x, norm, bounds)
        return np.inf if nearest is None else size(nearest - x, norm)
