"""What happened on the way: an observer that keeps a few points of each sample's run.

Nobody is asked anything for it: logits, gradients and distances are there already.
"""

from dataclasses import dataclass, fields

import numpy as np

from robustkit.engine.problem import Problem
from robustkit.numerics.tensors import (
    Array,
    Batch,
    PerSample,
    magnitude,
    take,
    to_numpy,
)

__all__ = ["POINTS", "Recorder", "Trace"]

POINTS = 32
"""How many points of a sample's run are kept at most; an even number."""

_SERIES = (
    "loss",
    "margin",
    "lowest_margin",
    "distance",
    "best_distance",
    "gradient",
    "move",
    "forwards",
)


@dataclass(frozen=True)
class Trace:
    """What was recorded of n samples.

    Point `k` of a sample shows its step `k * stride`, as of the end of that step.

    Attributes:
        steps: (n,) int64 steps taken.
        stride: (n,) int64 steps from one point to the next.
        first_adversarial: (n,) int64 the step (-1: before the first) that first asked
            about an adversarial; -2: none did.
        first_margin: (n,) of the first question asked, which is about the original in
            many attacks.
        last_margin: (n,) of the last question asked.
        last_distance: (n,) of the last question asked, in norm units.
        loss: (n, POINTS) what the attack descends, at the last gradient it asked for;
            NaN where none was asked for, or its value is the attack's own.
        margin: (n, POINTS) of the criterion, at the last question.
        lowest_margin: (n, POINTS) the lowest of all questions so far.
        distance: (n, POINTS) of the last question, in norm units.
        best_distance: (n, POINTS) of the nearest adversarial known; infinite: none.
        gradient: (n, POINTS) L2 length of the last gradient; NaN where none was asked.
        move: (n, POINTS) how far the point with that gradient is from the one before;
            an L2 length, which is cheap to take.
        forwards: (n, POINTS) forward passes so far.
    """

    steps: Array
    stride: Array
    first_adversarial: Array
    first_margin: Array
    last_margin: Array
    last_distance: Array
    loss: Array
    margin: Array
    lowest_margin: Array
    distance: Array
    best_distance: Array
    gradient: Array
    move: Array
    forwards: Array

    def points(self) -> Array:
        """(n,) how many points each sample has."""
        return np.asarray(-(-self.steps // self.stride))

    def at(self, rows: Array) -> "Trace":
        """The given samples."""
        return Trace(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Recorder:
    """Records a run of the loop, given to it as an observer.

    At first every step of a sample is a point. When there is no more room, every second
    point is forgotten, and from then on every second step is one; so memory does not
    grow with the steps, and what a step costs falls. Each sample's steps are counted by
    themselves, so its trace does not depend on its company.

    Args:
        samples: How many the problem begins with.
    """

    def __init__(self, samples: int) -> None:
        self._series = {
            name: np.full((samples, POINTS), np.nan, dtype=np.float32)
            for name in _SERIES
        }
        self._steps = np.zeros(samples, dtype=np.int64)
        self._strides = np.ones(samples, dtype=np.int64)
        self._first = np.full(samples, _NEVER)
        self._start, self._margin, self._distance, self._lowest = (
            np.full(samples, value) for value in (np.nan, np.nan, np.nan, np.inf)
        )
        self._everyone, self._unbroken = np.arange(samples), samples
        # The loop's step, and whether one is under way that somebody has a point of.
        self._step, self._under_way, self._wanted = -1, False, False
        # Of the present step's last gradient, if that is wanted.
        self._gradient: tuple[Array, dict[str, Array]] | None = None
        self._point: tuple[Array, Batch] | None = None

    def after_question(
        self, p: Problem, margin: Array, distance: Array, rows: Array | None
    ) -> None:
        """Called with the answers to a question.

        Args:
            p: The problem.
            margin: (m,) of the points asked about; of several at once, the lowest.
            distance: (m,) from the originals, in norm units.
            rows: (m,) places of the samples in the problem, in ascending order; None:
                all of them.
        """
        which = self._places(p, rows)
        if self._step <= 0:
            new = np.isnan(self._start[which])
            self._start[which] = np.where(new, margin, self._start[which])
        self._margin[which], self._distance[which] = margin, distance
        self._lowest[which] = np.minimum(self._lowest[which], margin)
        if self._unbroken:
            won = (margin < 0) & (self._first[which] == _NEVER)
            if won.any():
                broken = self._everyone[which][won]
                # Between two steps it was the last one.
                self._first[broken] = self._steps[broken] - (not self._under_way)
                self._unbroken -= len(broken)

    def after_gradient(
        self,
        p: Problem,
        point: Batch,
        loss: PerSample | None,
        gradient: Batch,
        rows: Array | None,
    ) -> None:
        """Called with a gradient.

        Args:
            p: The problem.
            point: (m, ...) where it was asked for.
            loss: (m,) whose gradient it is; None: not known.
            gradient: (m, ...) that was given.
            rows: As for `after_question`.
        """
        which = self._everyone[self._places(p, rows)]
        before, self._point = self._point, (which, point)
        if not self._wanted:
            return
        seen = {"gradient": to_numpy(magnitude(gradient, 2))}
        if loss is not None:
            seen["loss"] = to_numpy(loss)
        old = None if before is None else _of(before, which)
        if old is not None:
            seen["move"] = to_numpy(magnitude(point - old, 2))
        self._gradient = which, seen

    def before_step(self, p: Problem, step: int) -> None:
        """Called with the samples that will take the step."""
        self._step, self._under_way = step, True
        self._wanted = bool(self._due(self._places(p, None)).any())

    def after_step(self, p: Problem, step: int) -> None:
        """Called with the samples that took the step, before any is dropped."""
        present = self._places(p, None)
        if self._wanted:
            due = self._due(present)
            rows = self._everyone[present][due]
            self._thin(rows[self._steps[rows] == POINTS * self._strides[rows]])
            at = rows, self._steps[rows] // self._strides[rows]
            series = self._series
            series["margin"][at] = self._margin[rows]
            series["lowest_margin"][at] = self._lowest[rows]
            series["distance"][at] = self._distance[rows]
            series["best_distance"][at] = to_numpy(p.ledger.distance)[due]
            series["forwards"][at] = p.ledger.forwards[due]
            if self._gradient is not None:
                which, seen = self._gradient
                for name, values in seen.items():
                    latest = np.full(len(self._everyone), np.nan)
                    latest[which] = values
                    series[name][at] = latest[rows]
                self._gradient = None
        self._steps[present] += 1
        self._under_way = self._wanted = False

    def trace(self) -> Trace:
        """What was recorded."""
        return Trace(
            steps=self._steps.copy(),
            stride=self._strides.copy(),
            first_adversarial=self._first.copy(),
            first_margin=self._start.astype(np.float32),
            last_margin=self._margin.astype(np.float32),
            last_distance=self._distance.astype(np.float32),
            **{name: values.copy() for name, values in self._series.items()},
        )

    def _places(self, p: Problem, rows: Array | None) -> Array | slice:
        """Of the samples asked about, in the arrays of all."""
        if rows is not None:
            return p.ledger.rows[rows]
        # Slices are several times as fast as indices.
        whole = p.size == len(self._everyone)
        return slice(None) if whole else p.ledger.rows

    def _due(self, rows: Array | slice) -> Array:
        """Booleans: whose present step will be a point."""
        return np.asarray(self._steps[rows] % self._strides[rows] == 0)

    def _thin(self, rows: Array) -> None:
        if len(rows) == 0:
            return
        self._strides[rows] *= 2
        for values in self._series.values():
            kept = values[rows, ::2].copy()
            values[rows] = np.nan
            values[rows, : POINTS // 2] = kept


_NEVER = -2


def _of(before: tuple[Array, Batch], which: Array) -> Batch | None:
    """The points of the given samples among those of before; None: some are not."""
    there, points = before
    if len(there) == len(which):
        return points if np.array_equal(there, which) else None
    places = np.minimum(np.searchsorted(there, which), len(there) - 1)
    return take(points, places) if np.array_equal(there[places], which) else None
