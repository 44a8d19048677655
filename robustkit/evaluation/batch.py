"""One batch of samples through every norm and attack."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.engine.ledger import Ledger
from robustkit.engine.loop import Observer, run
from robustkit.engine.problem import Problem
from robustkit.engine.trace import Recorder
from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.deadline import OutOfTime, deadline
from robustkit.evaluation.goals import MakeCriterion, adversarial_from_start
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.tables import QUERIES, as_csv, queries_as_csv
from robustkit.evaluation.traces import Traced
from robustkit.evaluation.verify import confirm
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, Batch, take, to_numpy

__all__ = ["PROGRESS_INTERVAL", "BatchEvaluator", "Looked", "Progress", "Work"]

PROGRESS_INTERVAL = 0.1
"""Seconds between two reports of progress, at least."""

T = TypeVar("T")

_NO_START = "the attack took no step; it found nothing to start from"

_COUNTS = (
    "forwards",
    "backwards",
    "decisions",
    "steps",
    "blind",
    "unknown",
    "seconds",
)


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        first: Position of the present batch's first sample in the data.
        samples: How many samples the batch holds.
        norm: The one at hand.
        attack: The one at hand.
        share: Of this batch's attacks done, from 0 to 1.
        overall: Of the whole run done, from 0 to 1; None: the data does not say how
            much there is.
        passes_per_second: Forward passes of samples, since the run began or went on;
            None: no attack on a batch is finished yet.
        seconds_left: A guess from what finished parts took; None: none is finished.
        median: Of the smallest perturbations known in this norm, in norm units, over
            the samples of finished parts; NaN: there are none.
        busy: How many parts are worked on at the same time.
    """

    first: int
    samples: int
    norm: str
    attack: str
    share: float
    overall: float | None = None
    passes_per_second: float | None = None
    seconds_left: float | None = None
    median: float = math.nan
    busy: int = 1


@dataclass(frozen=True)
class Work:
    """One batch of the data, to be attacked.

    Attributes:
        number: Of the batch in the data, from 0.
        x: (n, ...) inputs.
        label: (n,) their labels.
        index: (n,) their positions in the data.
        traced: How many of the first to trace.
    """

    number: int
    x: Array
    label: Array
    index: Array
    traced: int = 0

    def digest(self) -> str:
        """A hash of what is to be attacked."""
        digest = hashlib.sha256()
        for values in (self.x, self.label, self.index):
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


@dataclass
class Looked:
    """The samples at hand, as the model sees them; arrays of n rows.

    Attributes:
        x: Inputs.
        label: Classes they belong to.
        index: Positions in the data.
        prediction: Classes predicted for x; -1 where there is none.
        criterion: Of all n.
        from_start: Which are adversarial unperturbed.
        broken: What is wrong with the model's answer to x itself; empty: nothing.
        traced: How many of the first are traced.
    """

    x: Array
    label: Array
    index: Array
    prediction: Array
    criterion: Criterion
    from_start: Array
    broken: list[str]
    traced: int

    def to_attack(self) -> Array:
        """The rows that an attack has to work on."""
        fine = np.array([not reason for reason in self.broken], dtype=bool)
        return np.flatnonzero(fine & ~self.from_start)


