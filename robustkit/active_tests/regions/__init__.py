"""Sets of adversarial points, and the exact way to the nearest point of each.

A region is closed: an attack, which must cross the boundary, approaches these distances
from above. All in double precision; points are flat, (d,).
"""

from robustkit.active_tests.regions.base import ALL_NORMS, Region, size
from robustkit.active_tests.regions.boxes import Cuboid
from robustkit.active_tests.regions.curved import Ball, OutsideBall, Quadratic
from robustkit.active_tests.regions.linear import HalfSpace, Polyhedron, polyhedron

__all__ = [
    "ALL_NORMS",
    "Ball",
    "Cuboid",
    "HalfSpace",
    "OutsideBall",
    "Polyhedron",
    "Quadratic",
    "Region",
    "polyhedron",
    "size",
]
