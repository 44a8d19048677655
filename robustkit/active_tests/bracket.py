"""The distance of one input's nearest adversarial, closed in on from both sides."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustkit.active_tests.networks import ReluNetwork, balanced
from robustkit.active_tests.programs import (
    Answer,
    Ball,
    Goal,
    Interval,
    interval_bounds,
    lead_bound,
    solve,
    tightened,
)
from robustkit.active_tests.regions import polyhedron, size
from robustkit.active_tests.scores import flat_model
from robustkit.engine.criteria import Criterion, Misclassification, Targeted
from robustkit.evaluation.single import run
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, as_tensor
from robustkit.presets import auto

__all__ = ["Bracket"]

_SHORT = 5e-6
"""By this share, balls that are to hold nothing are smaller than the best distance."""
_NARROW = 1e-6
"""A share of the radius within which it is not sought any more."""
_FAR = 1e-6
"""A witness is at most this share of the box farther than the boundary."""


@dataclass
class _Quest:
    """What is known of one goal.

    Attributes:
        goal: What is adversarial.
        floor: No adversarial of it is nearer, in norm units.
        reach: The next radius to look in, if it is below the best distance.
        hard: A program about it took too long.
        stuck: Only ties are left, which no program tells from adversarials.
    """

    goal: Goal
    floor: float
    reach: float = np.inf
    hard: bool = False
    stuck: bool = False


class Bracket:
    """What is known of one input, from both sides.

    Args:
        network: In double precision.
        x: (d,) the input.
        y: Its label.
        target: The class to be reached; None: any but the label.
        norm: "linf", "l1" or "l0".
        box: Of valid inputs.
        deadline: When time is up, by `time.monotonic`.

    Attributes:
        lower: No adversarial is nearer, in norm units.
        upper: The distance of `witness`; infinite without one.
        witness: (d,) the nearest adversarial known.
    """

    def __init__(
        self,
        network: ReluNetwork,
        x: Array,
        y: int,
        target: int | None,
        norm: str,
        box: Bounds,
        deadline: float,
    ) -> None:
        self.lower, self.upper = 0.0, np.inf
        self.witness: Array | None = None
        self._x, self._norm, self._box = x, norm, box
        self._network = balanced(network, x, max(abs(box.lower), abs(box.upper)))
        self._y, self._target, self._deadline = y, target, deadline
        self._low, self._high = box.lower - x, box.upper - x
        self._largest = size(np.maximum(-self._low, self._high), norm)
        self._narrowed: tuple[float, list[Interval]] | None = None
        classes = range(len(network.layers[-1][1]))
        self._goals: list[Goal]
        if target is None:
            self._goals = [[(j, y)] for j in classes if j != y]
        else:
            self._goals = [[(target, j) for j in classes if j != target]]

    def close(self, seed: int) -> None:
        """Close in from both sides until they meet or time is up."""
        if self._offer(self._x):
            return
        self._attack(seed)
        quests = [_Quest(goal, self._proven(goal)) for goal in self._goals]
        pending = self._promising(quests)
        while pending and self._left() > 0:
            # Shares of the time, so that no goal keeps the others from an answer.
            for turn, quest in enumerate(pending):
                if not self._done(quest):
                    self._pursue(quest, self._left() / (len(pending) - turn))
            pending = [q for q in pending if not (q.stuck or self._done(q))]
        self.lower = min(min(quest.floor for quest in quests), self.upper)

    def _promising(self, quests: list[_Quest]) -> list[_Quest]:
        """Those that a linear program does not rule out, the likeliest first."""
        leads = {}
        for at, quest in enumerate(quests):
            if self._done(quest):
                continue
            radius = self._radius()
            seconds = self._left() / (4 * len(quests))
            hidden = self._hidden(radius)
            answer = self._solve(quest.goal, radius, hidden, True, seconds)
            if answer.empty:
                quest.floor = max(quest.floor, self._after(radius))
            else:
                leads[at] = answer.lead
        return [quests[at] for at in sorted(leads, key=lambda at: -leads[at])]

    def _pursue(self, quest: _Quest, seconds: float) -> None:
        """Look in one more ball: a smaller one, if the last was too much."""
        until = time.monotonic() + seconds
        radius, best = min(quest.reach, self._radius()), self.upper
        ball, hidden = self._ball(radius), self._hidden(radius)
        if quest.hard:
            # It takes longer than most programs.
            third = seconds / 3
            hidden = tightened(self._network, self._x, ball, hidden, quest.goal, third)
        left = until - time.monotonic()
        answer = self._solve(quest.goal, radius, hidden, False, left)
        if answer.empty:
            quest.floor, quest.reach = max(quest.floor, self._after(radius)), np.inf
            return
        if answer.delta is not None:
            self._descend(self._x + answer.delta, quest.goal, answer.active)
        if self.upper == best:
            between = (quest.floor + radius) / 2
            if self._norm == "l0":
                between = np.floor(between)
            narrow = radius - between <= _NARROW * radius
            quest.hard = answer.delta is None
            quest.stuck = narrow and not quest.hard
            quest.reach = radius if narrow else between

    def _radius(self) -> float:
        """Of the largest ball that is to hold no adversarial."""
        if self.upper == np.inf:
            return self._largest
        return self.upper - 1 if self._norm == "l0" else self.upper * (1 - _SHORT)

    def _after(self, radius: float) -> float:
        """The least distance of an adversarial if there is none within a radius."""
        if radius >= self._largest:
            return np.inf
        return radius + 1 if self._norm == "l0" else radius

    def _done(self, quest: _Quest) -> bool:
        return quest.floor >= self._after(self._radius())

    def _proven(self, goal: Goal) -> float:
        """The radius up to which intervals alone rule a goal out: not much, at once."""

        def safe(radius: float) -> bool:
            return lead_bound(self._network, self._x, self._ball(radius), goal) < 0

        if self._norm == "l0":
            count = 0
            while count < min(self.upper, len(self._x)) and safe(count):
                count += 1
            return float(count)
        near, far = 0.0, min(self.upper, self._largest)
        for _ in range(20):
            middle = (near + far) / 2
            near, far = (middle, far) if safe(middle) else (near, middle)
        return near

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _ball(self, radius: float) -> Ball:
        return Ball(self._norm, self._low, self._high, radius)

    def _hidden(self, radius: float) -> list[Interval]:
        """Bounds before the ReLUs within a radius."""
        ball = self._ball(radius)
        hidden = interval_bounds(self._network, self._x, ball)
        if len(hidden) < 2:
            return hidden
        # Those of a ball hold in any smaller one.
        if self._narrowed is None or not 0.98 <= radius / self._narrowed[0] <= 1:
            seconds = self._left() / 4
            narrow = tightened(self._network, self._x, ball, hidden, None, seconds)
            self._narrowed = radius, narrow
        return [
            (np.maximum(low, least), np.minimum(high, most))
            for (low, high), (least, most) in zip(
                hidden, self._narrowed[1], strict=True
            )
        ]

    def _solve(
        self,
        goal: Goal,
        radius: float,
        hidden: Sequence[Interval],
        relaxed: bool,
        seconds: float,
    ) -> Answer:
        return solve(
            self._network,
            self._x,
            self._ball(radius),
            hidden,
            goal,
            relaxed=relaxed,
            seconds=seconds,
        )

    def _attack(self, seed: int) -> None:
        """A first witness."""
        model = flat_model(self._network, self._box, "network")
        criterion: Criterion = Misclassification(as_tensor(np.array([self._y])))
        if self._target is not None:
            criterion = Targeted(as_tensor(np.array([self._target])))
        found = run(
            auto(self._norm),
            model,
            self._x[None],
            criterion,
            norm=self._norm,
            seed=seed,
        )
        if not found.found[0]:
            return
        point = found.x_adversarial[0]
        self._offer(point)
        scores = self._network.logits(point[None])[0]
        winner = int(np.argmax(scores))
        goal = next(g for g in self._goals if g[0][0] == winner)
        self._descend(point, goal, [b > 0 for b in self._before(point)])

    def _before(self, point: Array) -> list[Array]:
        """What goes into the ReLUs (neurons,) of each hidden layer at a point."""
        values: list[Array] = []
        for weight, bias in self._network.layers[:-1]:
            given = np.maximum(values[-1], 0) if values else point
            values.append(weight @ given + bias)
        return values

    def _descend(self, point: Array, goal: Goal, pattern: list[Array]) -> None:
        """From one linear piece of the network to the next, while that is nearer.

        The best point of a piece often lies where some of its ReLUs are about to turn.
        """
        best = self.upper
        self._polish(point, goal, pattern)
        while self.upper < best and self.witness is not None and self._left() > 0:
            best, point = self.upper, self.witness
            before = self._before(point)
            for layer, values in enumerate(before):
                for unit in np.flatnonzero(np.abs(values) < 1e-6):
                    other = [value > 0 for value in before]
                    other[layer][unit] ^= True
                    self._polish(point, goal, other)

    def _polish(self, point: Array, goal: Goal, pattern: list[Array]) -> None:
        """The nearest adversarial on one linear piece of the network, if verified.

        A little beyond the boundary, by more and more until the margin is below zero.
        """
        weight, bias = np.eye(len(self._x)), np.zeros(len(self._x))
        slopes, offsets = [], []
        for (inner, shift), on in zip(self._network.layers[:-1], pattern, strict=True):
            weight, bias = inner @ weight, inner @ bias + shift
            side = np.where(on, -1.0, 1.0)
            slopes.append(side[:, None] * weight)
            offsets.append(side * bias)
            weight, bias = weight * on[:, None], bias * on
        inner, shift = self._network.layers[-1]
        weight, bias = inner @ weight, inner @ bias + shift
        winners, losers = np.array(goal).T
        lead, start = weight[losers] - weight[winners], bias[losers] - bias[winners]
        steep = np.linalg.norm(lead, axis=1)
        allowed = np.ones(len(self._x), bool)
        if self._norm == "l0":
            # The features are chosen; how they move is a linear program.
            allowed = np.abs(point - self._x) > 1e-9
            if not allowed.any():
                return
        for beyond in (1e-10, 1e-9, 1e-8, 1e-7, _FAR):
            rows = np.vstack([*slopes, lead])[:, allowed]
            levels = (
                np.concatenate([*offsets, start + beyond * steep * self._box.width])
                + np.vstack([*slopes, lead])[:, ~allowed] @ self._x[~allowed]
            )
            inside = "l1" if self._norm == "l0" else self._norm
            near = polyhedron(rows, levels).nearest(self._x[allowed], inside, self._box)
            if near is None:
                return
            full = self._x.copy()
            full[allowed] = near
            if self._offer(full):
                return

    def _offer(self, point: Array) -> bool:
        """Take a point as the witness if it is adversarial and nearer; whether it is.

        By a forward pass in double precision.
        """
        scores = self._network.logits(point[None])[0]
        other = self._y if self._target is None else self._target
        rest = np.delete(scores, other).max()
        margin = scores[other] - rest if self._target is None else rest - scores[other]
        if not margin < 0:
            return False
        distance = size(point - self._x, self._norm)
        if distance < self.upper:
            self.upper, self.witness = distance, point
        return True
