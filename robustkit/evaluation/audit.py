"""Checking the claims of a run without any of its attacks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_best
from robustkit.evaluation.audit_lower import LowerAuditor
from robustkit.evaluation.audit_rows import rows_claims
from robustkit.evaluation.claims import Claim
from robustkit.evaluation.goals import adversarial_from_start, make_criterion
from robustkit.evaluation.opening import reopened
from robustkit.evaluation.preflight import examine
from robustkit.evaluation.results import WARRANTS, Results, Run, folder_of
from robustkit.evaluation.selection import selected
from robustkit.evaluation.store import read_json, unfinished
from robustkit.evaluation.verify import confirm, furthest_move
from robustkit.models.base import Model
from robustkit.models.isolated import isolated
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, Tensor, as_tensor, take, to_numpy

__all__ = ["Audit", "Claim", "verify"]

# Double precision and another order of summation.
_ROUNDING = 1e-9
_LEVELS = 255
_BESIDE = (WARRANTS, "findings.json", "adaptive.json")
"""What rests on more than the adversarials: active tests, checks, and remedies."""


@dataclass(frozen=True)
class Audit:
    """The claims of one run.

    Attributes:
        run: The run folder.
        claims: In the order in which they were checked.
    """

    run: Path
    claims: tuple[Claim, ...]

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": str(self.run),
            "holds": self.holds,
            "claims": [{**asdict(c), "holds": c.holds} for c in self.claims],
        }


def verify(
    run: Run,
    model: Any,
    data: Any,
    *,
    criterion: Callable[[Tensor], Criterion] | None = None,
    device: str | None = None,
    headers: Mapping[str, str] | None = None,
    rounded: bool = False,
) -> Audit:
    """Recompute what a run claims, from its adversarials, the model and the data.

    No attack is run: one forward pass per original and per adversarial says whether
    each adversarial is finite, in bounds and adversarial; its distance, the table, the
    curve and the summary are computed anew. What cannot be seen from the outside is not
    checked: how many passes an attack took and what it had found by which pass, beyond
    that the files of the run agree about it and that nothing found beyond the budget
    counts; and the distances of attacks that another attack beat (no adversarials of
    theirs are kept). Samples without a prediction must be errors, which a note counts.
    Lower bounds by "interval" or "crown" are certified anew, at the radius claimed;
    those from elsewhere are only held against the distances. What active tests, checks
    and `adapt` left in the folder is not checked; the claim about the summary has a
    note for each.

    At the nearest point of the boundary, rounding that differs between machines may
    undo an adversarial by a hair. Such a point counts, with a note, if it holds after
    being moved outwards by at most 0.1 % of its perturbation.

    Args:
        run: A run folder, or results, whose folder is read again. Nothing it names is
            loaded or run.
        model: What was evaluated, as for `evaluate`.
        data: What it was evaluated on, as for `evaluate`.
        criterion: The criterion of your own that the run was made with, if it was.
        device: For torch models.
        headers: For a model by its address, as for `evaluate`; none of the run's are
            sent.
        rounded: Also count the adversarials that remain after rounding to 256 levels.

    Returns:
        Every claim with what was found.

    Raises:
        BadInput: The folder is not that of a run, or of one that has not ended; or
            model or data cannot be opened.

    >>> import tempfile, robustkit as rk
    >>> out = tempfile.mkdtemp()
    >>> _ = rk.evaluate("digits", "digits", samples=10, attacks=["fmn"], out=out)
    >>> rk.verify(out, "digits", "digits").holds
    True
    """
    results = Results(folder_of(run))
    config, path = results.run["config"], results.path
    _check_ended(results)
    if config["criterion"] and criterion is None:
        raise BadInput(
            f"the run was made with a criterion of its own, '{config['criterion']}'; "
            "verify it from Python, with criterion=..."
        )
    opened, dataset = reopened(results, model, data, device=device, headers=headers)
    # Before it is asked, which may change what it keeps.
    same = _same("the model is the one that was evaluated", "model", results, opened)
    precise = opened.precise()
    classes = examine(opened, dataset.example).classes
    make = make_criterion(precise, config["target"], criterion, classes, config["seed"])
    auditor = _Auditor(
        isolated(precise, classes), make, results, read_best(path / "best.npz")
    )
    lower = LowerAuditor(precise, make, results, dataset.example)
    start, wanted = 0, []
    for number, (x, y) in enumerate(dataset.batches(config["batch_size"])):
        auditor.look_at(x, y, start, rounded)
        lower.look_at(x, y, start)
        wanted.append(
            start + selected(y, number, config["target"], config.get("shard"))
        )
        start += len(x)
    auditor.count(start, np.concatenate(wanted))
    claims = [
        same,
        _same("the data are those that were evaluated", "data", results, dataset),
        *rows_claims(results, furthest_move(opened)),
        *auditor.claims(rounded),
        *lower.claims(),
        _summary(results),
    ]
    return Audit(path, tuple(claims))


def _check_ended(results: Results) -> None:
    """Refuse a run whose files are not there yet, or not all of them.

    Raises:
        BadInput: It is one.
    """
    status, path = results.run["status"], results.path
    missing = [n for n in ("best.npz", "summary.json") if not (path / n).exists()]
    if status != "running" and not missing:
        return
    if unfinished(path):
        raise BadInput(
            f"the run in '{path}' is not finished (its status is '{status}'), so there "
            "is nothing to verify yet; wait for it to end, or go on with "
            f"`robustkit eval --resume {path}`"
        )
    raise BadInput(
        f"the run folder '{path}' is not whole (its status is '{status}'"
        + (f", and it has no {' and no '.join(missing)}" if missing else "")
        + "); get it again from whoever made it"
    )


class _Auditor:
    """Goes through the data once and holds the run's rows against it."""

    def __init__(
        self,
        model: Model,
        criterion: Callable[[Array, Array, Array], Criterion],
        results: Results,
        best: dict[str, Array],
    ) -> None:
        self._model, self._criterion, self._results = model, criterion, results
        self._best = best
        self._originals = Claim("labels and predictions are right")
        self._points = Claim("every adversarial is in bounds and adversarial")
        self._sizes = Claim("every distance is that of its adversarial")
        self._table = Claim("the table and the adversarials agree")
        self._whole = Claim("the samples are all there")
        self._rounded = Claim("after rounding to 256 levels")
        self._remaining = 0
        # Of each original without a prediction, whether the model has one now.
        self._silent: list[bool] = []
        self._distance = {norm: results.distances(norm) for norm in results.norms}
        self._winner = {norm: _winners(results, norm) for norm in results.norms}
        # An interrupted run may not have come to all norms of a sample.
        self._begun = {
            norm: ~np.isnan(self._distance[norm]) | results.finished(norm)
            for norm in results.norms
        }
        self._rows: dict[tuple[str, int], int] = {}
        for row, key in enumerate(_keys(best)):
            self._table.expect(key not in self._rows, f"{_at(*key)}: two rows")
            self._rows[key] = row
        for norm in np.unique(best["norm"]):
            self._table.expect(
                str(norm) in results.norms,
                f"best.npz has the norm {str(norm)!r}, which was not evaluated",
            )

    def look_at(self, x: Array, label: Array, start: int, rounded: bool) -> None:
        """Check the samples of one batch of the data, numbered from `start`."""
        index = self._results.index
        listed = (index >= start) & (index < start + len(x))
        places, rows = np.flatnonzero(listed), index[listed] - start
        if len(rows) == 0:
            return
        x, label = x[rows], label[rows]
        logits = to_numpy(self._model.logits(self._model.to_tensor(x)))
        criterion = self._criterion(label, logits, x)
        margin = to_numpy(criterion.margin(self._model.to_tensor(logits)))
        unknown = np.isnan(logits).any(axis=1)
        prediction = np.where(unknown, -1, logits.argmax(axis=1))
        start_off = adversarial_from_start(criterion, margin, prediction, label)
        start_off &= ~unknown
        self._compare(places, label, prediction, start_off)
        for norm in self._results.norms:
            self._check_points(norm, places, x, criterion, rounded)

    def count(self, total: int, wanted: Array) -> None:
        """Check that the samples are those that the run is of.

        Args:
            total: How many the data has.
            wanted: (n,) positions of those to be evaluated.
        """
        run, listed = self._results.run, self._results.index
        beyond = int((listed >= total).sum())
        others = int((~np.isin(listed, wanted)).sum()) - beyond
        self._whole.expect(not beyond, f"{beyond} samples are not in the data")
        self._whole.expect(
            not others, f"{others} samples are not among those evaluated"
        )
        shard = run["config"].get("shard")
        where = f"part {shard[0]} of {shard[1]} of the data" if shard else "the data"
        if run["status"] != "complete":
            self._whole.notes.append(
                f"the run is {run['status']}: {len(listed)} of {len(wanted)} samples"
            )
        else:
            self._whole.expect(
                len(listed) == len(wanted),
                f"{len(listed)} samples in the table, {len(wanted)} in {where}",
            )

    def claims(self, rounded: bool) -> Iterator[Claim]:
        """What was found."""
        for key in self._rows:
            self._table.broken.append(f"{_at(*key)}: of a sample that is not there")
        if self._silent:
            now = sum(self._silent)
            self._originals.notes.append(
                f"{len(self._silent)} samples have no prediction, so they are errors, "
                "and count as neither right nor robust"
                + (f"; the model answers for {now} of them now" if now else "")
            )
        yield from (self._whole, self._originals, self._table)
        yield from (self._points, self._sizes)
        if rounded:
            self._rounded.notes.append(
                f"{self._remaining} of {self._rounded.checked} adversarials remain"
            )
            yield self._rounded

    def _compare(
        self, places: Array, label: Array, prediction: Array, start_off: Array
    ) -> None:
        run = self._results
        for row, place in enumerate(places):
            sample = f"sample {run.index[place]}"
            said, seen = run.label[place], label[row]
            self._originals.expect(
                said == seen, f"{sample}: label {said}, in the data {seen}"
            )
            said, seen = run.prediction[place], prediction[row]
            if said < 0:
                self._silent.append(bool(seen >= 0))
                continue
            self._originals.expect(
                said == seen, f"{sample}: prediction {said}, by the model {seen}"
            )
            for norm in run.norms:
                if not self._begun[norm][place]:
                    continue
                zero = self._distance[norm][place] == 0
                self._originals.expect(
                    zero == start_off[row],
                    f"{sample}, {norm}: "
                    + ("not " if zero else "")
                    + "adversarial without any perturbation",
                )

    def _check_points(
        self,
        norm: str,
        places: Array,
        x: Array,
        criterion: Criterion,
        rounded: bool,
    ) -> None:
        claimed = self._distance[norm][places]
        found = np.isfinite(claimed) & (claimed > 0)
        rows, points = [], []
        for row, place in enumerate(places):
            sample = int(self._results.index[place])
            at = _at(norm, sample)
            best = self._rows.pop((norm, sample), None)
            self._table.expect(
                (best is not None) == bool(found[row]),
                f"{at}: "
                + (
                    "an adversarial is claimed and none is kept"
                    if best is None
                    else "an adversarial is kept and none is claimed"
                ),
            )
            if best is None:
                continue
            self._agree(norm, int(place), best, float(claimed[row]), at)
            rows.append(row)
            points.append(best)
        if not rows:
            return
        chosen, stored = np.array(rows), self._best["x_adversarial"][points]
        if stored.shape[1:] != x.shape[1:]:
            raise BadInput(
                f"the run's adversarials have the shape {stored.shape[1:]}, the data "
                f"{x.shape[1:]}; give the data that was evaluated"
            )
        goal = take(criterion, chosen)
        moved, _, flaws = confirm(self._model, goal, x[chosen], stored, get_norm(norm))
        delta = stored.astype(np.float64) - x[chosen].astype(np.float64)
        distance = to_numpy(get_norm(norm)(as_tensor(delta)))
        for place, flaw in enumerate(flaws):
            at = _at(norm, int(self._results.index[places[chosen[place]]]))
            self._points.expect(not flaw, f"{at}: {flaw}")
            said = float(self._best["distance"][points[place]])
            self._sizes.expect(
                bool(np.isclose(said, distance[place], rtol=_ROUNDING, atol=0)),
                f"{at}: distance {said:.9g}, recomputed {distance[place]:.9g}",
            )
            if not flaw and not np.array_equal(moved[place], stored[place]):
                self._points.notes.append(f"{at}: only after a move by at most 0.1 %")
        if rounded:
            self._round(goal, stored)

    def _agree(self, norm: str, place: int, best: int, claimed: float, at: str) -> None:
        """Hold one row of best.npz against the table."""
        said = {name: self._best[name][best] for name in ("distance", "label")}
        attack = str(self._best["attack"][best])
        winner = self._winner[norm][place]
        self._table.expect(
            bool(said["distance"] == claimed),
            f"{at}: distance {claimed:.9g} in samples.csv, {said['distance']:.9g} in "
            "best.npz",
        )
        self._table.expect(
            bool(said["label"] == self._results.label[place]),
            f"{at}: label {self._results.label[place]} in samples.csv, "
            f"{said['label']} in best.npz",
        )
        self._table.expect(
            attack == winner,
            f"{at}: nearest by {winner} in samples.csv, by {attack} in best.npz",
        )

    def _round(self, criterion: Criterion, points: Array) -> None:
        bounds = self._model.bounds
        levels = np.round((points - bounds.lower) / bounds.width * _LEVELS) / _LEVELS
        shown = (bounds.lower + bounds.width * levels).astype(points.dtype)
        logits = self._model.logits(self._model.to_tensor(shown))
        self._remaining += int((to_numpy(criterion.margin(logits)) < 0).sum())
        self._rounded.checked += len(points)


