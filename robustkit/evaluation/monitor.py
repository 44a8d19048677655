"""How far a run is, told to whoever looks on."""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
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

_INDEX, _DISTANCE, _PASSES = (
    COLUMNS.index(name) for name in ("index", "distance", "forward_passes")
)


class Monitor:
    """Adds up what is done, and tells a callback and trackers of it.

    Args:
        samples: How many there are to evaluate; None: not known.
        parts: Attacks on each of them, over all norms.
        progress: Called with each step of progress, or None.
        trackers: See `as_tracker`.
        settings: For the trackers.

    Attributes:
        listener: To be told of progress; None where nobody wants to know.
    """

    def __init__(
        self,
        samples: int | None,
        parts: int,
        progress: Callable[[Progress], None] | None,
        trackers: Sequence[Any],
        settings: Mapping[str, str],
    ) -> None:
        self._rows = None if samples is None else samples * parts
        self._parts = parts
        self._callback = progress
        self._trackers = [as_tracker(native) for native in trackers]
        self._settings = settings
        self.listener = None if progress is None else self._progress
        self._began: float | None = None
        self._by_batch: dict[int, int] = {}
        self._before, self._done, self._passes, self._shards = 0, 0, 0, 0
        self._first_of: dict[int, int] = {}
        # The nearest of each sample so far, by norm and batch.
        self._nearest: dict[str, dict[int, Array]] = {}

    def begin(self) -> None:
        """The run begins, or goes on, now."""
        self._began = time.monotonic()
        for tracker in self._trackers:
            tracker.settings(self._settings)

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
        known = self._nearest.setdefault(key.norm, {})
        # What is unknown for one attack is known if another finds something.
        far = np.where(np.isnan(distance), np.inf, distance)
        known[key.batch] = np.minimum(known.get(key.batch, far), far)
        if not new:
            self._before += len(rows)
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
        assert self._callback is not None
        # Rows of this batch that are done in part, beyond those of finished shards.
        batch = self._first_of.get(event.first, -1)
        finished = self._by_batch.get(batch, 0)
        partly = max(event.share * self._parts * event.samples - finished, 0.0)
        overall = left = None
        if self._rows:
            overall = min((self._done + partly) / self._rows, 1.0)
            worked = self._done + partly - self._before
            if self._began is not None and worked > 0:
                still = max(self._rows - self._done - partly, 0.0)
                left = (time.monotonic() - self._began) * still / worked
        self._callback(
            replace(
                event,
                overall=overall,
                passes_per_second=self._rate(),
                seconds_left=left,
                median=self._median(event.norm),
            )
        )

    def _rate(self) -> float | None:
        """Passes per second, once there are any."""
        if self._began is None or self._passes == 0:
            return None
        return self._passes / max(time.monotonic() - self._began, 1e-9)

    def _median(self, norm: str) -> float:
        """Of the smallest perturbations known; NaN: none yet."""
        known = self._nearest.get(norm)
        if not known:
            return math.nan
        return Curve(np.concatenate(list(known.values()))).quantile(0.5)


def in_part(count: int | None, size: int, part: int, parts: int) -> int | None:
    """How many of so many samples are in one part of the batches.

    >>> [in_part(10, 3, part, 2) for part in (1, 2)]
    [6, 4]
    """
    if count is None:
        return None
    starts = range((part - 1) * size, count, parts * size)
    return sum(min(size, count - start) for start in starts)
