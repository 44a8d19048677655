"""Which originals a run keeps, so that reports can show what was changed."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from robustkit.evaluation.shards import Shard
from robustkit.numerics.tensors import Array

__all__ = ["DRAWN", "Originals", "drawn"]

DRAWN = 32
"""How many are drawn at random, whatever comes of them."""

_NEAREST = 5
_FARTHEST = 1
_CLASSES = 10


def drawn(index: Array) -> Array:
    """(n,) which of the samples kept were drawn at random from all of the run.

    The draw depends on positions alone, so that runs on the same data keep the same.

    Args:
        index: (n,) positions in the data of those that are kept.
    """
    order = np.array([_lot(place) for place in index.tolist()], dtype=np.uint64)
    chosen = np.zeros(len(index), dtype=bool)
    chosen[np.argsort(order, kind="stable")[:DRAWN]] = True
    return chosen


@dataclass
class _Batch:
    """Samples whose attacks are not all finished."""

    index: Array
    x: Array
    shards: list[Shard] = field(default_factory=list)


class Originals:
    """Chooses what to keep, batch by batch, and never holds more than a few.

    Kept are some drawn at random, and for each norm those with the nearest
    adversarials, the nearest of different classes, and the farthest. What is chosen
    depends neither on the order of the batches nor on the parts that they were dealt
    to: whatever is chosen from all is also chosen from the part that has it.

    Args:
        parts: Attacks on each batch, over all norms; None: not known.
    """

    def __init__(self, parts: int | None) -> None:
        self._parts = parts
        self._waiting: dict[int, _Batch] = {}
        self._x: dict[int, Array] = {}
        # By norm, (distance, position, label) in ascending order.
        self._found: dict[str, list[tuple[float, int, int]]] = {}

    def add(self, index: Array, x: Array) -> None:
        """The originals (n, ...) of a batch, or some of them, before its shards."""
        if len(index):
            self._waiting[int(index[0])] = _Batch(index, x)

    def finish(self, shard: Shard) -> None:
        """One attack on a batch is finished."""
        first = int(shard.text.partition(",")[0])
        batch = self._waiting.get(first)
        if batch is None:
            return
        batch.shards.append(shard)
        if len(batch.shards) == self._parts:
            self.choose(self._waiting.pop(first).index, batch.x, batch.shards)

    def choose(self, index: Array, x: Array, shards: Iterable[Shard]) -> None:
        """Choose from the originals (n, ...) of a batch by what was found for them."""
        rows = {place: row for row, place in enumerate(index.tolist())}
        nearest: dict[str, dict[int, tuple[float, int, int]]] = {}
        for shard in shards:
            known = nearest.setdefault(shard.key.norm, {})
            columns = shard.distance, shard.index, shard.label
            for one in zip(*(column.tolist() for column in columns), strict=True):
                if one[1] in rows:
                    known[one[1]] = min(known.get(one[1], one), one)
        for norm, known in nearest.items():
            found = sorted([*self._found.get(norm, ()), *known.values()])
            self._found[norm] = _worth_keeping(found)
        every = self._x | {place: x[row] for place, row in rows.items()}
        lots = sorted(every, key=_lot)[:DRAWN]
        kept = {*lots, *(i for found in self._found.values() for _, i, _ in found)}
        # Copies, so that no batch stays in memory for the sake of one of its rows.
        self._x = {
            i: self._x[i] if i in self._x else np.array(every[i], dtype=np.float32)
            for i in sorted(kept)
        }

    def arrays(self) -> dict[str, Array] | None:
        """The contents of examples.npz, of unfinished batches too; None: nothing."""
        while self._waiting:
            _, batch = self._waiting.popitem()
            self.choose(batch.index, batch.x, batch.shards)
        if not self._x:
            return None
        return {
            "index": np.array(list(self._x)),
            "x": np.stack(list(self._x.values())),
        }


def _worth_keeping(
    found: list[tuple[float, int, int]],
) -> list[tuple[float, int, int]]:
    """Of what is in ascending order, what may be among the best of all."""
    of_classes: dict[int, tuple[float, int, int]] = {}
    for one in found:
        if len(of_classes) == _CLASSES:
            break
        of_classes.setdefault(one[2], one)
    kept = {*found[:_NEAREST], *of_classes.values(), *found[-_FARTHEST:]}
    return sorted(kept)


def _lot(place: int) -> int:
    """A number that says nothing about the position it is made from."""
    return int.from_bytes(hashlib.blake2b(str(place).encode(), digest_size=8).digest())