def _keys(best: dict[str, Array]) -> Iterator[tuple[str, int]]:
    for norm, index in zip(best["norm"], best["index"], strict=True):
        yield str(norm), int(index)


def _at(norm: str, sample: int) -> str:
    return f"sample {sample}, {norm}"


def _winners(results: Results, norm: str) -> list[str]:
    """Who came nearest to each sample; the first of several."""
    names = results.attacks(norm)
    if not names:
        return [""] * len(results.index)
    distances = np.stack([results.distances(norm, name) for name in names])
    nearest = np.nan_to_num(distances, nan=np.inf, posinf=np.inf).argmin(axis=0)
    return [names[place] for place in nearest]


def _same(name: str, part: str, results: Results, opened: Any) -> Claim:
    claim = Claim(name)
    said, seen = results.run[part].get("fingerprint"), opened.fingerprint()
    if said is None or seen is None:
        claim.notes.append("no fingerprint to compare")
    elif part == "data" and results.run["status"] != "complete":
        claim.notes.append("the run did not see all of them")
    else:
        claim.expect(said == seen, f"fingerprint {said}, now {seen}")
    return claim


def _summary(results: Results) -> Claim:
    claim = Claim("the summary follows from the table")
    said = dict(_leaves(read_json(results.path / "summary.json")))
    seen = dict(_leaves(results.summary()))
    for name in sorted(said.keys() | seen.keys()):
        a, b = said.get(name), seen.get(name)
        same = a == b
        if isinstance(a, float | int) and isinstance(b, float | int):
            same = bool(np.isclose(a, b, rtol=_ROUNDING, atol=0))
        claim.expect(same, f"{name}: {a} in summary.json, {b} from the table")
    beside = [name for name in _BESIDE if (results.path / name).exists()]
    claim.notes += [f"what {name} says is not checked" for name in beside]
    return claim


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and word in nested JSON, with its path; what is not finite: None."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{place}]")
    elif isinstance(tree, float) and not np.isfinite(tree):
        yield path, None
    else:
        yield path, tree
