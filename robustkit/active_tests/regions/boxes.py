"""Boxes along the axes: of decision trees, hypercubes and planted patches."""

from dataclasses import dataclass

import numpy as np

from robustkit.active_tests.regions.base import ClosedForm
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Cuboid"]


@dataclass(frozen=True, eq=False)
class Cuboid(ClosedForm):
    """The points with lower <= z <= upper in every feature.

    One point is nearest in every norm: each feature moves to its interval by itself.

    Args:
        lower: (d,), -infinity where there is no limit.
        upper: (d,), infinity where there is no limit.

    >>> half = Cuboid(np.array([0.5, -np.inf]), np.array([np.inf, np.inf]))
    >>> half.nearest(np.array([0.2, 0.7]), "l1", Bounds(0, 1))
    array([0.5, 0.7])
    """

    lower: Array
    upper: Array

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        lower = np.maximum(self.lower, bounds.lower)
        upper = np.minimum(self.upper, bounds.upper)
        if (lower > upper).any():
            return None
        return np.asarray(x.clip(lower, upper))
