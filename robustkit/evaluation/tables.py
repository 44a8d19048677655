"""The files of a run that are made from its shards: tables, adversarials, traces."""

import contextlib
import csv
import io
import itertools
import math
import operator
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.evaluation.archive import BEST
from robustkit.evaluation.shards import Shard, write_atomically
from robustkit.evaluation.traces import TRACED, TRACES, Traced, write_traces
from robustkit.numerics.tensors import Array

__all__ = [
    "ADDED",
    "COLUMNS",
    "QUERIES",
    "QUERY_COLUMNS",
    "are_columns",
    "as_csv",
    "queries_as_csv",
    "write_tables",
]

COLUMNS = (
    "index",
    "label",
    "prediction",
    "attack",
    "norm",
    "found",
    "distance",
    "forward_passes",
    "backward_passes",
    "decision_queries",
    "steps",
    "blind_steps",
    "seconds",
    "status",
    "reason",
)
ADDED = "blind_steps"
"""A column that runs of before do not have; 0 then."""

QUERIES = tuple(
    step * 10**power
    for power in range(6)
    for step in (1, 2, 5)
    if step * 10**power >= 5
)
"""The numbers of passes after which queries.csv has the distance."""

QUERY_COLUMNS = (
    "index",
    "attack",
    "norm",
    *(f"after_{count}" for count in QUERIES),
    *(f"after_{count}_with_backward" for count in QUERIES),
)
"""Of forward passes, then of forward and backward passes together."""


def are_columns(names: Iterable[str]) -> bool:
    """Whether these are the columns of samples.csv, now or before."""
    given = tuple(names)
    return given in (COLUMNS, tuple(name for name in COLUMNS if name != ADDED))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Lines of samples.csv; the keys are `COLUMNS`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    return text.getvalue()


def queries_as_csv(index: Array, attack: str, norm: str, after: Array) -> str:
    """Lines of queries.csv.

    Args:
        index: (n,) positions of the samples in the data.
        attack: Its name.
        norm: Whose distance was minimised.
        after: (n, 2 counts) the distances after so many passes, as in `QUERY_COLUMNS`.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(
        (place, attack, norm, *(f"{value:.6g}" for value in values))
        for place, values in zip(index.tolist(), after.tolist(), strict=True)
    )
    return text.getvalue()


def write_tables(folder: Path, shards: Iterable[Shard]) -> None:
    """Write samples.csv, queries.csv, best.npz, traces.npz; each whole or not at all.

    Args:
        folder: To write to.
        shards: In the order of their places; looked at one batch and norm at a time.

    Raises:
        OSError: They cannot be written; those that were there are as they were.
    """
    with (
        tempfile.TemporaryDirectory(prefix=".robustkit-", dir=folder) as parts,
        write_atomically(folder / "samples.csv") as table,
        write_atomically(folder / "queries.csv") as queries,
    ):
        table.write((",".join(COLUMNS) + "\n").encode())
        queries.write((",".join(QUERY_COLUMNS) + "\n").encode())
        first = _First()
        with _Columns(Path(parts)) as columns:
            by_norm = operator.attrgetter("key.batch", "key.norm")
            for _, some in itertools.groupby(shards, by_norm):
                attacks = list(some)
                for shard in attacks:
                    table.write(shard.text.encode())
                    queries.write(shard.queries.encode())
                    first.add(shard)
                columns.add(attacks)
        with write_atomically(folder / "best.npz") as file:
            columns.pack(file)
    with write_atomically(folder / TRACES) as file:
        write_traces(file, first.parts)


class _First:
    """The traces of the first samples of a run, whatever its parts have kept.

    Attributes:
        parts: By norm and attack, batch by batch.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[str, str, Traced]] = []
        self._batch, self._index = -1, np.zeros(0, dtype=np.int64)
        self._earlier = 0

    def add(self, shard: Shard) -> None:
        """Take what belongs to it from one shard; batch after batch."""
        if shard.key.batch != self._batch:
            self._earlier += len(self._index)
            self._batch = shard.key.batch
            self._index = np.zeros(0, dtype=np.int64)
            if self._earlier < TRACED:
                lines = shard.queries.splitlines()
                index = [int(line.partition(",")[0]) for line in lines]
                self._index = np.array(index[: TRACED - self._earlier], dtype=np.int64)
        kept = np.flatnonzero(np.isin(shard.traced.index, self._index))
        if len(kept):
            self.parts.append((shard.key.norm, shard.key.attack, shard.traced.at(kept)))


class _Columns:
    """The arrays of best.npz, gathered in a file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shape: tuple[int, ...] = ()
        self._count = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Columns":
        self._files = {
            name: self._stack.enter_context((self._folder / name).open("wb"))
            for name in BEST
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, attacks: list[Shard]) -> None:
        """Append the nearest adversarials of one batch and norm; ties go to the first.

        Args:
            attacks: What each of them found for the batch.
        """
        winners: dict[int, tuple[float, int, int]] = {}
        for place, shard in enumerate(attacks):
            for row, (index, distance) in enumerate(
                zip(shard.index.tolist(), shard.distance.tolist(), strict=True)
            ):
                if distance < winners.get(index, (math.inf, 0, 0))[0]:
                    winners[index] = distance, place, row
        for _, (_, place, row) in sorted(winners.items()):
            shard = attacks[place]
            values = {
                "norm": shard.key.norm,
                "index": shard.index[row],
                "label": shard.label[row],
                "distance": shard.distance[row],
                "attack": shard.key.attack,
                "x_adversarial": shard.points[row],
            }
            for name, value in values.items():
                self._files[name].write(np.asarray(value, dtype=BEST[name]).tobytes())
            self._shape = shard.points.shape[1:]
        self._count += len(winners)

    def pack(self, file: Any) -> None:
        """Write all of them as one plain npz."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, dtype in BEST.items():
                shape = (self._count, *(self._shape if name == "x_adversarial" else ()))
                # A fixed date, so that equal results are equal bytes.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as target:
                    np.lib.format.write_array_header_1_0(
                        target,
                        {"descr": dtype, "fortran_order": False, "shape": shape},
                    )
                    with open(self._folder / name, "rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)


def _cell(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return value
