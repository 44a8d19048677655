"""Lower bounds beside the distances that attacks found: lower.csv in the run folder."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robustkit.engine.attack import edge
from robustkit.errors import BadInput
from robustkit.evaluation.results import LOWER, LOWER_COLUMNS, Results
from robustkit.evaluation.shards import write_atomically
from robustkit.evaluation.store import write_json
from robustkit.numerics.tensors import Array

__all__ = ["contradictions", "lower_table", "read_bounds", "write_lower"]

_PROVEN = {"unsat", "verified", "robust", "holds"}
_OTHERS = {"sat", "violated", "unknown", "timeout", "error"}


def contradictions(
    results: Results, norm: str, lower: Array, *, closed: bool = False
) -> list[str]:
    """Where a lower bound (n,) is above the distance that an attack found.

    Args:
        results: Of the run.
        norm: Whose distances are bounded.
        lower: (n,) in norm units.
        closed: Whether there is none at that very distance either, as in the balls
            that are certified; exact bounds may meet the distance.
    """
    found = results.distances(norm)
    above = lower > edge(found)
    if closed:
        above |= (lower >= found) & (found > 0) & np.isfinite(found)
    return [
        f"sample {results.index[row]}, {norm}: the lower bound is {lower[row]:.9g}, "
        f"and an adversarial was found and verified at {found[row]:.9g}"
        for row in np.flatnonzero(above)
    ]


def write_lower(
    results: Results, lower: Mapping[str, Array], method: str, *, closed: bool = False
) -> None:
    """Keep lower bounds in lower.csv and in summary.json.

    Args:
        results: Of the run.
        lower: By norm, (n,) in the order of `results.index`, in norm units: no
            adversarial at this distance or nearer. NaN where nothing is known.
        method: Where they come from.
        closed: As for `contradictions`.

    Raises:
        BadInput: One is above the distance of an adversarial.
    """
    for norm, bounds in lower.items():
        wrong = contradictions(results, norm, bounds, closed=closed)
        if wrong:
            raise BadInput(
                f"{wrong[0]}"
                + (f" (and {len(wrong) - 1} more like that)" if wrong[1:] else "")
                + ". One of the two is about another model, another input or other "
                "bounds of valid inputs; nothing was written"
            )
    with write_atomically(results.path / LOWER) as file:
        file.write(lower_table(results, lower, method).encode())
    results.reload_lower()
    write_json(results.path / "summary.json", results.summary())


def lower_table(results: Results, lower: Mapping[str, Array], method: str) -> str:
    """The contents of lower.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LOWER_COLUMNS)
    for norm, bounds in lower.items():
        upper = results.distances(norm)
        for row in np.flatnonzero(~np.isnan(bounds)):
            low, high = float(bounds[row]), float(upper[row])
            gap = 0.0 if low >= high else high - low
            index = int(results.index[row])
            writer.writerow((index, norm, repr(low), repr(high), repr(gap), method))
    return text.getvalue()


def read_bounds(path: str | Path, results: Results) -> dict[str, Array]:
    """Lower bounds from another verifier, for the samples of a run.

    The file is comma-separated, with a header: the columns `index` (position of the
    sample in the data), `epsilon` (a radius, in norm units) and `verdict` (of the
    closed ball of that radius within the bounds of valid inputs, in the words of the
    verification competitions: unsat, verified, robust or holds; sat, violated, unknown,
    timeout or error, which say nothing here), or `lower` instead of the last two. With
    several norms also `norm`. Of several rows for a sample the largest proven radius
    counts.

    Args:
        path: Of the file.
        results: Of the run.

    Returns:
        By norm (n,) in the order of `results.index`; NaN where nothing is proven.

    Raises:
        BadInput: It is no such file; the message names the line.
    """
    bounds = {norm: np.full(len(results.index), np.nan) for norm in results.norms}
    place = {int(index): row for row, index in enumerate(results.index)}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = {(name or "").strip().lower() for name in reader.fieldnames or ()}
            if "index" not in columns or not (
                {"epsilon", "verdict"} <= columns or "lower" in columns
            ):
                raise BadInput(
                    f"the bounds in '{path}' need the columns index, epsilon and "
                    "verdict, or index and lower (and norm, where there are several); "
                    f"the first line has {', '.join(sorted(columns)) or 'nothing'}"
                )
            for row in reader:
                where = f"line {reader.line_num} of '{path}'"
                cells = {
                    (k or "").strip().lower(): (v or "").strip()
                    for k, v in row.items()
                    if isinstance(v, str)
                }
                norm, index, low = _entry(cells, results, where)
                if index not in place:
                    raise BadInput(f"{where}: the run has no sample {index}")
                if low is not None:
                    at = place[index]
                    bounds[norm][at] = np.fmax(bounds[norm][at], low)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"cannot read the bounds in '{path}': {error}") from error
    return bounds


def _entry(
    cells: dict[str, str], results: Results, where: str
) -> tuple[str, int, float | None]:
    """Norm, sample and proven radius of one row; None: nothing is proven."""
    norm = cells.get("norm") or (results.norms[0] if len(results.norms) == 1 else "")
    if norm not in results.norms:
        raise BadInput(
            f"{where}: expected a norm of the run ({', '.join(results.norms)}); got "
            f"'{norm}'"
        )
    name = "lower" if "lower" in cells else "epsilon"
    try:
        index, size = int(cells["index"]), float(cells[name])
    except (KeyError, ValueError):
        raise BadInput(
            f"{where}: expected a number of a sample and a size; got "
            f"index '{cells.get('index', '')}' and {name} '{cells.get(name, '')}'"
        ) from None
    if not size >= 0:
        raise BadInput(f"{where}: a size cannot be negative; got {size}")
    if name == "lower":
        return norm, index, size
    verdict = cells.get("verdict", "").lower()
    if verdict not in _PROVEN | _OTHERS:
        raise BadInput(
            f"{where}: unknown verdict '{verdict}'; known: "
            f"{', '.join(sorted(_PROVEN | _OTHERS))}"
        )
    return norm, index, size if verdict in _PROVEN else None
