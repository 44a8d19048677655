"""What is finished of a run: a file for each batch and attack, whole or not at all."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from robustkit.evaluation.traces import Traced
from robustkit.numerics.tensors import Array

__all__ = ["Shard", "ShardKey", "Shards", "write_atomically"]

_MAGIC = b"robustkit shard 4 "
_ARRAYS = ("prediction", "index", "label", "distance", "points")


@dataclass(frozen=True)
class ShardKey:
    """Which part of a run a shard is.

    Attributes:
        batch: Number of the batch in the data, from 0.
        place: Of the attack among all of the run, norm by norm, from 0.
        norm: Whose distance was minimised.
        attack: Its name.
        data: A hash of the batch's inputs, labels and positions.
    """

    batch: int
    place: int
    norm: str
    attack: str
    data: str


@dataclass(frozen=True)
class Shard:
    """What one attack found for one batch of n samples, verified.

    Attributes:
        key: Which part of the run it is.
        text: The lines of samples.csv.
        prediction: (n,) the classes predicted for the originals.
        index: (m,) positions in the data of the samples an adversarial was found for.
        label: (m,) their labels.
        distance: (m,) of the adversarials, in norm units.
        points: (m, ...) the adversarials, as shown to the model.
        queries: The lines of queries.csv, one for each of those of samples.csv.
        traced: What happened on the way, of the samples that are traced.
    """

    key: ShardKey
    text: str
    prediction: Array
    index: Array
    label: Array
    distance: Array
    points: Array
    queries: str = ""
    traced: Traced = field(default_factory=Traced.nobody)


class Shards:
    """The shards of a run, in a folder of their own.

    A shard is written to a temporary file, which is flushed to the disk and then takes
    its name; so whatever stops the process, a file with that name is whole. A checksum
    tells those that were damaged later, and they count as missing.

    Args:
        path: Of the folder, which exists.

    Attributes:
        damaged: Names of the files that were found damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged: set[str] = set()

    def __iter__(self) -> Iterator[Shard]:
        """All shards that are whole, in the order of their places."""
        for path in sorted(self._path.glob("*.shard")):
            shard = self._read(path)
            if shard is not None:
                yield shard

    def read(self, key: ShardKey) -> Shard | None:
        """The shard of that place, whatever data it is of; None: not finished."""
        return self._read(self._file(key))

    def write(self, shard: Shard) -> None:
        """Keep a shard.

        Raises:
            OSError: It cannot be written; what was kept before is as it was.
        """
        arrays = {
            "key": _bytes(json.dumps(vars(shard.key))),
            "text": _bytes(shard.text),
            "queries": _bytes(shard.queries),
            "traced": shard.traced.to_records(),
            **{name: getattr(shard, name) for name in _ARRAYS},
        }
        payload = io.BytesIO()
        np.savez(payload, **arrays)
        digest = hashlib.sha256(payload.getbuffer()).hexdigest().encode()
        with write_atomically(self._file(shard.key)) as file:
            file.write(_MAGIC + digest + b"\n")
            file.write(payload.getbuffer())

    def _read(self, path: Path) -> Shard | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        payload = content[len(_MAGIC) + 65 :]
        digest = hashlib.sha256(payload).hexdigest().encode()
        if content[: len(_MAGIC) + 65] != _MAGIC + digest + b"\n":
            self.damaged.add(path.name)
            return None
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            return Shard(
                ShardKey(**json.loads(arrays["key"].tobytes())),
                arrays["text"].tobytes().decode(),
                **{name: arrays[name] for name in _ARRAYS},
                queries=arrays["queries"].tobytes().decode(),
                traced=Traced.from_records(arrays["traced"]),
            )

    def _file(self, key: ShardKey) -> Path:
        return self._path / f"{key.batch:08}-{key.place:04}.shard"


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when it is whole and on the disk.

    Raises:
        OSError: It cannot be written; a file of that name is left as it was.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.part")
    try:
        # Not through a link that somebody left there in its place.
        with open(temporary, "wb", opener=_unlinked) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _sync_folder(path: Path) -> None:
    """Put the new name on the disk too, where folders can be opened."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _bytes(text: str) -> Any:
    return np.frombuffer(text.encode(), dtype=np.uint8)