@dataclass
class _Outcome:
    """What one attack did to a batch, verified; arrays of n rows.

    Attributes:
        best: The nearest adversarials, the originals where there are none.
        distance: Theirs; infinite where there are none, NaN where that is not settled.
        after: (n, 2 counts) the distances known after so many forward passes as in
            `QUERIES`, and after so many forward and backward passes together.
        counts: What each cost, by name.
        reasons: What went wrong; empty: nothing.
        traces: What happened on the way, of the rows that are traced.
    """

    best: Array
    distance: Array
    after: Array
    counts: dict[str, Array]
    reasons: list[str]
    traces: list[Traced]

    @classmethod
    def before(cls, batch: Looked) -> "_Outcome":
        """What is known of a batch before it is attacked."""
        count = len(batch.x)
        return cls(
            best=np.array(batch.x),
            distance=np.where(batch.from_start, 0.0, np.inf),
            after=np.full((count, 2 * len(QUERIES)), np.inf),
            counts={name: np.zeros(count) for name in _COUNTS},
            reasons=list(batch.broken),
            traces=[],
        )

    def enter(self, rows: Array, ledger: Ledger) -> None:
        """Take over what a ledger says of these rows."""
        self.best[rows] = to_numpy(ledger.best)
        self.distance[rows] = to_numpy(ledger.distance)
        self.after[rows] = np.stack(
            [
                ledger.distance_after(count, backward=backward)
                for backward in (False, True)
                for count in QUERIES
            ],
            axis=1,
        )
        for name in _COUNTS:
            self.counts[name][rows] = getattr(ledger, name)


