"""The parts of a run that are handed out to workers, and the hands that do them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from robustkit.evaluation.batch import BatchEvaluator, Looked, Progress, Work
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import RunFolder
from robustkit.numerics.tensors import Array

__all__ = ["Hand", "Part", "parts_left"]

_NOTHING: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True)
class Part:
    """Something for a worker to do on a batch.

    Attributes:
        first: Position of the batch's first sample in the data.
        samples: How many it has.
        key: The part of the work; None: only see whether the model is the same.
        parts: How many the batch has.
        before: How many of them were finished earlier.
        kept: Predictions (n,) of the parts that were finished earlier.
    """

    first: int
    samples: int
    key: ShardKey | None
    parts: int
    before: int
    kept: tuple[Array, ...] = ()

    def name(self) -> str:
        """For people."""
        samples = f"samples {self.first} to {self.first + self.samples - 1}"
        key = self.key
        return samples if key is None else f"{samples}: {key.norm} {key.attack}"

    def tell(
        self, progress: Callable[[Progress], None] | None, finished: int, busy: int
    ) -> None:
        """Report that it is done.

        Args:
            progress: To be called, or None.
            finished: Parts of its batch that are, by now, of those left.
            busy: How many are worked on at the same time.
        """
        if progress is None or self.key is None:
            return
        progress(
            Progress(
                first=self.first,
                samples=self.samples,
                norm=self.key.norm,
                attack=self.key.attack,
                share=(self.before + finished) / self.parts,
                busy=busy,
            )
        )


def parts_left(
    works: Iterable[Work],
    evaluator: BatchEvaluator,
    folder: RunFolder,
    took: Mapping[int, float] = _NOTHING,
) -> Iterator[tuple[Work, Part]]:
    """What is left to do, with the batch it is about; made as it is asked for.

    Args:
        works: The batches.
        evaluator: Says what is to be done about them.
        folder: Says what has been done.
        took: By the place of an attack, seconds for each sample the last time. What
            takes longest comes first in its batch, so that at the end nobody is alone
            with a long part; what is not known comes before all.
    """
    for work in works:
        folder.add_examples(work.index, work.x)
        keys = evaluator.keys(work)
        kept = {key: folder.kept(key) for key in keys}
        first, samples = int(work.index[0]), len(work.x)
        done = tuple(shard.prediction for shard in kept.values() if shard is not None)
        if done:
            yield work, Part(first, samples, None, len(keys), len(done), done)
        for key in sorted(keys, key=lambda key: -took.get(key.place, math.inf)):
            if kept[key] is None:
                yield work, Part(first, samples, key, len(keys), len(done))


class Hand:
    """Does one part after the other, with a model that is loaded once.

    Args:
        load: Makes the evaluator; called when it is needed first.
    """

    def __init__(self, load: Callable[[], BatchEvaluator]) -> None:
        self._load = load
        self._evaluator: BatchEvaluator | None = None
        self._last: tuple[int, Looked] | None = None

    def ready(self) -> BatchEvaluator:
        """The evaluator.

        Raises:
            BadInput: The model cannot be loaded here, or is another one.
        """
        if self._evaluator is None:
            self._evaluator = self._load()
        return self._evaluator

    def do(
        self, work: Work, key: ShardKey | None, kept: tuple[Array, ...]
    ) -> Shard | None:
        """One part of the work on a batch; without a key, see if the model is the same.

        Args:
            work: The batch.
            key: The part.
            kept: Predictions (n,) of the batch by parts that were finished earlier.

        Raises:
            BadInput: It is not; or it cannot be loaded here.
        """
        evaluator = self.ready()
        if self._last is None or self._last[0] != work.number:
            self._last = work.number, evaluator.look(_own(work))
        batch = self._last[1]
        if key is not None:
            return evaluator.attack(key, batch)
        for prediction in kept:
            evaluator.check_unchanged(prediction, batch)
        return None


def _own(work: Work) -> Work:
    """The batch in memory that may be written to, which some that was sent is not."""
    return replace(
        work,
        x=np.require(work.x, requirements="W"),
        label=np.require(work.label, requirements="W"),
        index=np.require(work.index, requirements="W"),
    )
