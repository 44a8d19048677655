"""Checking what a run says of each attack, as far as its files tell."""

import csv
from collections.abc import Iterator
from itertools import product, zip_longest
from typing import Any

import numpy as np

from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside
from robustkit.evaluation.claims import Claim
from robustkit.evaluation.description import printable
from robustkit.evaluation.results import Results
from robustkit.evaluation.tables import QUERIES, QUERY_COLUMNS
from robustkit.numerics.tensors import Array

__all__ = ["rows_claims"]

# Distances during an attack are in single precision, and six digits of them are kept.
_ROUNDING = 1e-4
_KEY = ("index", "attack", "norm")


def rows_claims(results: Results, moved: float) -> Iterator[Claim]:
    """Whether samples.csv, queries.csv and traces.npz can be about the same attacks.

    Nobody can see from the outside how many passes an attack took, or how far it came
    where another one was nearer. But numbers that were changed by hand seldom go
    together.

    Args:
        results: Of the run.
        moved: By what share of its perturbation an adversarial may lie farther than the
            attack saw it, since it was moved outwards when it was verified.
    """
    rows = Claim("the rows of each sample agree about it")
    counts = Claim("numbers of passes are possible, and within the budget")
    after = Claim("the distances after so many passes lead to those reported")
    known = (results.path / "queries.csv").exists()
    seen: set[tuple[str, ...]] = set()
    if not known:
        after.notes.append("there is no queries.csv")
    try:
        for row, line in _rows(results, known):
            at = ""
            if row:
                at = f"sample {row['index']}, {row['norm']}, {row['attack']}"
                key = (str(int(row["index"])), row["norm"], row["attack"])
                rows.expect(key not in seen, f"{at}: two rows")
                seen.add(key)
                _check_row(rows, row, at, results)
                _check_counts(counts, row, at)
            if not known:
                continue
            said, beside = ([cells.get(k) for k in _KEY] for cells in (row, line))
            known = said == beside
            after.expect(
                known, f"a row of samples.csv is of {said}, in queries.csv of {beside}"
            )
            if known:
                _check_after(after, counts, row, line, at, results)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(
            f"cannot read the tables of the run in '{results.path}': {error}"
        ) from error
    if results.run["status"] == "complete":
        for norm, index, attack in _expected(results):
            rows.expect(
                (str(index), norm, attack) in seen,
                f"sample {index}, {norm}, {attack}: no row",
            )
    yield rows
    yield counts
    yield after
    yield _traces(results, moved)