@dataclass(frozen=True)
class BatchEvaluator:
    """Attacks batches, part by part.

    Args:
        model: To be attacked.
        classes: How many it tells apart.
        attacks: By norm and name, in the order to run.
        criterion: Makes the criterion of a batch.
        budget: Model passes per sample and attack; None: the attacks' own.
        seed: Of all randomness.
        pool: Other inputs (m, ...) that attacks may use, or None.
        pool_classes: (m,) theirs; None: not known.
        random: Whether the model gives different answers to the same input.
        time_limit: Seconds for each attack on a batch; None: no limit.
        compiled: Whether the attacks' arithmetic is compiled.
        progress: Called at most every `PROGRESS_INTERVAL`, or None.
    """

    model: Model
    classes: int
    attacks: Mapping[Norm, Mapping[str, Attack[Any]]]
    criterion: MakeCriterion
    budget: int | None
    seed: int
    pool: Batch | None
    pool_classes: Array | None
    random: bool
    time_limit: float | None
    compiled: bool
    progress: Callable[[Progress], None] | None

    def keys(self, work: Work) -> list[ShardKey]:
        """The parts of the work on one batch, in their order."""
        names = [
            (repr(norm), name) for norm, named in self.attacks.items() for name in named
        ]
        digest = work.digest()
        return [
            ShardKey(work.number, place, norm, name, digest)
            for place, (norm, name) in enumerate(names)
        ]

    def attack(self, key: ShardKey, batch: Looked) -> Shard:
        """Do one part of the work.

        A sample at which the model raises gets the status "error" and does not touch
        the others.
        """
        parts = [(norm, a) for norm, named in self.attacks.items() for a in named]
        norm, name = parts[key.place]
        ticker = _Ticker(
            self.progress, batch, key, self.attacks[norm][name], len(parts)
        )
        return _shard(
            key, batch, self._attack(self.attacks[norm][name], norm, batch, ticker)
        )

    def check_unchanged(self, kept: Array, batch: Looked) -> None:
        """Refuse to go on with a model that has changed since.

        Args:
            kept: (n,) the predictions of the run so far.
            batch: The same samples as the model sees them now.

        Raises:
            BadInput: It has changed.
        """
        changed = int((kept != batch.prediction).sum())
        if changed and not self.random:
            raise BadInput(
                f"the model predicts other classes for {changed} of {len(batch.x)} "
                "samples that were evaluated before the run was interrupted: it has "
                "changed since, or its answers are random. Give the model that was "
                "evaluated, or start anew in another folder"
            )

    def look(self, work: Work) -> Looked:
        """Ask the model about the samples themselves, unperturbed."""
        x, label = work.x, work.label
        broken, model = [""] * len(x), self.model.precise()

        def asked(rows: Array) -> Array:
            try:
                with deadline(self.time_limit):
                    return to_numpy(model.logits(model.to_tensor(x[rows])))
            except OutOfTime:
                raise TimeoutError(
                    f"no answer for the original within {self.time_limit:g} seconds"
                ) from None

        answers = _isolating(asked, np.arange(len(x)), broken)
        logits = np.full((len(x), self.classes), np.nan, dtype=np.float32)
        for rows, values in answers:
            logits[rows] = values
        unknown = np.isnan(logits).any(axis=1)
        for row in np.flatnonzero(unknown):
            broken[row] = broken[row] or "the model's output for the original is NaN"
        criterion = self.criterion(label, logits, x)
        margin = to_numpy(criterion.margin(self.model.to_tensor(logits)))
        prediction = np.where(unknown, -1, logits.argmax(axis=1))
        from_start = adversarial_from_start(criterion, margin, prediction, label)
        return Looked(
            x=x,
            label=label,
            index=work.index,
            prediction=prediction,
            criterion=criterion,
            from_start=from_start & ~unknown,
            broken=broken,
            traced=work.traced,
        )

    def _attack(
        self, attack: Attack[Any], norm: Norm, batch: Looked, ticker: "_Ticker"
    ) -> _Outcome:
        outcome = _Outcome.before(batch)

        def attacked(rows: Array) -> tuple[Ledger, Recorder | None]:
            return self._run(attack, norm, batch, rows, ticker, outcome.reasons)

        for rows, (ledger, recorder) in _isolating(
            attacked, batch.to_attack(), outcome.reasons
        ):
            outcome.enter(rows, ledger)
            if recorder is not None:
                places = np.flatnonzero(rows < batch.traced)
                outcome.traces.append(
                    Traced(batch.index[rows[places]], recorder.trace().at(places))
                )
        self._verify(outcome, batch, norm)
        for row in np.flatnonzero(np.isinf(outcome.distance)):
            reason = outcome.reasons[row] or _doubt(outcome, int(row))
            outcome.reasons[row] = reason
            if reason and reason != _NO_START:
                outcome.distance[row] = np.nan
        # Only the last point was verified: none before it can have been nearer.
        outcome.after = np.maximum(outcome.after, outcome.distance[:, None])
        outcome.after[batch.from_start] = 0.0
        return outcome

    def _run(
        self,
        attack: Attack[Any],
        norm: Norm,
        batch: Looked,
        rows: Array,
        ticker: "_Ticker",
        reasons: list[str],
    ) -> tuple[Ledger, Recorder | None]:
        """One attack on some rows of a batch; what ended it before its end: reasons."""
        recorder = Recorder(len(rows)) if rows[0] < batch.traced else None
        observers: list[Observer] = [ticker]
        observers += [] if recorder is None else [recorder]
        problem = Problem(
            self.model,
            self.model.to_tensor(batch.x[rows]),
            take(batch.criterion, rows),
            norm,
            seed=self.seed,
            pool=self.pool,
            pool_classes=self.pool_classes,
        )
        problem.ledger.know(batch.from_start[rows])
        try:
            with deadline(self.time_limit):
                run(
                    attack,
                    problem,
                    budget=self.budget,
                    observers=observers,
                    compiled=self.compiled,
                )
        except BadInput:
            raise
        except OutOfTime:
            # Time may have been over while the ledger was being closed.
            problem.ledger.close()
            # In smaller groups it would only take longer.
            for row in rows:
                reasons[row] = f"stopped after {self.time_limit:g} seconds"
        except Exception as error:
            if len(rows) > 1:
                raise
            # What was found before the model raised is as true as anything.
            reasons[rows[0]] = in_one_line(error)
        return problem.ledger, recorder

    def _verify(self, outcome: _Outcome, batch: Looked, norm: Norm) -> None:
        def confirmed(rows: Array) -> tuple[Array, Array, list[str]]:
            criterion, reported = take(batch.criterion, rows), outcome.best[rows]
            return confirm(self.model, criterion, batch.x[rows], reported, norm)

        claimed = np.flatnonzero(np.isfinite(outcome.distance) & ~batch.from_start)
        # Until it is confirmed, a claim is not settled.
        outcome.distance[claimed] = np.nan
        for rows, (points, distance, flaws) in _isolating(
            confirmed, claimed, outcome.reasons
        ):
            outcome.best[rows] = points
            for row, size, flaw in zip(rows, distance, flaws, strict=True):
                outcome.reasons[row] = flaw or outcome.reasons[row]
                outcome.distance[row] = np.nan if flaw else size


