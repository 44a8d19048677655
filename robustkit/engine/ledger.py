"""Per sample: the best adversarial of every question ever asked, and what it cost."""

import functools
import math
from typing import TypeAlias

import numpy as np

from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    any_true,
    extent,
    full,
    like,
    put,
    put_rows,
    stack_rows,
    take,
    to_numpy,
)

__all__ = ["Ledger"]

_Part: TypeAlias = tuple[Array, Batch, Array, tuple[Array, ...]]
"""Of some samples: which, their best points, these points' distances, and the bills."""


class Ledger:
    """What is known about each sample of a run.

    While an attack runs, every attribute speaks of the samples still being worked on,
    in the order of the problem's `x`. After `close` it speaks of all samples, in the
    order they were given.

    Args:
        x: (n, ...) the original inputs.
        budget: The most passes whose answers count, per sample; None: no limit.
        passes: Model passes that one question takes.

    Attributes:
        best: (n, ...) the nearest adversarial seen, the original where none was. What
            it holds may change with the next question: take a copy to keep it.
        forwards: (n,) int64 forward passes.
        backwards: (n,) int64 backward passes.
        decisions: (n,) int64 forward passes of which only the decision was shown.
        steps: (n,) int64 steps taken.
        blind: (n,) int64 those of the steps that a successor took without gradients,
            after the attack had given up following them.
        unknown: (n,) int64 answers that were not a number.
        seconds: (n,) a sample's share of the time its batches took.
    """

    best: Batch
    forwards: Array
    backwards: Array
    decisions: Array
    steps: Array
    blind: Array
    unknown: Array
    seconds: Array

    def __init__(self, x: Batch, budget: int | None = None, passes: int = 1) -> None:
        count = x.shape[0]
        self.budget, self.passes = budget, passes
        # The distances as a tensor, once somebody has asked.
        self._shown: PerSample | None = None
        self.best = x
        self._learn(np.array(to_numpy(full(x, math.inf))))
        for name in _COUNTS:
            setattr(self, name, np.zeros(count, dtype=np.int64))
        self.seconds = np.zeros(count)
        self._rows = np.arange(count)
        self._total = count
        # Whether nobody else holds the memory of `best`.
        self._own = False
        # What is no farther is no adversarial.
        self._floor = -math.inf
        self._retired: list[_Part] = []
        # Rows, their forward and their backward passes by then, and their distances.
        self._history: list[tuple[Array, Array, Array, Array]] = []

    @property
    def rows(self) -> Array:
        """(n,) int64: which of all samples, in the order they were given; ascending."""
        return self._rows

    @property
    def distance(self) -> PerSample:
        """(n,) of the nearest adversarial seen, in norm units; infinite if none was."""
        if self._shown is None:
            self._shown = like(self.best, self._distance)
        return self._shown

    @property
    def found(self) -> Mask:
        """(n,) whether an adversarial was seen."""
        return like(self.best, self._distance < math.inf)

    @property
    def all_found(self) -> bool:
        """Whether an adversarial of each was seen; costs nothing to ask."""
        return self._furthest < math.inf

    def record(
        self,
        point: Batch,
        distance: Array,
        adversarial: Array,
        rows: Array | None = None,
        *,
        backward: bool = False,
        decision: bool = False,
    ) -> None:
        """Bill one question per sample and keep its point if it is the best so far.

        Args:
            point: (n, ...) asked about, inside the bounds.
            distance: (n,) from the original, in norm units.
            adversarial: (n,) the answer.
            rows: Which samples were asked, in the order of `point`; None: all.
            backward: Whether a backward pass was made too.
            decision: Whether only the decision was shown. Then what is kept of the
                points is a copy; else they may be kept as they are.
        """
        self._bill(rows, backward=backward, decision=decision)
        if not any_true(adversarial):
            return
        asked = ... if rows is None else rows
        better = adversarial & (distance < self._distance[asked])
        better &= distance > self._floor
        if self.budget is not None:
            better = better & (self.forwards[asked] <= self.budget)
        if not any_true(better):
            return
        which = np.flatnonzero(better)
        places = which if rows is None else rows[which]
        values = distance[which]
        if rows is None and not decision and len(which) == len(self.forwards):
            self.best, self._own = point, False
        else:
            self.best = put_rows(self.best, places, point, which, reuse=self._own)
            self._own = True
        known = self._distance.copy()
        known[places] = values
        self._learn(known)
        # The answer was there before the backward pass of the question itself.
        before = self.backwards[places] - (self.passes if backward else 0)
        self._history.append(
            (self._rows[places], self.forwards[places], before, values)
        )

    def record_probes(
        self,
        points: Tensor,
        distance: Array,
        adversarial: Array,
        asked: Array,
        rows: Array | None = None,
        *,
        decision: bool = False,
    ) -> None:
        """Bill several questions per sample, first column first, and keep the best.

        Args:
            points: (m, k, ...) asked about, inside the bounds.
            distance: (m, k) from the original, in norm units.
            adversarial: (m, k) the answers.
            asked: (m, k) which of the questions were asked.
            rows: (m,) different samples, whom the points belong to; None: all.
            decision: Whether only the decision was shown.
        """
        each = asked.shape[1]
        samples = np.arange(len(self.forwards)) if rows is None else rows
        number = self.forwards[samples, None] + self.passes * asked.cumsum(axis=1)
        counts = self.passes * asked.sum(axis=1)
        self.forwards[samples] += counts
        if decision:
            self.decisions[samples] += counts
        counted = asked & adversarial & (distance < math.inf)
        counted &= distance > self._floor
        if self.budget is not None:
            counted &= number <= self.budget
        values = np.where(counted, distance, math.inf).astype(self._distance.dtype)
        known = np.concatenate([self._distance[samples, None], values], axis=1)
        better = values < np.minimum.accumulate(known, axis=1)[:, :-1]
        # Column by column, so that what was asked later comes later.
        columns, at = np.nonzero(better.T)
        if len(at) == 0:
            return
        improved = np.flatnonzero(better.any(axis=1))
        best = values[improved].argmin(axis=1)
        flat = points.reshape((-1, *points.shape[2:]))
        winners = take(flat, improved * each + best)
        self.best = put(self.best, samples[improved], winners, reuse=self._own)
        self._own = True
        distances = self._distance.copy()
        distances[samples[improved]] = values[improved, best]
        self._learn(distances)
        places = samples[at]
        self._history.append(
            (
                self._rows[places],
                number[at, columns],
                self.backwards[places],
                values[at, columns],
            )
        )

    def know(self, adversarial: Array) -> None:
        """Note, unbilled, which originals (n,) are adversarial themselves.

        The others are not: an answer that calls them so after that is chance, or
        rounding, and is billed and not kept.
        """
        self._floor = 0.0
        known = np.flatnonzero(adversarial)
        self._history.append((self._rows[known], 0 * known, 0 * known, 0.0 * known))
        distance = self._distance.copy()
        distance[known] = 0
        self._learn(distance)

    def left(self) -> Array:
        """(n,) int64: how many more questions count; very many without a budget."""
        if self.budget is None:
            return np.full(len(self.forwards), _UNLIMITED)
        left = (self.budget - self.forwards) // self.passes
        return np.asarray(np.maximum(left, 0))

    def spent(self) -> Array:
        """(n,) booleans: whose budget is used up."""
        if self.budget is None:
            return np.zeros(len(self.forwards), dtype=bool)
        return np.asarray(self.forwards + self.passes > self.budget)

    def settled(self) -> Array:
        """(n,) booleans: for whom nothing nearer can be found, or is rewarded."""
        if self.budget is None and self._nearest > 0:
            return _nobody(len(self._distance))
        return self.spent() | (self._distance <= 0)

    def retire(self, rows: Array, kept: Array) -> None:
        """Freeze the given rows and go on with the `kept` ones."""
        self._become(self._part(kept), [*self._retired, self._part(rows)])

    def reopen(self, rows: Array) -> None:
        """Speak of the samples `rows` again (see `rows`), and of no others."""
        self.close()
        others = np.setdiff1d(self._rows, rows)
        if len(others):
            self.retire(others, rows)

    def close(self) -> None:
        """Speak of all samples again, in their first order. Nothing more is billed."""
        if not self._retired:
            return
        parts = [*self._retired, self._part(np.arange(len(self._rows)))]
        rows, bests, distances, counts = zip(*parts, strict=True)
        back = np.argsort(np.concatenate(rows))
        whole = (
            np.arange(self._total),
            take(stack_rows(list(bests)), back),
            np.concatenate(distances)[back],
            tuple(np.concatenate(values)[back] for values in zip(*counts, strict=True)),
        )
        self._become(whole, [])

    def distance_after(self, questions: int, *, backward: bool = False) -> Array:
        """The best distance (samples,) after so many forward passes for each.

        One point of the query-distortion curve; infinite where none was found by then.

        Args:
            questions: So many passes.
            backward: Whether backward passes are counted among them too.
        """
        distance = np.full(self._total, math.inf)
        for rows, forwards, backwards, values in self._history:
            early = (forwards + backwards if backward else forwards) <= questions
            distance[rows[early]] = values[early]
        return distance

    def _bill(self, rows: Array | None, *, backward: bool, decision: bool) -> None:
        if rows is not None:
            self.forwards[rows] += self.passes
            self.backwards[rows] += self.passes * backward
            self.decisions[rows] += self.passes * decision
            return
        self.forwards += self.passes
        if backward:
            self.backwards += self.passes
        if decision:
            self.decisions += self.passes

    def _learn(self, distance: Array) -> None:
        """The best distances are new."""
        self._shown = None
        # On the host, where the bills are. Never written into: tensors may share it.
        self._distance = distance
        # Asked in every step, where each look by NumPy takes time.
        self._nearest, self._furthest = extent(distance)

    def _part(self, rows: Array) -> _Part:
        return (
            self._rows[rows],
            take(self.best, rows),
            self._distance[rows],
            tuple(getattr(self, name)[rows] for name in (*_COUNTS, "seconds")),
        )

    def _become(self, part: _Part, retired: list[_Part]) -> None:
        """Go on with a part; the others are retired."""
        rows, best, distance, counts = part
        nearest, furthest = extent(distance)
        # All at once: a time limit may end this between any two instructions.
        vars(self).update(
            zip((*_COUNTS, "seconds"), counts, strict=True),
            best=best,
            _rows=rows,
            _shown=None,
            _distance=distance,
            _nearest=nearest,
            _furthest=furthest,
            _retired=retired,
        )


@functools.lru_cache(maxsize=8)
def _nobody(count: int) -> Array:
    """(count,) False; not to be written into."""
    nobody = np.zeros(count, dtype=bool)
    nobody.flags.writeable = False
    return nobody


# Made once, since NumPy takes longer for it than for a whole question's bill.
_UNLIMITED = np.iinfo(np.int64).max
_COUNTS = ("forwards", "backwards", "decisions", "steps", "blind", "unknown")
