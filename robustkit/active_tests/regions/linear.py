"""Half-spaces and polyhedra."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, linprog, nnls

from robustkit.active_tests.regions.base import ClosedForm, Region
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.integer_programs import milp
from robustkit.numerics.tensors import Array

__all__ = ["HalfSpace", "Polyhedron", "polyhedron"]


@dataclass(frozen=True, eq=False)
class HalfSpace(ClosedForm):
    """The points with slope . z + offset <= 0.

    >>> half = HalfSpace(np.array([1.0, 2.0]), -0.5)
    >>> half.nearest(np.array([0.5, 0.5]), "linf", Bounds(0, 1)).round(3)
    array([0.167, 0.167])
    >>> half.nearest(np.array([0.5, 0.5]), "l0", Bounds(0, 1))
    array([0.5, 0. ])

    Args:
        slope: (d,) of the margin.
        offset: Of the margin.
    """

    slope: Array
    offset: float

    def margin(self, z: Array) -> float:
        """Slope . z + offset."""
        return float(self.slope @ z + self.offset)

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        margin = self.margin(x)
        if margin <= 0:
            # A tie everywhere is not adversarial anywhere.
            return x.copy() if margin < 0 or self.slope.any() else None
        steep = np.abs(self.slope)
        room = np.where(self.slope > 0, x - bounds.lower, bounds.upper - x)
        gain = steep * room
        if gain.sum() - margin < _PRECISION * bounds.width * np.linalg.norm(steep):
            # A corner of the box where there is a tie is not adversarial either.
            return None
        if norm in ("l0", "l1"):
            # The features that give most (per unit moved), to the end of their room.
            order = np.argsort(-(gain if norm == "l0" else steep), kind="stable")
            before = np.concatenate([[0.0], np.cumsum(gain[order])[:-1]])
            moved = np.where(before < margin, room[order], 0.0)
            if norm == "l1":
                last = np.flatnonzero(before < margin)[-1]
                moved[last] = (margin - before[last]) / steep[order[last]]
            step = np.empty_like(moved)
            step[order] = np.minimum(moved, room[order])
        else:
            step = _common_pace(steep, room, margin, norm)
        target = x - np.sign(self.slope) * step
        # Not x + (bound - x), which may miss the bound by rounding.
        bound = np.where(self.slope > 0, bounds.lower, bounds.upper)
        ends = np.where(step > 0, bound, x)
        return np.asarray(np.where(step >= room, ends, target))


def _common_pace(steep: Array, room: Array, margin: float, norm: str) -> Array:
    """Moves min(room, t pace) that together gain the margin, by the least t.

    The gain is piecewise linear in t with a kink where a feature has used its room.
    """
    pace = steep if norm == "l2" else np.where(steep > 0, 1.0, 0.0)
    moving = pace > 0
    kinks = np.zeros_like(room)
    kinks[moving] = room[moving] / pace[moving]
    order = np.argsort(kinks, kind="stable")
    rate = (steep * pace)[order]
    # At the kink of each feature: those before it are spent, the others still move.
    spent = np.cumsum((steep * room)[order]) - (steep * room)[order]
    left = rate[::-1].cumsum()[::-1]
    gained = spent + left * kinks[order]
    at = min(int(np.searchsorted(gained, margin)), len(gained) - 1)
    time = (margin - spent[at]) / left[at] if left[at] > 0 else kinks[order][at]
    return np.asarray(np.minimum(room, time * pace))


@dataclass(frozen=True, eq=False)
class Polyhedron(Region):
    """The points with slopes . z + offsets <= 0 in every row.

    Args:
        slopes: (rows, d).
        offsets: (rows,).
        strict: What counts is whether points with values below 0 are near, so where
            there are none in the box, there is no nearest point either.
    """

    slopes: Array
    offsets: Array
    strict: bool = False

    def __post_init__(self) -> None:
        # Solvers judge by absolute tolerances.
        scale = np.linalg.norm(self.slopes, axis=1)
        scale = np.where(scale > 0, scale, 1.0)
        object.__setattr__(self, "slopes", self.slopes / scale[:, None])
        object.__setattr__(self, "offsets", self.offsets / scale)

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        if self.strict and self._lowest(bounds) > -_PRECISION * bounds.width:
            return None
        margins = self.slopes @ x + self.offsets
        if (margins <= 0).all():
            return x.copy()
        low, high = bounds.lower - x, bounds.upper - x
        solve = {
            "l0": _fewest,
            "l1": _least_sum,
            "l2": _least_length,
            "linf": _least_maximum,
        }[norm]
        delta = solve(self.slopes, margins, low, high)
        if delta is None:
            return None
        return (x + delta).clip(bounds.lower, bounds.upper)

    def at_least(self, x: Array, norm: str, bounds: Bounds) -> float:
        rows = zip(self.slopes, self.offsets, strict=True)
        return max(HalfSpace(a, b).at_least(x, norm, bounds) for a, b in rows)

    def _lowest(self, bounds: Bounds) -> float:
        """The least that the largest of the rows can be in the box, by a program."""
        count = self.slopes.shape[1]
        found = linprog(
            np.append(np.zeros(count), 1.0),
            np.hstack([self.slopes, -np.ones((len(self.offsets), 1))]),
            -self.offsets,
            bounds=[(bounds.lower, bounds.upper)] * count + [(None, None)],
            options=_PRECISE,
        )
        lowest = _checked(found, lambda v: v[count:])
        return np.inf if lowest is None else float(lowest[0])


def polyhedron(slopes: Array, offsets: Array, *, strict: bool = False) -> Region:
    """The region of these rows; one row alone is a half-space, in closed form."""
    if len(offsets) == 1:
        return HalfSpace(slopes[0], float(offsets[0]))
    return Polyhedron(slopes, offsets, strict)


# Each of these finds the smallest delta within [low, high] that has
# slopes . delta <= -margins, or None.

_PRECISE = {
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
}
_PRECISION = 1e-9
"""Of the width of the box: less than that is not told from nothing."""


def _least_sum(slopes: Array, margins: Array, low: Array, high: Array) -> Array | None:
    """By a linear program over the parts above and below zero."""
    count = len(low)
    found = linprog(
        np.ones(2 * count),
        np.hstack([slopes, -slopes]),
        -margins,
        bounds=np.column_stack([np.zeros(2 * count), np.concatenate([high, -low])]),
        options=_PRECISE,
    )
    return _checked(found, lambda v: v[:count] - v[count:])


def _least_maximum(
    slopes: Array, margins: Array, low: Array, high: Array
) -> Array | None:
    """By a linear program over delta and its maximum."""
    count = len(low)
    one, unit = np.ones((count, 1)), np.eye(count)
    found = linprog(
        np.append(np.zeros(count), 1.0),
        np.block([[slopes, np.zeros((len(margins), 1))], [unit, -one], [-unit, -one]]),
        np.concatenate([-margins, np.zeros(2 * count)]),
        bounds=np.column_stack([np.append(low, 0.0), np.append(high, np.inf)]),
        options=_PRECISE,
    )
    return _checked(found, lambda v: v[:count])


def _fewest(slopes: Array, margins: Array, low: Array, high: Array) -> Array | None:
    """By a mixed-integer program over which features move.

    Its solver may take a set of features for sufficient that is not quite. So every
    set is tried by a linear program, and excluded where it fails.
    """
    count = len(low)
    unit = np.eye(count)
    none = np.zeros_like(slopes)
    rules = [
        LinearConstraint(np.hstack([slopes, none]), ub=-margins),
        LinearConstraint(np.hstack([unit, -np.diag(high)]), ub=0.0),
        LinearConstraint(np.hstack([-unit, np.diag(low)]), ub=0.0),
    ]
    while True:
        found = milp(
            np.repeat([0.0, 1.0], count),
            integrality=np.repeat([0, 1], count),
            bounds=Limits(
                np.concatenate([low, np.zeros(count)]),
                np.concatenate([high, np.ones(count)]),
            ),
            constraints=rules,
        )
        moves = _checked(found, lambda v: v[count:] > 0.5)
        if moves is None:
            return None
        delta = _least_sum(slopes, margins, low * moves, high * moves)
        if delta is not None:
            return delta
        others = np.concatenate([np.zeros(count), ~moves])
        rules.append(LinearConstraint(others[None, :], lb=1.0))


def _least_length(
    slopes: Array, margins: Array, low: Array, high: Array
) -> Array | None:
    """By non-negative least squares on the dual (Lawson and Hanson's LDP).

    With the box as further rows. In units of its diameter the residual tells at once
    whether there is a solution: its square is 1 / (1 + length^2), or zero.
    """
    diameter = np.linalg.norm(high - low)
    unit = np.eye(len(low))
    rows = np.vstack([-slopes, unit, -unit])
    least = np.concatenate([margins, low, -high]) / diameter
    system = np.vstack([rows.T, least])
    goal = np.append(np.zeros(len(low)), 1.0)
    weights, _ = nnls(system, goal, maxiter=50 * len(least))
    residual = system @ weights - goal
    if residual @ residual < 0.25:
        return None
    # Once more, with the rows that hold with equality: to full precision.
    active = weights > 0
    delta = np.linalg.lstsq(rows[active], least[active], rcond=None)[0]
    if (rows @ delta < least - 1e-9).any():
        delta = -residual[:-1] / residual[-1]
    return np.asarray(delta * diameter)


def _checked(found: Any, part: Callable[[Array], Array]) -> Array | None:
    """A part of a solver's answer; None: it says that there is no solution."""
    if found.status == 2:
        return None
    if found.status != 0:
        raise RuntimeError(f"the solver gave up: {found.message}")
    return part(found.x)
