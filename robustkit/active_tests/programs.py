"""Mixed-integer programs for the adversarials of a network within a ball.

Tjeng, Xiao, Tedrake: Evaluating Robustness of Neural Networks with Mixed Integer
Programming, ICLR 2019: one binary variable for each ReLU whose sign is not settled
within the ball. The tighter the bounds before the ReLUs, the faster.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint

from robustkit.active_tests.networks import ReluNetwork
from robustkit.numerics.integer_programs import milp
from robustkit.numerics.tensors import Array

__all__ = [
    "Answer",
    "Ball",
    "Goal",
    "Interval",
    "interval_bounds",
    "lead_bound",
    "solve",
    "tightened",
]

_ANY = 1e9
"""A gap so large that the first solution will do."""
_WHOLE = 1e-9
"""By so much a whole number may be off. At a solver's usual 1e-6 it may take a point
for the best that is none once numbers are whole, and say then that there is none."""
_SAFE = 1e-6
"""By so much, of its size, a solver may be wrong about a bound."""

Interval = tuple[Array, Array]
"""Lower and upper bounds (neurons,) of what goes into a layer's ReLUs."""
Goal = Sequence[tuple[int, int]]
"""Pairs of classes; adversarial is where every first one is at least the second."""


@dataclass(frozen=True, eq=False)
class Ball:
    """The perturbations that are looked at: within a box and a radius.

    Args:
        norm: "l0", "l1" or "linf".
        low: (d,) the least that each feature may change by, at most 0.
        high: (d,) the most, at least 0.
        radius: In norm units; may be infinite.
    """

    norm: str
    low: Array
    high: Array
    radius: float

    def __post_init__(self) -> None:
        if self.norm != "l0":
            object.__setattr__(self, "low", np.maximum(self.low, -self.radius))
            object.__setattr__(self, "high", np.minimum(self.high, self.radius))

    def highest(self, rows: Array) -> Array:
        """(m,) the most that each of the rows (m, d) times a perturbation can be."""
        room = np.where(rows > 0, self.high, -self.low)
        gain = np.abs(rows) * room
        if self.norm == "linf" or self.radius == np.inf:
            return np.asarray(gain.sum(axis=1))
        if self.norm == "l0":
            most = np.sort(gain, axis=1)[:, ::-1][:, : int(self.radius)]
            return np.asarray(most.sum(axis=1))
        order = np.argsort(-np.abs(rows), axis=1)
        room = np.take_along_axis(room, order, axis=1)
        before = np.cumsum(room, axis=1) - room
        used = np.minimum(room, np.maximum(self.radius - before, 0.0))
        steep = np.take_along_axis(np.abs(rows), order, axis=1)
        return np.asarray((steep * used).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver found.

    Attributes:
        empty: It has proven that there is no adversarial.
        lead: Of the goal's first pair, at the perturbation found, but for a constant.
        delta: (d,) the perturbation, or None.
        active: For each layer the ReLUs (neurons,) that are on in it.
    """

    empty: bool
    lead: float
    delta: Array | None
    active: list[Array]


@dataclass
class _Rows:
    """Rules lower <= A v <= upper, put together block by block."""

    blocks: list[Any]
    lower: list[Array]
    upper: list[Array]

    def add(self, block: Any, lower: Array | float, upper: Array | float) -> None:
        count = block.shape[0]
        self.blocks.append(sparse.csr_array(block))
        self.lower.append(np.broadcast_to(np.asarray(lower, float), count))
        self.upper.append(np.broadcast_to(np.asarray(upper, float), count))


class _Program:
    """Variables: the perturbation's, then (before, after, on) of each layer's ReLUs."""

    def __init__(
        self, network: ReluNetwork, x: Array, ball: Ball, hidden: Sequence[Interval]
    ) -> None:
        count, norm = len(x), ball.norm
        self.ball = ball
        own = count if norm == "linf" else 2 * count
        sizes = [own] + [3 * len(low) for low, _ in hidden]
        self.total = sum(sizes)
        self.starts = np.cumsum([0, *sizes])[:-1]
        self.low = np.zeros(self.total)
        self.high = np.zeros(self.total)
        self.whole = np.zeros(self.total)
        self.rows = _Rows([], [], [])
        self._geometry(count)
        feed = self.to_delta
        # The first layer sees the original and the perturbation.
        first = network.layers[0][0] @ x + network.layers[0][1]
        for at, (low, high) in enumerate(hidden):
            weight, bias = network.layers[at]
            self._layer(at, weight, feed, first if at == 0 else bias, low, high)
            feed = self._pick(self.starts[at + 1] + len(low), len(low))
        self.last = feed

    def _pick(self, start: int, count: int) -> Any:
        """The matrix that picks so many variables."""
        rows = np.arange(count)
        return sparse.csr_array(
            (np.ones(count), (rows, rows + start)), shape=(count, self.total)
        )

    def _geometry(self, count: int) -> None:
        ball, first = self.ball, self._pick(0, count)
        second = slice(count, 2 * count)
        if ball.norm == "l1":
            self.high[:count], self.high[second] = ball.high, -ball.low
            self.to_delta = first - self._pick(count, count)
        else:
            self.low[:count], self.high[:count] = ball.low, ball.high
            self.to_delta = first
        if ball.norm == "l0":
            moves = self._pick(count, count)
            self.high[second] = self.whole[second] = 1
            self.rows.add(first - sparse.diags_array(ball.high) @ moves, -np.inf, 0)
            self.rows.add(first - sparse.diags_array(ball.low) @ moves, 0, np.inf)
        if ball.norm != "linf" and np.isfinite(ball.radius):
            sizes = np.zeros((1, self.total))
            sizes[0, count * (ball.norm == "l0") : 2 * count] = 1
            self.rows.add(sparse.csr_array(sizes), 0, ball.radius)

    def _layer(
        self, at: int, weight: Array, feed: Any, bias: Array, low: Array, high: Array
    ) -> None:
        count, start = len(low), self.starts[at + 1]
        before, after, on = (self._pick(start + i * count, count) for i in range(3))
        self.low[start : start + count] = low
        self.high[start : start + count] = high
        self.high[start + count : start + 2 * count] = np.maximum(high, 0)
        place = slice(start + 2 * count, start + 3 * count)
        self.low[place] = low >= 0
        self.high[place] = high > 0
        self.whole[place] = (low < 0) & (high > 0)
        self.rows.add(before - sparse.csr_array(weight) @ feed, bias, bias)
        # 0 <= after, before <= after <= high on, after <= before - low (1 - on).
        shut, open_ = np.minimum(low, 0), np.maximum(high, 0)
        self.rows.add(after - before, 0, np.inf)
        self.rows.add(after - sparse.diags_array(open_) @ on, -np.inf, 0)
        self.rows.add(after - before - sparse.diags_array(shut) @ on, -np.inf, -shut)

    def aim(self, network: ReluNetwork, goal: Goal, x: Array) -> Array:
        """Ask for an adversarial; returns what the lead of its first pair is made of.

        As coefficients of all variables, and but for a constant.
        """
        weight, bias = network.layers[-1]
        winners, losers = np.array(goal).T
        lead = weight[winners] - weight[losers]
        least = bias[losers] - bias[winners]
        if len(network.layers) == 1:
            least = least - lead @ x
        block = sparse.csr_array(lead) @ self.last
        self.rows.add(block, least, np.inf)
        return np.asarray(block[[0]].toarray()[0])

    def run(self, cost: Array, *, whole: bool, seconds: float, gap: float) -> Any:
        rules = []
        if self.rows.blocks:
            rules.append(
                LinearConstraint(
                    sparse.vstack(self.rows.blocks, format="csc"),
                    np.concatenate(self.rows.lower),
                    np.concatenate(self.rows.upper),
                )
            )
        return milp(
            cost,
            integrality=self.whole if whole else None,
            bounds=Bounds(self.low, self.high),
            constraints=rules,
            options={
                "time_limit": max(seconds, 1e-3),
                "mip_rel_gap": gap,
                "mip_feasibility_tolerance": _WHOLE,
            },
        )


def solve(
    network: ReluNetwork,
    x: Array,
    ball: Ball,
    hidden: Sequence[Interval],
    goal: Goal,
    *,
    relaxed: bool,
    seconds: float,
) -> Answer:
    """An adversarial in a ball, or that it holds none.

    That is a smaller program than one for the nearest: Linf balls are boxes.

    Args:
        network: In double precision.
        x: (d,) the original.
        ball: Where to look.
        hidden: Bounds that hold in the ball, for each layer but the last.
        goal: What is adversarial.
        relaxed: A linear program, which may hold points that are not adversarial.
        seconds: After which to stop.
    """
    if any((low > high).any() for low, high in hidden):
        return Answer(True, -np.inf, None, [])
    program = _Program(network, x, ball, hidden)
    lead = program.aim(network, goal, x)
    # Bounds on the lead cut branches off, long before they have no point at all.
    found = program.run(-lead, whole=not relaxed, seconds=seconds, gap=_ANY)
    if found.status == 2:
        return Answer(True, -np.inf, None, [])
    if found.x is None:
        return Answer(False, np.inf, None, [])
    active = [
        found.x[start + 2 * len(low) : start + 3 * len(low)] > 0.5
        for start, (low, _) in zip(program.starts[1:], hidden, strict=True)
    ]
    return Answer(False, float(lead @ found.x), program.to_delta @ found.x, active)


def interval_bounds(network: ReluNetwork, x: Array, ball: Ball) -> list[Interval]:
    """Bounds before the ReLUs: the best there are for the first layer, then intervals.

    Args:
        network: In double precision.
        x: (d,) the original.
        ball: In which they hold.
    """
    hidden: list[Interval] = []
    for at, (weight, bias) in enumerate(network.layers[:-1]):
        if at == 0:
            centre = weight @ x + bias
            low = centre - ball.highest(-weight)
            high = centre + ball.highest(weight)
        else:
            under, over = (np.maximum(part, 0) for part in hidden[-1])
            rise, fall = np.maximum(weight, 0), np.minimum(weight, 0)
            low = rise @ under + fall @ over + bias
            high = rise @ over + fall @ under + bias
        hidden.append((low, high))
    return hidden


def lead_bound(network: ReluNetwork, x: Array, ball: Ball, goal: Goal) -> float:
    """The most that a goal's scores can lead by in a ball, by intervals.

    Below zero it is out of reach. Of several pairs of classes, the least one counts.

    Args:
        network: In double precision.
        x: (d,) the original.
        ball: Where to look.
        goal: What is adversarial.
    """
    weight, bias = network.layers[-1]
    winners, losers = np.array(goal).T
    lead, start = weight[winners] - weight[losers], bias[winners] - bias[losers]
    if len(network.layers) == 1:
        return float((lead @ x + start + ball.highest(lead)).min())
    under, over = (
        np.maximum(part, 0) for part in interval_bounds(network, x, ball)[-1]
    )
    most = np.maximum(lead, 0) @ over + np.minimum(lead, 0) @ under
    return float((most + start).min())


def tightened(
    network: ReluNetwork,
    x: Array,
    ball: Ball,
    hidden: Sequence[Interval],
    goal: Goal | None,
    seconds: float,
) -> list[Interval]:
    """Narrower bounds, by linear programs in which ReLUs are triangles.

    Args:
        network: In double precision.
        x: (d,) the original.
        ball: In which they are to hold.
        hidden: Bounds that hold there.
        goal: What is adversarial, if they need hold for adversarials only.
        seconds: After which to stop.

    Returns:
        The bounds; crossed where a program has no solution.
    """
    until = time.monotonic() + seconds
    bounds = [(low.copy(), high.copy()) for low, high in hidden]
    # Without a goal, those of the first layer cannot be narrower.
    for at in range(goal is None, len(bounds)):
        low, high = bounds[at]
        for unit in np.flatnonzero((low < 0) & (high > 0)):
            known = bounds if goal is not None else bounds[: at + 1]
            program = _Program(network, x, ball, known)
            if goal is not None:
                program.aim(network, goal, x)
            for sign in (1.0, -1.0):
                left = until - time.monotonic()
                if left <= 0:
                    return bounds
                cost = np.zeros(program.total)
                cost[program.starts[at + 1] + unit] = sign
                found = program.run(cost, whole=False, seconds=left, gap=0.0)
                if found.status == 2:
                    low[unit], high[unit] = np.inf, -np.inf
                    return bounds
                if found.status != 0:
                    continue
                bound = float(found.fun - _SAFE * max(1.0, abs(found.fun)))
                if sign > 0:
                    low[unit] = max(low[unit], bound)
                else:
                    high[unit] = min(high[unit], -bound)
    return bounds
