"""The run folder: everything an evaluation finds, written as it is found.

See docs/reference/run-folder.md for the format. Nothing here grows with the number of
samples: rows are appended to files.
"""

import contextlib
import csv
import json
import math
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = [
    "BEST",
    "COLUMNS",
    "EXAMPLES",
    "SCHEMA",
    "RunFolder",
    "read_json",
    "write_json",
]

SCHEMA = 1
"""Version of the run folder's format."""

EXAMPLES = 32
"""How many originals examples.npz keeps."""

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
    "seconds",
    "status",
    "reason",
)
_PARTS = ".parts"
_NAME_WIDTH = 64
BEST: dict[str, str] = {
    "norm": "<U16",
    "index": "<i8",
    "label": "<i8",
    "distance": "<f8",
    "attack": f"<U{_NAME_WIDTH}",
    "x_adversarial": "<f4",
}
"""The arrays of best.npz and their types."""


class RunFolder:
    """Writes one evaluation; used as a context.

    Leaving the context, by whatever way, packs what has been written so far into
    `best.npz`.

    Args:
        path: Must not exist, or be an empty folder; parents are made.

    Raises:
        BadInput: The folder holds something, or cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if self.path.exists() and (
                not self.path.is_dir() or any(self.path.iterdir())
            ):
                raise BadInput(
                    f"the output folder '{path}' exists and is not empty; name another "
                    "with --out, or remove it"
                )
            (self.path / _PARTS).mkdir(parents=True)
        except OSError as error:
            raise BadInput(
                f"cannot write to the output folder '{path}' ({error.strerror}); name "
                "one that can be written to with --out"
            ) from error
        self._stack = contextlib.ExitStack()
        self._shape: tuple[int, ...] | None = None
        self._count = 0
        self._examples: dict[str, Array] | None = None

    def __enter__(self) -> Self:
        table = open(self.path / "samples.csv", "w", newline="", encoding="utf-8")
        self._table = self._stack.enter_context(table)
        self._writer = csv.writer(self._table, lineterminator="\n")
        self._writer.writerow(COLUMNS)
        self._table.flush()
        self._parts = {
            name: self._stack.enter_context(self._part(name).open("wb"))
            for name in BEST
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._pack()
        shutil.rmtree(self.path / _PARTS)

    def add_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append to samples.csv; the keys are `COLUMNS`."""
        for row in rows:
            self._writer.writerow([_cell(row[name]) for name in COLUMNS])
        self._table.flush()

    def add_best(
        self,
        norm: str,
        index: Array,
        label: Array,
        distance: Array,
        attack: list[str],
        x_adversarial: Array,
    ) -> None:
        """Append adversarials (m, ...), the nearest of each sample, to best.npz."""
        if len(index) == 0:
            return
        self._shape = self._shape or tuple(x_adversarial.shape[1:])
        self._count += len(index)
        columns = {
            "norm": np.full(len(index), norm),
            "index": index,
            "label": label,
            "distance": distance,
            "attack": np.array(attack),
            "x_adversarial": x_adversarial,
        }
        for name, values in columns.items():
            self._parts[name].write(np.asarray(values, dtype=BEST[name]).tobytes())
            self._parts[name].flush()

    def add_examples(self, index: Array, x: Array) -> None:
        """Keep the first `EXAMPLES` of all originals (n, ...) in examples.npz."""
        new = {"index": index, "x": x.astype(np.float32)}
        old = self._examples or {name: values[:0] for name, values in new.items()}
        room = EXAMPLES - len(old["index"])
        if room == 0:
            return
        self._examples = {
            name: np.concatenate([old[name], new[name][:room]]) for name in new
        }
        np.savez(
            self.path / "examples.npz",
            index=self._examples["index"],
            x=self._examples["x"],
        )

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the run folder."""
        write_json(self.path / name, content)

    def _part(self, name: str) -> Path:
        return self.path / _PARTS / name

    def _pack(self) -> None:
        with zipfile.ZipFile(self.path / "best.npz", "w") as archive:
            for name, dtype in BEST.items():
                shape: tuple[int, ...] = (self._count,)
                if name == "x_adversarial":
                    shape += self._shape or ()
                # A fixed date, so that equal results are equal bytes.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as target:
                    np.lib.format.write_array_header_1_0(
                        target,
                        {"descr": dtype, "fortran_order": False, "shape": shape},
                    )
                    with open(self._part(name), "rb") as source:
                        wanted = math.prod(shape) * np.dtype(dtype).itemsize
                        _copy(source, target, wanted)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON: what is not finite becomes null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Raises:
        BadInput: There is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"'{path.parent}' is not a run folder of robustkit: cannot read "
            f"{path.name} ({error}); name the folder that `robustkit eval` printed"
        ) from error
    if not isinstance(content, dict):
        raise BadInput(f"'{path}' should hold a JSON object")
    return content


def _copy(source: Any, target: Any, wanted: int) -> None:
    while wanted > 0:
        chunk = source.read(min(wanted, 1 << 20))
        if not chunk:
            raise OSError(f"{source.name} is shorter than what was written to it")
        target.write(chunk)
        wanted -= len(chunk)


def _cell(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return value


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