def _isolating(
    work: Callable[[Array], T], rows: Array, reasons: list[str]
) -> list[tuple[Array, T]]:
    """Do `work` on all rows, or on ever smaller groups where it raises.

    A row at which it raises alone gets the exception as its reason. Running out of
    memory is met in the same way, by smaller groups.
    """
    if len(rows) == 0:
        return []
    try:
        return [(rows, work(rows))]
    except BadInput:
        raise
    except Exception as error:
        if len(rows) == 1:
            reasons[rows[0]] = in_one_line(error)
            return []
    middle = len(rows) // 2
    first = _isolating(work, rows[:middle], reasons)
    return first + _isolating(work, rows[middle:], reasons)


def _doubt(outcome: _Outcome, row: int) -> str:
    """Why not having found an adversarial says less than it seems to; or nothing."""
    unknown = int(outcome.counts["unknown"][row])
    if unknown:
        return f"nothing found, but {unknown} of the model's answers were NaN"
    return "" if outcome.counts["steps"][row] else _NO_START


def _shard(key: ShardKey, batch: Looked, outcome: _Outcome) -> Shard:
    """What an attack found, as it is kept."""
    found = np.isfinite(outcome.distance) & ~batch.from_start
    return Shard(
        key,
        as_csv(_rows(key, batch, found, outcome)),
        batch.prediction,
        batch.index[found],
        batch.label[found],
        outcome.distance[found],
        outcome.best[found],
        queries_as_csv(batch.index, key.attack, key.norm, outcome.after),
        Traced.join(outcome.traces),
    )


def _rows(
    key: ShardKey, batch: Looked, found: Array, outcome: _Outcome
) -> list[dict[str, Any]]:
    rows = []
    for row in range(len(batch.x)):
        status = "found" if found[row] else "not_found"
        if batch.from_start[row]:
            status = "already_misclassified"
        elif np.isnan(outcome.distance[row]):
            status = "error"
        rows.append(
            {
                "index": batch.index[row],
                "label": batch.label[row],
                "prediction": batch.prediction[row],
                "attack": key.attack,
                "norm": key.norm,
                "found": found[row],
                "distance": outcome.distance[row],
                "forward_passes": int(outcome.counts["forwards"][row]),
                "backward_passes": int(outcome.counts["backwards"][row]),
                "decision_queries": int(outcome.counts["decisions"][row]),
                "steps": int(outcome.counts["steps"][row]),
                "blind_steps": int(outcome.counts["blind"][row]),
                "seconds": outcome.counts["seconds"][row],
                "status": status,
                "reason": outcome.reasons[row],
            }
        )
    return rows


class _Ticker:
    """An observer of the loop that says how far a batch is."""

    def __init__(
        self,
        progress: Callable[[Progress], None] | None,
        batch: Looked,
        key: ShardKey,
        attack: Attack[Any],
        total: int,
    ) -> None:
        self._progress = progress
        self._batch, self._key = batch, key
        self._steps, self._total = attack.steps, total
        self._last = 0.0

    def after_step(self, p: Problem, step: int) -> None:
        now = time.monotonic()
        if self._progress is None or now - self._last < PROGRESS_INTERVAL:
            return
        self._last = now
        # A successor's steps come on top.
        done = min((step + 1) / self._steps, 1.0)
        self._progress(
            Progress(
                first=int(self._batch.index[0]),
                samples=len(self._batch.x),
                norm=self._key.norm,
                attack=self._key.attack,
                share=(self._key.place + done) / self._total,
            )
        )