def _rows(
    results: Results, queries: bool
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The rows of samples.csv, each with its row of queries.csv; empty: there is none.

    Of all cells, only those that are numbers or are told escaped.
    """
    table = inside(results.path / "samples.csv")
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not queries:
            yield from ((printable(row), {}) for row in rows)
            return
        other = inside(results.path / "queries.csv")
        with open(other, newline="", encoding="utf-8") as beside:
            lines = csv.DictReader(beside)
            if tuple(lines.fieldnames or ()) != QUERY_COLUMNS:
                raise ValueError("the columns of queries.csv are others than expected")
            empty: dict[str, str] = {}
            for row, line in zip_longest(rows, lines, fillvalue=empty):
                yield printable(row), printable(line)


def _expected(results: Results) -> Iterator[tuple[str, int, str]]:
    """Norm, sample and attack of every row that a complete run has."""
    attacks = results.run["config"]["attacks"]
    for norm in results.norms:
        yield from product([norm], results.index.tolist(), attacks[norm])


def _check_row(claim: Claim, row: dict[str, str], at: str, results: Results) -> None:
    """Hold one row of samples.csv against the first of its sample, and itself."""
    place = int(np.searchsorted(results.index, int(row["index"])))
    for name, first in (("label", results.label), ("prediction", results.prediction)):
        claim.expect(
            int(row[name]) == first[place],
            f"{at}: {name} {row[name]}, and {first[place]} in the sample's first row",
        )
    claim.expect(
        row["attack"] in results.run["config"]["attacks"].get(row["norm"], ()),
        f"{at}: not an attack of the run",
    )
    distance, status = float(row["distance"]), row["status"]
    fits = {
        "found": 0 <= distance < np.inf,
        "not_found": distance == np.inf,
        "already_misclassified": distance == 0,
        "error": np.isnan(distance),
    }
    claim.expect(
        bool(fits.get(status)) and row["found"] == str(status == "found").lower(),
        f"{at}: found {row['found']}, with the distance {distance:.9g} and the status "
        f"{status}",
    )
    claim.expect(
        int(row["prediction"]) >= 0 or status == "error",
        f"{at}: no prediction, and the status {status}",
    )


def _check_counts(claim: Claim, row: dict[str, str], at: str) -> None:
    forward, backward, decisions, steps, blind = (
        int(row.get(name, 0))
        for name in (
            "forward_passes",
            "backward_passes",
            "decision_queries",
            "steps",
            "blind_steps",
        )
    )
    claim.expect(
        min(forward, backward, steps, decisions, blind) >= 0
        and decisions <= forward
        and blind <= steps
        # A Jacobian takes several backward passes for one forward pass.
        and (forward > 0 or backward == 0),
        f"{at}: {forward} forward and {backward} backward passes, {decisions} for "
        f"decisions, {steps} steps, {blind} of them without gradients",
    )
    claim.expect(
        forward > 0 or row["status"] != "found",
        f"{at}: an adversarial found without a pass",
    )
    claim.expect(
        forward == 0
        or (row["status"] != "already_misclassified" and int(row["prediction"]) >= 0),
        f"{at}: {forward} passes for a sample that was not attacked",
    )


def _check_after(
    claim: Claim,
    counts: Claim,
    row: dict[str, str],
    line: dict[str, str],
    at: str,
    results: Results,
) -> None:
    """Hold one row of queries.csv against that of samples.csv."""
    values = np.array([float(line[name]) for name in QUERY_COLUMNS[len(_KEY) :]])
    forward, both = np.split(values, 2)
    if row["status"] == "error":
        return
    said = float(row["distance"])
    for known in (forward, both):
        claim.expect(
            bool((known[1:] <= known[:-1]).all()),
            f"{at}: the distance grows with the passes",
        )
    claim.expect(
        bool((both >= forward).all()),
        f"{at}: nearer when backward passes are counted too",
    )
    claim.expect(
        bool((forward >= said * (1 - _ROUNDING)).all()),
        f"{at}: nearer after some passes than in the end",
    )
    passes = int(row["forward_passes"])
    spent = passes, passes + int(row["backward_passes"])
    for known, most in zip((forward, both), spent, strict=True):
        later = known[np.array(QUERIES) >= most]
        claim.expect(
            _all_close(later, said),
            f"{at}: after its {most} passes it knew {later.max(initial=0):.6g}, and "
            f"{said:.6g} is reported",
        )
    budget = results.run["config"]["budget"]
    if budget is not None:
        later = forward[np.array(QUERIES) >= budget]
        counts.expect(
            _all_close(later, said),
            f"{at}: something nearer was found beyond the budget of {budget} passes",
        )


def _traces(results: Results, moved: float) -> Claim:
    """What traces.npz says of the way there."""
    claim = Claim("what attacks did on the way leads to what is reported")
    for norm in results.norms:
        for attack in results.attacks(norm):
            traced = results.traced(attack, norm)
            rows = np.isin(traced.index, results.index)
            claim.expect(
                bool(rows.all()), f"{norm}, {attack}: a trace of a sample not there"
            )
            traced = traced.at(np.flatnonzero(rows))
            places = np.searchsorted(results.index, traced.index)
            passes = results.forward_passes(attack, norm)[places]
            distance = results.distances(norm, attack)[places]
            for row, index in enumerate(traced.index.tolist()):
                trace: Any = traced.trace
                # Traces are in single precision.
                most = np.float32(passes[row])
                claim.expect(
                    _falls(-trace.forwards[row])
                    and not (trace.forwards[row] > most).any(),
                    f"sample {index}, {norm}, {attack}: its trace counts other passes "
                    f"than {passes[row]}",
                )
                nearest = trace.best_distance[row]
                least = distance[row] / (1 + moved) * (1 - _ROUNDING)
                claim.expect(
                    _falls(nearest) and not (nearest < least).any(),
                    f"sample {index}, {norm}, {attack}: its trace does not lead to "
                    f"{distance[row]:.6g}",
                )
    return claim


def _falls(values: Array) -> bool:
    """Whether no value is above one before it; what is not a number is left out."""
    known = values[~np.isnan(values)]
    return bool((known[1:] <= known[:-1]).all())


def _all_close(values: Array, to: float) -> bool:
    return bool(np.isclose(values, to, rtol=_ROUNDING, atol=0).all())
