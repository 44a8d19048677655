"""One run from the parts that several processes made."""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside, read_best, read_examples
from robustkit.evaluation.lower import contradictions, write_lower
from robustkit.evaluation.results import (
    LOWER,
    WARRANTS,
    Results,
    Run,
    as_runs,
    folder_of,
)
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import SCHEMA, RunFolder, read_json
from robustkit.evaluation.tables import ADDED, QUERY_COLUMNS, are_columns, as_csv
from robustkit.evaluation.traces import TRACES, Traced, read_traces
from robustkit.numerics.tensors import Array

__all__ = ["merge"]

T = TypeVar("T")

# Beside the columns of samples.csv.
_QUERIES = "line of queries.csv"


def merge(runs: Run | Sequence[Run], out: str | Path) -> Results:
    """Join the complete runs of all parts of an evaluation (`shard`) to one.

    The tables and adversarials are those of one run over all of the data, byte for
    byte, but for the times. Lower bounds and verdicts of active tests that the parts
    have are carried along.

    Args:
        runs: Run folders or results, one for each part, in any order.
        out: The run folder to write.

    Raises:
        BadInput: A part is missing, there twice, or not complete; or parts differ in
            model, data, pool, settings, versions or the kind of their lower bounds; or
            a lower bound is above the distance of an adversarial; or active tests said
            different things of an attack; or `out` cannot be written.
    """
    parts = _in_order([folder_of(run) for run in as_runs(runs)])
    opened = [Results(part) for part in parts]
    method, warrants = _method(opened), _warrants(opened)
    run = {**read_json(parts[0] / "run.json")}
    run["config"] = {**run["config"], "shard": None}
    others = [read_json(part / "run.json") for part in parts]
    run["started"] = min(other["started"] for other in others)
    run["finished"] = max(other["finished"] for other in others)
    run["notes"] = list(
        dict.fromkeys(itertools.chain.from_iterable(o["notes"] for o in others))
    )
    unbounded = [str(r.path) for r in opened if not r.lower_methods]
    if method is not None and unbounded:
        run["notes"].append(f"no lower bounds for samples of {', '.join(unbounded)}")
    size = run["config"]["batch_size"]
    with RunFolder(out, run) as folder:
        folder.write("run.json", {**run, "status": "running"})
        readers = [_Part(part, size) for part in parts]
        last = -1
        while ahead := {r.batch: r for r in readers if r.batch is not None}:
            number = min(ahead)
            reader = readers[number % len(readers)]
            if number <= last or ahead[number] is not reader:
                raise BadInput(
                    f"the tables of '{ahead[number].path}' are not in the order in "
                    f"which they are written: batch {number} is not where it should "
                    "be; get the run again from whoever made it"
                )
            last, shards = number, list(reader.shards(number))
            for shard in shards:
                folder.keep(shard)
            folder.originals.choose(*reader.originals(number), shards)
        folder.write_tables()
        folder.write("run.json", run)
        if warrants:
            folder.write(WARRANTS, {"schema": SCHEMA, "norms": warrants})
        results = Results(folder.path)
        folder.write("summary.json", results.summary())
        if method is not None:
            write_lower(results, _lower(opened, results), method)
    return results


def _method(parts: Sequence[Results]) -> str | None:
    """Where the lower bounds of all parts come from; None: there are none.

    Raises:
        BadInput: They come from different places, or contradict what was found.
    """
    methods: dict[str, Path] = {}
    for part in parts:
        for norm in part.norms:
            wrong = contradictions(part, norm, part.lower(norm))
            if wrong:
                raise BadInput(
                    f"the run in '{part.path}' contradicts itself: {wrong[0]}"
                )
        for method in part.lower_methods:
            methods.setdefault(method, part.path)
    if len(methods) > 1:
        raise BadInput(
            "the parts have lower bounds of different kinds: "
            f"{', '.join(f'{method} in {path}' for method, path in methods.items())}; "
            f"bound all of them in the same way, or remove {LOWER} from the others"
        )
    return next(iter(methods), None)


