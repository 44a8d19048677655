"""Balls, what is outside of them, and quadrics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from robustkit.active_tests.regions.base import ALL_NORMS, Region
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Ball", "OutsideBall", "Quadratic"]


@dataclass(frozen=True, eq=False)
class Ball(Region):
    """The points with |z - centre|_2 <= radius; the centre lies in the box.

    The nearest point lies between the input and the centre in every feature, so the
    box is never in the way.

    >>> ball = Ball(np.zeros(2), 1.0)
    >>> ball.nearest(np.array([3.0, 4.0]), "l2", Bounds(-9, 9))
    array([0.6, 0.8])

    Args:
        centre: (d,).
        radius: In input units.
    """

    centre: Array
    radius: float

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        z = x - self.centre
        away, limit = np.abs(z), self.radius**2
        if away @ away <= limit:
            return x.copy()
        if norm == "l2":
            kept = away * (self.radius / np.linalg.norm(z))
        elif norm == "linf":
            step = _root(
                lambda t: limit - (np.maximum(away - t, 0.0) ** 2).sum(), 0, away.max()
            )
            kept = np.maximum(away - step, 0.0)
        elif norm == "l1":
            level = _root(
                lambda t: (np.minimum(away, t) ** 2).sum() - limit, 0, away.max()
            )
            kept = np.minimum(away, level)
        else:
            order = np.argsort(-away, kind="stable")
            # What is left of the squared distance when so many features are zero.
            left = np.cumsum((away[order] ** 2)[::-1])[::-1]
            kept = away.copy()
            kept[order[left > limit]] = 0.0
        moved = kept < away
        return np.where(moved, self.centre + np.sign(z) * kept, x)


@dataclass(frozen=True, eq=False)
class OutsideBall(Region):
    """The points with |z - centre|_2 >= radius.

    >>> outside = OutsideBall(np.zeros(2), 1.0)
    >>> outside.nearest(np.array([0.3, 0.4]), "l2", Bounds(-9, 9)).round(3)
    array([0.6, 0.8])

    Args:
        centre: (d,).
        radius: In input units.
        boxed: The ball is not within the box. Then the nearest point in L1 is not
            known, and the one in L2 only where the sphere can be reached by moves
            away from the centre.
    """

    centre: Array
    radius: float
    boxed: bool = False

    @property
    def norms(self) -> frozenset[str]:
        return ALL_NORMS - {"l1"} if self.boxed else ALL_NORMS

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        z = x - self.centre
        lacking = self.radius**2 - z @ z
        if lacking <= 0:
            return x.copy()
        low, high = bounds.lower - self.centre, bounds.upper - self.centre
        # The farthest that each feature can be from the centre, and there.
        end = np.where(np.abs(low) > np.abs(high), low, high)
        if end @ end < self.radius**2:
            return None
        solve = {
            "l0": self._fewest,
            "l1": self._least_sum,
            "l2": self._least_length,
            "linf": self._least_maximum,
        }[norm]
        moved = solve(z, low, high, end)
        return np.where(moved == z, x, (self.centre + moved)).clip(
            bounds.lower, bounds.upper
        )

    def _fewest(self, z: Array, low: Array, high: Array, end: Array) -> Array:
        gain = end**2 - z**2
        order = np.argsort(-gain, kind="stable")
        before = np.cumsum(gain[order]) - gain[order]
        moving = order[before < self.radius**2 - z @ z]
        moved = z.copy()
        moved[moving] = end[moving]
        return moved

    def _least_sum(self, z: Array, low: Array, high: Array, end: Array) -> Array:
        # A squared distance grows the faster, the larger it is: one feature moves.
        most = int(np.argmax(np.abs(z)))
        moved = z.copy()
        length = np.sqrt(self.radius**2 - z @ z + z[most] ** 2)
        moved[most] = np.copysign(length, z[most])
        return moved

    def _least_length(self, z: Array, low: Array, high: Array, end: Array) -> Array:
        # All features by one factor, but for those that reach the end of the box. For
        # such a factor the Lagrangian is convex, so no other point is nearer.
        away = z != 0
        room = np.where(z > 0, high, -low)
        if (room[away] ** 2).sum() < self.radius**2:
            raise BadInput(
                "the nearest point outside of this ball is not known in l2: it cannot "
                "be reached by moving away from the centre within the box"
            )
        steep = np.abs(z)
        most = (room[away] / steep[away]).max()

        def excess(factor: float) -> float:
            return float((np.minimum(factor * steep, room) ** 2)[away].sum()) - (
                self.radius**2
            )

        factor = _root(excess, 1.0, most)
        return np.where(away, np.sign(z) * np.minimum(factor * steep, room), z)

    def _least_maximum(self, z: Array, low: Array, high: Array, end: Array) -> Array:
        def farthest(step: float) -> Array:
            lower, upper = np.maximum(z - step, low), np.minimum(z + step, high)
            return np.where(np.abs(lower) > np.abs(upper), lower, upper)

        step = _root(
            lambda t: float((farthest(t) ** 2).sum()) - self.radius**2,
            0.0,
            float((high - low).max()),
        )
        return farthest(step)


@dataclass(frozen=True, eq=False)
class Quadratic(Region):
    """The points with v Q v / 2 + slope . v + offset <= 0, where v = z - centre.

    The nearest point is known in L2 where the box is not in the way: it solves a trust
    region problem, in the eigenbasis by the root of one number, the hard case (no
    slope along the lowest eigenvector) included.

    >>> saddle = Quadratic(np.diag([1.0, -1.0]), np.zeros(2), np.zeros(2), 0.5)
    >>> saddle.nearest(np.array([1.0, 0.0]), "l2", Bounds(-9, 9)).round(3)
    array([0.5  , 1.118])

    Args:
        curvature: (d, d) symmetric Q.
        slope: (d,).
        centre: (d,).
        offset: Of the margin.
    """

    curvature: Array
    slope: Array
    centre: Array
    offset: float

    @property
    def norms(self) -> frozenset[str]:
        return frozenset({"l2"})

    def value(self, z: Array) -> float:
        """The margin at `z` (d,)."""
        v = z - self.centre
        return float(v @ self.curvature @ v / 2 + self.slope @ v + self.offset)

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        margin = self.value(x)
        if margin <= 0:
            return x.copy()
        bends, basis = np.linalg.eigh(self.curvature)
        steep = basis.T @ (self.curvature @ (x - self.centre) + self.slope)
        moves = _to_quadric(margin, steep, bends)
        for candidate in (x + basis @ move for move in moves):
            if (bounds.lower <= candidate).all() and (candidate <= bounds.upper).all():
                return np.asarray(candidate)
        if not moves:
            return None
        raise BadInput(
            "the nearest point of this quadric lies outside of the box; with the box "
            "in the way it is not known"
        )


def _to_quadric(margin: float, steep: Array, bends: Array) -> list[Array]:
    """The shortest moves along the eigenvectors that bring a quadratic to zero.

    They are -m steep / (1 + m bends) for one multiplier m > 0, and the value falls as
    m grows, until 1 + m bends vanishes somewhere.

    Args:
        margin: Its value at the start, positive.
        steep: (d,) its slopes at the start.
        bends: (d,) eigenvalues.
    """
    lowest = float(bends.min())
    bottom = bends <= lowest + 1e-12 * abs(lowest)

    def value(step: Array) -> float:
        return float(margin + steep @ step + bends @ step**2 / 2)

    if lowest >= 0:
        bent = bends > 0
        least = margin - (steep[bent] ** 2 / bends[bent]).sum() / 2
        if least >= 0 and not steep[~bent].any():
            return []

        def move(multiplier: float) -> Array:
            return np.asarray(-multiplier * steep / (1 + multiplier * bends))

        far = 1.0
        while value(move(far)) > 0:
            far *= 2
        return [move(_root(lambda m: value(move(m)), 0.0, far))]

    pole = -1 / lowest

    def short_of_pole(gap: float) -> Array:
        multiplier = pole * (1 - gap)
        # At the bottom exactly, since the gap may be less than rounding.
        share = np.where(bottom, gap, 1 + multiplier * bends)
        return np.asarray(-multiplier * steep / share)

    if not steep[bottom].any():
        step = np.zeros_like(steep)
        step[~bottom] = -pole * steep[~bottom] / (1 + pole * bends[~bottom])
        left = value(step)
        if left > 0:
            # The hard case: the rest of the way is along the lowest eigenvector.
            way = np.zeros_like(steep)
            way[np.flatnonzero(bottom)[0]] = np.sqrt(2 * left * pole)
            return [step + way, step - way]
    gap = 0.5
    while value(short_of_pole(gap)) > 0:
        gap /= 2
    return [short_of_pole(_root(lambda g: value(short_of_pole(g)), gap, 1.0))]


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing or decreasing function is zero, as exactly as floats can."""
    rounding = float(np.finfo(np.float64).eps)
    root: float = brentq(function, low, high, xtol=1e-300, rtol=4 * rounding)
    return root
