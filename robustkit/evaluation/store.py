"""The run folder: everything an evaluation finds, kept as it is found.

See docs/reference/run-folder.md for the format. What is finished is kept in shards
(`Shards`), which outlive any end of the process, and the tables are made from them
(`write_tables`). Nothing here grows with the number of samples.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.archive import MOST_TEXT, inside, read_examples
from robustkit.evaluation.originals import Originals
from robustkit.evaluation.shards import Shard, ShardKey, Shards, write_atomically
from robustkit.evaluation.tables import write_tables
from robustkit.evaluation.traces import TRACED, TRACES
from robustkit.numerics.tensors import Array

__all__ = ["SCHEMA", "SHARDS", "RunFolder", "read_json", "unfinished", "write_json"]

SCHEMA = 1
"""Version of the run folder's format."""
SHARDS = ".shards"
"""The folder in it that holds what is finished, as long as a run can go on."""

# Begins the names of folders that nobody needs any more.
_STALE = ".robustkit-"
# What must be the same for a run to go on, but for times and what is said of it.
_MANIFEST = ("schema", "config", "model", "pool", "versions")


class RunFolder:
    """Keeps one evaluation; used as a context.

    Leaving the context without an error removes the shards, from which the tables must
    have been made. After an error they stay, and the run can go on, in a `RunFolder` of
    the same place and description.

    Args:
        path: Must not exist, or be an empty folder, or hold an unfinished run of the
            same description; parents are made.
        run: What run.json will say. A run goes on only if model, pool, settings and
            versions are what they were.
        watch: Called with each shard once it is kept, and with those that were kept
            before as they are asked for; and whether it is a new one.

    Attributes:
        path: The folder.
        earlier: What run.json said before, if the run goes on; else None.
        originals: Those that will be kept in examples.npz.

    Raises:
        BadInput: The folder holds something else, or cannot be written to, or another
            process is writing to it.
    """

    def __init__(
        self,
        path: str | Path,
        run: dict[str, Any] | None = None,
        watch: Callable[[Shard, bool], None] | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise BadInput(f"the output folder must be a path; got {path!r}")
        self.path = Path(path)
        self._watch = watch
        try:
            self.earlier = self._unfinished()
            if self.earlier is not None:
                _check_same(self.path, self.earlier, run or {})
            (self.path / SHARDS).mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path / SHARDS)
        except OSError as error:
            raise BadInput(
                f"cannot write to the output folder '{path}' ({error.strerror}); name "
                "one that can be written to with --out"
            ) from error
        self._shards = Shards(self.path / SHARDS)
        attacks = (run or {}).get("config", {}).get("attacks")
        self.originals = Originals(attacks and sum(map(len, attacks.values())))
        self._evaluated = 0

    def __enter__(self) -> Self:
        for stale in self.path.glob(f"{_STALE}*"):
            shutil.rmtree(stale)
        self.write_tables()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                # At one stroke, so that no end of the process leaves some of them.
                done = self.path / f"{_STALE}done"
                os.replace(self.path / SHARDS, done)
                shutil.rmtree(done, ignore_errors=True)
        finally:
            os.close(self._lock)

    @property
    def damaged(self) -> list[str]:
        """Files of shards that were found damaged; they count as missing."""
        return sorted(self._shards.damaged)

    def kept(self, key: ShardKey) -> Shard | None:
        """What was finished of this part of the run before; None: nothing.

        Raises:
            BadInput: That part was made on other data.
        """
        shard = self._shards.read(key)
        if shard is not None and shard.key != key:
            raise BadInput(
                f"the run in '{self.path}' was made on other data: batch {key.batch} "
                "(from 0) is another now. Give the data that it was made on, or start "
                "anew in another folder"
            )
        if shard is not None:
            self.originals.finish(shard)
            if self._watch is not None:
                self._watch(shard, False)
        return shard

    def keep(self, shard: Shard) -> None:
        """Keep what was finished, whatever comes."""
        self._shards.write(shard)
        # For whoever looks on; the table is made anew at the end.
        with open(self.path / "samples.csv", "ab") as table:
            table.write(shard.text.encode())
        self.originals.finish(shard)
        if self._watch is not None:
            self._watch(shard, True)

    def to_trace(self, count: int) -> int:
        """How many of the next `count` samples belong to those that are traced.

        To be asked once about each batch, in their order.
        """
        room = max(TRACED - self._evaluated, 0)
        self._evaluated += count
        return min(room, count)

    def add_examples(self, index: Array, x: Array) -> None:
        """The originals (n, ...) of the next batch, of which some may be kept."""
        self.originals.add(index, x)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the run folder."""
        write_json(self.path / name, content)

    def write_tables(self, whole: bool = True) -> None:
        """Make the tables and arrays from all that was kept.

        Args:
            whole: Whether every batch was looked at. If not, a run that went on for a
                moment may know fewer originals than its folder has, which then stay.
        """
        write_tables(self.path, self._shards)
        examples = self.originals.arrays()
        path = self.path / "examples.npz"
        if examples is None:
            return
        if not whole and len(read_examples(path)) >= len(examples["index"]):
            return
        with write_atomically(path) as file:
            np.savez(file, index=examples["index"], x=examples["x"])

    def _unfinished(self) -> dict[str, Any] | None:
        """The run.json of a run in this folder that was not finished."""
        if not self.path.exists():
            return None
        content = {entry.name for entry in self.path.iterdir()}
        begun = SHARDS in content
        if begun and "run.json" in content:
            return read_json(self.path / "run.json")
        # What a process leaves that was killed at once.
        left = {"samples.csv", "best.npz", "queries.csv", TRACES, "error.txt"}
        visible = {name for name in content if not name.startswith(".")}
        if not content or (begun and visible <= left):
            return None
        raise BadInput(
            f"the output folder '{self.path}' exists and is not empty; name another "
            "one, or remove it"
        )


def unfinished(path: Path) -> bool:
    """Whether a run folder has what is needed to go on."""
    return (path / SHARDS).is_dir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON, whole or not at all: what is not finite becomes null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False)
    with write_atomically(path) as file:
        # Halves of characters, as names of files may have, as JSON escapes them.
        file.write(f"{text}\n".encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Raises:
        BadInput: There is no such file, or it is not a JSON object.
    """
    try:
        if inside(path).stat().st_size > MOST_TEXT:
            raise ValueError(f"it is larger than {MOST_TEXT} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"'{path.parent}' is not a run folder of robustkit: cannot read "
            f"{path.name} ({error}); name the folder that `robustkit eval` printed"
        ) from error
    if not isinstance(content, dict):
        raise BadInput(f"'{path}' should hold a JSON object")
    return content


def _check_same(path: Path, earlier: dict[str, Any], run: dict[str, Any]) -> None:
    """Refuse to go on with a run under another description."""
    said = dict(_leaves({name: earlier.get(name) for name in _MANIFEST}))
    now = dict(_leaves(_plain({name: run.get(name) for name in _MANIFEST})))
    differ = [
        f"{name} was {said.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(said.keys() | now.keys())
        if said.get(name) != now.get(name)
    ]
    if not differ:
        return
    raise BadInput(
        f"the folder '{path}' holds an unfinished run that cannot go on like this: "
        f"{'; '.join(differ)}. Make it the same again, or start anew in another folder"
    )


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested JSON that is no object, with its path."""
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _lock(folder: Path) -> int:
    """The folder, opened so that no other process can do the same meanwhile.

    Raises:
        BadInput: Another process has done so.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        raise BadInput(
            f"another process is writing to the run folder '{folder.parent}'; wait for "
            "it to end, or name another folder with --out"
        ) from error
    return opened


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