def _warrants(parts: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """What active tests said in the parts where there were any.

    They are about the first samples of the data, whatever part is evaluated, so those
    of one part are those of all.

    Raises:
        BadInput: Two parts say different things.
    """
    tested = [part for part in parts if part.warrants]
    for part in tested[1:]:
        if _verdicts(part) != _verdicts(tested[0]):
            raise BadInput(
                f"the active tests in '{tested[0].path}' and '{part.path}' said "
                "different things of the attacks; test all parts anew, or remove "
                f"{WARRANTS} from all but one"
            )
    return tested[0].warrants if tested else {}


def _verdicts(part: Results) -> dict[str, dict[str, str]]:
    return {
        norm: {attack: test["verdict"] for attack, test in tests.items()}
        for norm, tests in part.warrants.items()
    }


def _lower(parts: Sequence[Results], whole: Results) -> dict[str, Array]:
    """The lower bounds of all samples, by norm, in the order of the whole run."""
    lower = {norm: np.full(len(whole.index), np.nan) for norm in whole.norms}
    for part in parts:
        place = np.searchsorted(whole.index, part.index)
        for norm, bounds in lower.items():
            bounds[place] = part.lower(norm)
    return lower


class _Part:
    """Reads one run batch by batch."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._best = read_best(path / "best.npz")
        self._traces = read_traces(path / TRACES)
        self._originals = read_examples(path / "examples.npz")
        self._size = size
        self._rows = self._lines(path)
        self._next = next(self._rows, None)

    @property
    def batch(self) -> int | None:
        """The number of the batch that comes next; None: nothing is left to read."""
        return None if self._next is None else int(self._next["index"]) // self._size

    def shards(self, number: int) -> Iterator[Shard]:
        """What each attack found for the batch of that number."""
        rows = list(self._batch(number))
        by_attack = itertools.groupby(rows, lambda row: (row["norm"], row["attack"]))
        for place, ((norm, attack), some) in enumerate(by_attack):
            listed = list(some)
            index = np.array([int(row["index"]) for row in listed])
            best = np.flatnonzero(
                (self._best["norm"] == norm)
                & (self._best["attack"] == attack)
                & np.isin(self._best["index"], index)
            )
            traced = self._traces.get((norm, attack), Traced.nobody())
            yield Shard(
                ShardKey(number, place, norm, attack, ""),
                as_csv(listed),
                np.array([int(row["prediction"]) for row in listed]),
                self._best["index"][best],
                self._best["label"][best],
                self._best["distance"][best],
                np.array(self._best["x_adversarial"][best]),
                "".join(row[_QUERIES] for row in listed),
                traced.at(np.flatnonzero(np.isin(traced.index, index))),
            )

    def originals(self, number: int) -> tuple[Array, Array]:
        """Those that were kept of that batch, and their positions before them."""
        of_batch = [i for i in self._originals if i // self._size == number]
        return np.array(of_batch), np.array([self._originals[i] for i in of_batch])

    def _batch(self, number: int) -> Iterator[dict[str, Any]]:
        while self._next is not None and self.batch == number:
            yield self._next
            self._next = next(self._rows, None)

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """The rows of samples.csv, each with its line of queries.csv."""
        try:
            with (
                open(
                    inside(path / "samples.csv"), newline="", encoding="utf-8"
                ) as file,
                open(
                    inside(path / "queries.csv"), newline="", encoding="utf-8"
                ) as queries,
            ):
                reader = csv.DictReader(file)
                if not are_columns(reader.fieldnames or ()):
                    raise ValueError(f"its columns are {reader.fieldnames}")
                if _cells(next(queries, "")) != QUERY_COLUMNS:
                    raise ValueError("queries.csv has other columns than expected")
                for row, line in zip(reader, queries, strict=True):
                    cells = _cells(line)
                    whole = line.endswith("\n") and len(cells) == len(QUERY_COLUMNS)
                    of = row["index"], row["attack"], row["norm"]
                    if not whole or cells[:3] != of:
                        raise ValueError(
                            f"line {reader.line_num} of queries.csv is not that of "
                            f"sample {of[0]}, {of[2]} {of[1]}"
                        )
                    yield {ADDED: 0, **row, _QUERIES: line}
        except (OSError, ValueError, csv.Error) as error:
            raise BadInput(
                f"cannot read the tables of the run in '{path}': {error}"
            ) from error


def _cells(line: str) -> tuple[str, ...]:
    return tuple(next(csv.reader([line]), ()))


def _in_order(paths: list[Path]) -> list[Path]:
    """One folder per part, the first part first."""
    if not paths:
        raise BadInput("no run was named; name the folders of all parts")
    for path in paths:
        if paths.count(path) > 1:
            raise BadInput(f"'{path}' is named twice; name each part once")
    runs = {path: read_json(path / "run.json") for path in paths}
    first = runs[paths[0]]
    count = (first["config"].get("shard") or (1, 1))[1]
    placed: dict[int, Path] = {}
    for path, run in runs.items():
        if run["status"] != "complete":
            raise BadInput(
                f"the run in '{path}' is {run['status']}, not complete; finish it with "
                f"`robustkit eval --resume {path}`"
            )
        for what, of in (
            ("settings", lambda r: {**r["config"], "shard": None}),
            ("model", lambda r: r["model"]),
            ("data", lambda r: r["data"]),
            ("pool", lambda r: r.get("pool") or {}),
            ("versions", lambda r: r["versions"]),
        ):
            _check_equal(what, of, paths[0], first, path, run)
        part, parts = run["config"].get("shard") or (1, 1)
        if parts != count or part in placed:
            raise BadInput(
                f"'{path}' is part {part} of {parts}, where the parts of {count} are "
                "wanted, each once"
            )
        placed[part] = path
    missing = [part for part in range(1, count + 1) if part not in placed]
    if missing:
        raise BadInput(
            f"of {count} parts these are missing: {', '.join(map(str, missing))}"
        )
    return [placed[part] for part in sorted(placed)]


def _check_equal(
    what: str,
    of: Callable[[dict[str, Any]], dict[str, Any]],
    path: Path,
    run: dict[str, Any],
    other_path: Path,
    other: dict[str, Any],
) -> None:
    one, two = of(run), of(other)
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            raise BadInput(
                f"the runs cannot be joined: in '{path}' the {what} have {name} = "
                f"{one.get(name)!r}, in '{other_path}' {two.get(name)!r}"
            )
