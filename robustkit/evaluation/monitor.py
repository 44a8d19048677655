"""How far a run is, told to whoever looks on."""

import csv
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from robustkit.evaluation.batch import Progress
from robustkit.evaluation.curve import Curve
from robustkit.evaluation.results import Results
from robustkit.evaluation.shards import Shard
from robustkit.evaluation.tables import COLUMNS
from robustkit.evaluation.trackers import as_tracker
from robustkit.numerics.tensors import Array

__all__ = ["Monitor", "in_part"]

_INDEX, _DISTANCE, _PASSES, _SECONDS = (
    COLUMNS.index(name) for name in ("index", "distance", "forward_passes", "seconds")
)
_MOST, _FEW = 2**17, 8
"""Samples from which the present median is told, at most, unless batches are so few."""


class Monitor:
    """Adds up what is done, and tells a callback and trackers of it.

    Args:
        samples: How many there are to evaluate; None: not known.
        steps: The most that each attack takes, by norm and name.
        progress: Called with each step of progress, or None. What raises is left out
            from then on, with a warning.
        trackers: One or several; see `as_tracker`.

    Attributes:
        listener: To be told of progress; None where nobody wants to know.
    """

    def __init__(
        self,
        samples: int | None,
        steps: Mapping[tuple[str, str], int],
        progress: Callable[[Progress], None] | None,
        trackers: Any,
    ) -> None:
        self._rows = None if samples is None else samples * len(steps)
        self._parts = len(steps)
        self._ahead = None if samples is None else _Ahead(samples, steps)
        self._callback = progress
        several = trackers if isinstance(trackers, Iterable) else [trackers]
        self._trackers = [as_tracker(native) for native in several]
        self.listener = None if progress is None else self._progress
        self._began: float | None = None
        self._by_batch: dict[int, int] = {}
        self._done, self._passes, self._shards = 0, 0, 0
        self._first_of: dict[int, int] = {}
        self._nearest: dict[str, _Nearest] = {}

    def begin(self, settings: Mapping[str, str]) -> None:
        """The run begins, or goes on, now; with settings that trackers are told."""
        self._began = time.monotonic()
        for tracker in self._trackers:
            tracker.settings(settings)

    def shard(self, shard: Shard, new: bool) -> None:
        """One attack on one batch is finished, now or before the run went on."""
        if not (self._callback or self._trackers):
            return
        rows = list(csv.reader(shard.text.splitlines()))
        distance = np.array([float(row[_DISTANCE]) for row in rows])
        key = shard.key
        self._done += len(rows)
        self._by_batch[key.batch] = self._by_batch.get(key.batch, 0) + len(rows)
        self._first_of[int(rows[0][_INDEX])] = key.batch
        # What is unknown for one attack is known if another finds something.
        far = np.where(np.isnan(distance), np.inf, distance)
        self._nearest.setdefault(key.norm, _Nearest()).add(key.batch, far)
        if self._ahead is not None:
            attack = key.norm, key.attack
            if new:
                seconds = sum(float(row[_SECONDS]) for row in rows)
                self._ahead.finished(attack, len(rows), seconds)
            else:
                self._ahead.finished_before(attack, len(rows))
        if not new:
            return
        self._passes += sum(int(row[_PASSES]) for row in rows)
        self._shards += 1
        values = {
            f"{key.norm}/{key.attack}/median_of_batch": Curve(far).quantile(0.5),
            f"{key.norm}/median_so_far": self._median(key.norm),
            "samples_times_attacks": float(self._done),
            "passes": float(self._passes),
            "passes_per_second": self._rate() or math.nan,
            "share": math.nan if self._rows is None else self._done / self._rows,
        }
        for tracker in self._trackers:
            tracker.log(values, self._shards)

    def end(self, results: Results) -> None:
        """The run is complete."""
        if not self._trackers:
            return
        summary = results.summary()
        values = {"clean_accuracy": summary["clean_accuracy"]["estimate"]}
        for norm, found in summary["norms"].items():
            values[f"{norm}/median"] = found["distance"]["median"]
            for at in found["robust_accuracy"]:
                name = f"{norm}/robust_accuracy/{at['epsilon']:.4g}"
                values[name] = at["estimate"]
            for attack, said in found["attacks"].items():
                values[f"{norm}/{attack}/median"] = said["median"]
        for tracker in self._trackers:
            tracker.end(values, str(results.path))

    def _progress(self, event: Progress) -> None:
        if self._callback is None:
            return
        # Rows of this batch that are done in part, beyond those of finished shards.
        batch = self._first_of.get(event.first, -1)
        finished = self._by_batch.get(batch, 0)
        partly = max(event.share * self._parts * event.samples - finished, 0.0)
        overall = left = None
        if self._rows:
            overall = min((self._done + partly) / self._rows, 1.0)
        if self._ahead is not None:
            left = self._ahead.seconds((event.norm, event.attack), partly, event.busy)
        told = replace(
            event,
            overall=overall,
            passes_per_second=self._rate(),
            seconds_left=left,
            median=self._median(event.norm),
        )
        try:
            self._callback(told)
        except Exception as error:
            # It is asked in the middle of an attack, where it would be the model's.
            self._callback = None
            # Where standard error is closed, nobody is left to be warned.
            with suppress(OSError):
                warnings.warn(
                    f"progress raised {type(error).__name__} ({error}) and is told no "
                    "more; the evaluation goes on",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _rate(self) -> float | None:
        """Passes per second, once there are any."""
        if self._began is None or self._passes == 0:
            return None
        return self._passes / max(time.monotonic() - self._began, 1e-9)

    def _median(self, norm: str) -> float:
        """Of the smallest perturbations known; NaN: none yet."""
        known = self._nearest.get(norm)
        return math.nan if known is None else known.median()


class _Nearest:
    """The nearest adversarials of samples, for the median of all.

    Of a large set only some batches are kept, so that memory does not grow with it.
    """

    def __init__(self) -> None:
        self._of: dict[int, Array] = {}
        self._one_in, self._kept = 1, 0
        self._median: float | None = None

    def add(self, batch: int, distance: Array) -> None:
        """What an attack found for a batch: distances (n,), infinite where nothing."""
        if not self._chosen(batch):
            return
        known = self._of.get(batch)
        self._kept += len(distance) if known is None else 0
        nearest = distance if known is None else np.minimum(known, distance)
        self._of[batch], self._median = nearest, None
        while self._kept > _MOST and len(self._of) > _FEW:
            self._one_in *= 2
            self._of = {b: d for b, d in self._of.items() if self._chosen(b)}
            self._kept = sum(map(len, self._of.values()))

    def _chosen(self, batch: int) -> bool:
        # Scattered, since the batches of a part of the data are every so many.
        return batch * 2654435761 % 2**32 < 2**32 // self._one_in

    def median(self) -> float:
        """NaN: there are none."""
        if self._median is None:
            values = list(self._of.values())
            self._median = (
                Curve(np.concatenate(values)).quantile(0.5) if values else math.nan
            )
        return self._median


class _Ahead:
    """Guesses how long the rest takes, from what was finished since the run went on.

    An attack that was not yet is taken to last as long per step as the others.
    """

    def __init__(self, samples: int, steps: Mapping[tuple[str, str], int]) -> None:
        self._steps = steps
        self._left = {attack: float(samples) for attack in steps}
        self._rows = dict.fromkeys(steps, 0)
        self._spent = dict.fromkeys(steps, 0.0)
        self._parts, self._began, self._last = 0, 0.0, 0.0

    def finished(self, attack: tuple[str, str], rows: int, seconds: float) -> None:
        """An attack on so many samples, which took so long in its process."""
        self._last = time.monotonic()
        if self._parts == 0:
            # Without the start of workers, which comes once.
            self._began = self._last - seconds
        self._parts += 1
        self._left[attack] -= rows
        self._rows[attack] += rows
        self._spent[attack] += seconds

    def finished_before(self, attack: tuple[str, str], rows: int) -> None:
        """An attack on so many samples, before the run went on."""
        self._left[attack] -= rows

    def seconds(
        self, attack: tuple[str, str], partly: float, busy: int
    ) -> float | None:
        """Until the end; None: nothing has been finished yet.

        Args:
            attack: The one at hand.
            partly: Samples for which it is done, in a batch that is not finished.
            busy: How many batches are attacked at the same time; all but one are taken
                to be half done.
        """
        if self._parts == 0:
            return None
        spent = sum(self._spent.values())
        steps = sum(self._rows[one] * self._steps[one] for one in self._steps)
        each = {
            one: self._spent[one] / rows if rows else spent / steps * self._steps[one]
            for one, rows in self._rows.items()
        }
        left = sum(each[one] * max(rows, 0.0) for one, rows in self._left.items())
        left -= each[attack] * partly + (busy - 1) / 2 * spent / self._parts
        # What is done between attacks counts too, where they follow one another.
        slower = (self._last - self._began) / max(spent, 1e-9) if busy == 1 else 1.0
        return max(left * slower / busy, 0.0)


def in_part(count: int | None, size: int, part: int, parts: int) -> int | None:
    """How many of so many samples are in one part of the batches.

    >>> [in_part(10, 3, part, 2) for part in (1, 2)]
    [6, 4]
    """
    if count is None:
        return None
    starts = range((part - 1) * size, count, parts * size)
    return sum(min(size, count - start) for start in starts)
