"""Reading the tables of a run folder, a row at a time."""

import csv
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside
from robustkit.evaluation.description import printable
from robustkit.evaluation.tables import QUERIES, QUERY_COLUMNS, are_columns
from robustkit.evaluation.verify import UNDONE
from robustkit.numerics.tensors import Array

__all__ = ["read_queries", "read_table", "whole_lines"]

_INTEGERS = (
    "index",
    "label",
    "prediction",
    "forward_passes",
    "backward_passes",
    "decision_queries",
    "steps",
    "blind_steps",
)
_NUMBERS = ("distance", "seconds")
_WORDS = ("attack", "norm", "status", "found")
_LEAST, _MOST = 1e-100, 1e100


def read_queries(path: Path, attack: str, norm: str) -> Array:
    """(n, 1 + 2 counts) the index and the distances of one attack in queries.csv."""
    rows = []
    try:
        with open(inside(path), newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != QUERY_COLUMNS:
                raise ValueError("its columns are others than expected")
            for index, name, of, *values in reader:
                if len(values) != 2 * len(QUERIES):
                    raise ValueError(f"a row has {3 + len(values)} values")
                if (name, of) == (attack, norm):
                    rows.append(array("d", map(float, (index, *values))))
    except FileNotFoundError:
        return np.zeros((0, 1 + 2 * len(QUERIES)))
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"cannot read the table of queries '{path}': {error}") from error
    return np.array(rows).reshape((-1, 1 + 2 * len(QUERIES)))


def whole_lines(file: Iterable[str], ended: bool) -> Iterator[str]:
    """The lines of a table; of a run that has not ended, the last one if it is whole.

    A process that is killed, or still at work, may leave a part of a line behind.
    """
    for line in file:
        if ended or line.endswith("\n"):
            yield line


def read_table(path: Path, *, ended: bool = True) -> dict[str, Array]:
    """The columns of samples.csv as arrays; reasons are left on disk.

    Of a reason only remains whether it is that of an adversarial that did not hold, or
    stands beside an adversarial: that of an attack which did not come to its end.

    A row costs about a hundred bytes of memory, however long the texts in it are.

    Args:
        path: Of the table.
        ended: Whether the run has; else a last line that is not whole is left out.
    """
    integers = {name: array("q") for name in _INTEGERS}
    numbers = {name: array("d") for name in _NUMBERS}
    words: dict[str, list[str]] = {name: [] for name in _WORDS}
    # Each word is in memory once, however many rows have it.
    known: dict[str, str] = {}
    undone, cut = array("b"), array("b")
    try:
        with open(inside(path), newline="", encoding="utf-8") as file:
            reader = csv.DictReader(whole_lines(file, ended))
            names = reader.fieldnames or ()
            if not are_columns(names):
                raise ValueError(f"its columns are {reader.fieldnames}")
            for row in reader:
                if None in row or row[names[-1]] is None:
                    raise ValueError(
                        f"line {reader.line_num} has not {len(names)} values"
                    )
                for name in _INTEGERS:
                    integers[name].append(int(row.get(name, 0)))
                for name in _NUMBERS:
                    numbers[name].append(float(row[name]))
                for name in _WORDS:
                    word = row[name]
                    if word not in known:
                        known[word] = printable(word)
                    words[name].append(known[word])
                undone.append(UNDONE in row["reason"])
                cut.append(row["status"] == "found" and row["reason"] != "")
    except (OSError, ValueError, TypeError, OverflowError, csv.Error) as error:
        raise BadInput(f"cannot read the table of samples '{path}': {error}") from error
    _check_distances(np.array(numbers["distance"]), path)
    table: dict[str, Array] = {k: np.array(v) for k, v in integers.items()}
    table |= {name: np.array(values) for name, values in numbers.items()}
    table |= {name: np.array(values, dtype=object) for name, values in words.items()}
    table["found"] = table["found"] == "true"
    table["undone"] = np.array(undone, dtype=bool)
    table["cut"] = np.array(cut, dtype=bool)
    return table


def _check_distances(distance: Array, path: Path) -> None:
    """Refuse what no distance of single-precision inputs can be."""
    size = distance[np.isfinite(distance) & (distance != 0)]
    if ((size < _LEAST) | (size > _MOST)).any():
        raise BadInput(
            f"cannot read the table of samples '{path}': it has a distance of "
            f"{size[(size < _LEAST) | (size > _MOST)][0]:g}"
        )
