"""What an evaluation found: a view on its run folder."""

import csv
import importlib
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from robustkit.engine.attack import edge
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.archive import inside, read_best
from robustkit.evaluation.curve import (
    CONFIDENCE,
    Curve,
    Interval,
    proportion,
)
from robustkit.evaluation.description import (
    check_description,
    check_warrants,
    printable,
)
from robustkit.evaluation.reading import read_queries, read_table
from robustkit.evaluation.store import SCHEMA, read_json
from robustkit.evaluation.tables import QUERIES
from robustkit.evaluation.traces import TRACES, Traced, read_traces
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array

__all__ = [
    "LOWER",
    "LOWER_COLUMNS",
    "NOT_WARRANTED",
    "WARRANTS",
    "Results",
    "Run",
    "as_results",
    "as_runs",
    "folder_of",
]

LOWER = "lower.csv"
"""Where a run folder keeps lower bounds on its distances."""

LOWER_COLUMNS = ("index", "norm", "lower", "upper", "gap", "method")

WARRANTS = "warrants.json"
"""Where a run folder keeps the verdicts of active tests on its attacks."""

NOT_WARRANTED = "not warranted"
"""In place of a verdict where no active test was run."""


class Results:
    """Distances, curves and adversarials of one evaluation.

    Args:
        path: A run folder, finished or not.
        temporary: Remove the folder with the last reference to these results.

    Attributes:
        path: The run folder.
        run: The contents of run.json.
        norms: Names of the norms, in the order asked for.
        index: (n,) positions of the samples in the data.
        label: (n,) their labels.
        prediction: (n,) the classes predicted for the originals; -1: none.

    Raises:
        BadInput: The folder is not a run folder, or one of a newer format.
    """

    def __init__(self, path: str | Path, *, temporary: bool = False) -> None:
        self.path = Path(path)
        if temporary:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self.run: dict[str, Any] = printable(read_json(self.path / "run.json"))
        if self.run.get("schema") != SCHEMA:
            raise BadInput(
                f"the run folder '{path}' has format {self.run.get('schema')}; this "
                f"version of robustkit reads format {SCHEMA}"
            )
        if not isinstance(self.run.get("config"), dict):
            raise BadInput(f"the run.json of '{path}' has no settings (config)")
        check_description(self.run, self.path / "run.json")
        self.norms = tuple(self.run["config"].get("norms", ()))
        self.reload_warrants()
        ended = self.run["status"] != "running"
        self._table = read_table(self.path / "samples.csv", ended=ended)
        index, first = np.unique(self._table["index"], return_index=True)
        self.index: Array = index
        self.label: Array = self._table["label"][first]
        self.prediction: Array = self._table["prediction"][first]
        self.reload_lower()

    @property
    def distance(self) -> Array:
        """(n,) the smallest perturbation found for each sample, in norm units.

        Zero where the sample is adversarial from the start, infinite where no
        adversarial was found, NaN where that could not be settled.

        Raises:
            BadInput: There are several norms; use `distances(norm)`.
        """
        return self.distances()

    @property
    def clean_accuracy(self) -> Interval:
        """The share of samples whose prediction is their label."""
        return proportion(int((self.prediction == self.label).sum()), len(self.index))

    def attacks(self, norm: str | Norm | None = None) -> tuple[str, ...]:
        """Names of the attacks run for a norm, in their order."""
        chosen = self._table["attack"][self._table["norm"] == self._norm(norm)]
        return tuple(dict.fromkeys(chosen.tolist()))

    def distances(
        self, norm: str | Norm | None = None, attack: str | None = None
    ) -> Array:
        """(n,) as `distance`, for one of several norms, and by one attack if named."""
        norm = self._norm(norm)
        chosen = self._table["norm"] == norm
        if attack is not None:
            chosen = self._rows(attack, norm)
        place = np.searchsorted(self.index, self._table["index"][chosen])
        values, status = self._table["distance"][chosen], self._table["status"][chosen]
        unknown = (status == "error") | np.isnan(values)
        best = np.full(len(self.index), np.inf)
        np.minimum.at(best, place, np.where(unknown, np.inf, values))
        failed = np.zeros(len(self.index), dtype=bool)
        failed[place[unknown]] = True
        missing = np.ones(len(self.index), dtype=bool)
        missing[place] = False
        best[np.isinf(best) & (failed | missing)] = np.nan
        return best

    def finished(
        self, norm: str | Norm | None = None, attack: str | None = None
    ) -> Array:
        """(n,) whether all attacks of a norm are done with a sample, errors included.

        Or that attack, if one is named. All are, unless the run was interrupted or is
        still going on.
        """
        norm = self._norm(norm)
        done = np.ones(len(self.index), dtype=bool)
        names = self.run["config"]["attacks"][norm]
        if attack is not None:
            self._check_attack(attack, norm)
            names = [attack]
        for name in names:
            rows = (self._table["norm"] == norm) & (self._table["attack"] == name)
            done &= np.isin(self.index, self._table["index"][rows])
        return done

    def undone(self, norm: str | Norm | None = None) -> Array:
        """(n,) whether an attack's adversarial did not hold at its verification."""
        rows = self._table["undone"] & (self._table["norm"] == self._norm(norm))
        return np.isin(self.index, self._table["index"][rows])

    def cut_off(self, norm: str | Norm | None = None) -> Array:
        """(n,) whether an attack that found an adversarial was ended before its end.

        By the time limit, or because the model raised.
        """
        rows = self._table["cut"] & (self._table["norm"] == self._norm(norm))
        return np.isin(self.index, self._table["index"][rows])

    def backward_passes(self, attack: str, norm: str | Norm | None = None) -> int:
        """How many backward passes an attack took, over all samples."""
        return int(self._per_sample("backward_passes", attack, norm).sum())

    def queries(self, attack: str, norm: str | Norm | None = None) -> dict[int, Curve]:
        """The curve of an attack's distances after so many forward passes per sample.

        Of the samples that were attacked, those that ended in an error as infinite. The
        numbers of passes are a fixed series below the most that any sample took, and
        that, after which the distances are those in the end. Empty for runs without
        queries.csv.
        """
        norm = self._norm(norm)
        worked = self._rows(attack, norm)
        worked &= self._table["status"] != "already_misclassified"
        after = read_queries(self.path / "queries.csv", attack, norm)
        if not worked.any() or len(after) == 0:
            return {}
        most = int(self._table["forward_passes"][worked].max())
        wanted = np.isin(after[:, 0], self._table["index"][worked])
        counts = [
            c for c, less in zip(QUERIES, (0, *QUERIES), strict=False) if less < most
        ]
        return {
            min(count, most): Curve.of_attack(after[wanted, 1 + place])
            for place, count in enumerate(counts)
        }

    def distances_after(
        self, attack: str, norm: str | Norm | None = None, *, backward: bool = False
    ) -> Array:
        """(n, counts) distances known after so many forward passes as in `QUERIES`.

        As `distances`, but NaN everywhere for samples and runs without such a record.

        Args:
            attack: Its name.
            norm: Which one, if there are several.
            backward: Whether backward passes are counted among them too.
        """
        norm = self._norm(norm)
        self._check_attack(attack, norm)
        after = read_queries(self.path / "queries.csv", attack, norm)
        known = np.full((len(self.index), len(QUERIES)), np.nan)
        rows = np.isin(after[:, 0], self.index)
        values = np.split(after[:, 1:], 2, axis=1)[int(backward)]
        known[np.searchsorted(self.index, after[rows, 0])] = values[rows]
        return known

    def forward_passes(self, attack: str, norm: str | Norm | None = None) -> Array:
        """(n,) forward passes that an attack took; 0 where it did not run."""
        return self._per_sample("forward_passes", attack, norm)

    def passes(self, attack: str, norm: str | Norm | None = None) -> Array:
        """(n,) forward and backward passes together; 0 where it did not run."""
        backward = self._per_sample("backward_passes", attack, norm)
        return self._per_sample("forward_passes", attack, norm) + backward

    def blind_steps(self, attack: str, norm: str | Norm | None = None) -> Array:
        """(n,) steps without gradients, after an attack gave up following them.

        0 where it did not run, and in runs of before.
        """
        return self._per_sample("blind_steps", attack, norm)

    def _per_sample(self, column: str, attack: str, norm: str | Norm | None) -> Array:
        rows = self._rows(attack, self._norm(norm))
        values = np.zeros(len(self.index), dtype=np.int64)
        place = np.searchsorted(self.index, self._table["index"][rows])
        values[place] = self._table[column][rows]
        return values

    def traced(self, attack: str, norm: str | Norm | None = None) -> Traced:
        """What happened to the first samples on an attack's way; of nobody in old runs.

        Raises:
            BadInput: The file of the traces is damaged, or there is no such attack.
        """
        norm = self._norm(norm)
        self._check_attack(attack, norm)
        return read_traces(self.path / TRACES).get((norm, attack), Traced.nobody())

    def curve(self, norm: str | Norm | None = None, attack: str | None = None) -> Curve:
        """The minimum-perturbation curve."""
        return Curve(self.distances(norm, attack))

    def robust_accuracy(
        self, epsilon: float, norm: str | Norm | None = None
    ) -> Interval:
        """The share of samples without an adversarial of size at most `epsilon`.

        An upper bound on the true robust accuracy, as every attack's is, unless the
        model answers at random, or samples ended in errors, which count as not robust.
        The interval speaks of the sampling of the data only.

        Args:
            epsilon: In norm units, not negative.
            norm: Which one, if there are several.
        """
        return self.curve(norm).robust_accuracy(epsilon)

    def adversarials(self, norm: str | Norm | None = None) -> dict[str, Array]:
        """The verified adversarials of a norm, a row for each sample that has one.

        Returns:
            Arrays index, label, distance and attack (m,), and x_adversarial (m, ...).
        """
        best = read_best(self.path / "best.npz")
        chosen = best.pop("norm") == self._norm(norm)
        return {name: np.array(values[chosen]) for name, values in best.items()}

    def lower(self, norm: str | Norm | None = None) -> Array:
        """(n,) below which there is surely no adversarial, in norm units.

        NaN where nothing was certified.
        """
        unknown = np.full(len(self.index), np.nan)
        return self._lower.get(self._norm(norm), unknown)

    def lower_curve(self, norm: str | Norm | None = None) -> Curve | None:
        """The curve of certified accuracy; None: no bounds are at hand.

        At each size, the share of samples that are proven to have no adversarial of
        that size: the other side of the minimum-perturbation curve.
        """
        norm = self._norm(norm)
        if norm not in self._lower:
            return None
        # A radius is certified with its edge, and a curve counts some more as inside.
        beyond = edge(self._lower[norm]) * (1 + 1e-12)
        return Curve(np.nan_to_num(beyond, nan=0.0, posinf=np.inf))

    def reload_lower(self) -> None:
        """Read the run folder's lower bounds again, if it has any."""
        self._lower: dict[str, Array] = {}
        self.lower_methods: tuple[str, ...] = ()
        path = self.path / LOWER
        if not path.exists():
            return
        methods: dict[str, None] = {}
        place = {int(index): row for row, index in enumerate(self.index)}
        try:
            with open(inside(path), newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != LOWER_COLUMNS:
                    raise ValueError(f"its columns are {reader.fieldnames}")
                for row in reader:
                    norm, index = self._norm(row["norm"]), int(row["index"])
                    if index not in place:
                        raise ValueError(f"the run has no sample {index}")
                    bounds = self._lower.setdefault(norm, np.full(len(place), np.nan))
                    bounds[place[index]] = float(row["lower"])
                    methods[printable(row["method"])] = None
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise BadInput(
                f"cannot read the lower bounds in '{path}': {error}"
            ) from error
        self.lower_methods = tuple(methods)

    def warrant(self, norm: str | Norm, attack: str) -> dict[str, Any]:
        """What an active test said of an attack: `verdict`, `rule` and `epsilon`.

        With the success rates of the attack and of random search, where there was one;
        else the verdict is `NOT_WARRANTED`.
        """
        empty = {
            "verdict": NOT_WARRANTED,
            "rule": "no active test was run on this attack",
            "epsilon": None,
        }
        norm = self._norm(norm)
        self._check_attack(attack, norm)
        found: dict[str, Any] = self._warrants.get(norm, {}).get(attack, empty)
        return found

    @property
    def warrants(self) -> dict[str, dict[str, Any]]:
        """What active tests said, by norm and attack; empty where there were none."""
        return self._warrants

    def reload_warrants(self) -> None:
        """Read the run folder's warrants again, if it has any."""
        path = self.path / WARRANTS
        content = printable(read_json(path).get("norms")) if path.exists() else {}
        check_warrants(content, path)
        self._warrants: dict[str, Any] = content

    def summary(self) -> dict[str, Any]:
        """The contents of summary.json."""
        return {
            "schema": SCHEMA,
            "complete": self.run["status"] == "complete",
            "confidence": CONFIDENCE,
            "samples": len(self.index),
            "clean_accuracy": self.clean_accuracy._asdict(),
            "norms": {norm: self._norm_summary(norm) for norm in self.norms},
        }

    def save(self, path: str | Path) -> Path:
        """Copy the run folder to `path`, which must not exist.

        Raises:
            BadInput: It exists, or cannot be written.
        """
        try:
            return Path(shutil.copytree(self.path, path))
        except OSError as error:
            raise BadInput(f"cannot save the run to '{path}': {error}") from error

    def report(self, path: str | Path | None = None) -> Path:
        """Write report.html, curve.png and curve.svg; returns the page's path.

        Args:
            path: Folder to write to; None: the run folder.
        """
        # By name, since reports are made from results and not the other way round.
        reports = importlib.import_module("robustkit.report")
        return Path(reports.write_report(self, path))

    def _norm_summary(self, norm: str) -> dict[str, Any]:
        curve = self.curve(norm)
        attacked = curve.distance[curve.distance != 0]
        epsilons = self.run["config"]["epsilons"][norm]
        return {
            "robust_accuracy": [
                {"epsilon": e, **curve.robust_accuracy(e)._asdict()} for e in epsilons
            ],
            "distance": {
                "lower_quartile": curve.quantile(0.25),
                "median": curve.quantile(0.5),
                "upper_quartile": curve.quantile(0.75),
            },
            "median_of_attacked": Curve(attacked).quantile(0.5),
            "band": curve.band(),
            "found": int((np.isfinite(curve.distance) & (curve.distance > 0)).sum()),
            "not_found": int(np.isinf(curve.distance).sum()),
            "errors": int(np.isnan(curve.distance).sum()),
            "attacks": {a: self._attack_summary(norm, a) for a in self.attacks(norm)},
            **self._lower_summary(norm),
        }

    def _lower_summary(self, norm: str) -> dict[str, Any]:
        """What lower bounds say; nothing where there are none."""
        curve = self.lower_curve(norm)
        if curve is None:
            return {}
        lower, upper = self.lower(norm), self.distances(norm)
        known = np.isfinite(lower) & np.isfinite(upper)
        gap = np.maximum(upper[known] - lower[known], 0.0)
        return {
            "certified_accuracy": [
                {"epsilon": e, **curve.robust_accuracy(e)._asdict()}
                for e in self.run["config"]["epsilons"][norm]
            ],
            "lower": {
                "methods": list(self.lower_methods),
                "samples": int((~np.isnan(lower)).sum()),
                "median": Curve(np.nan_to_num(lower, posinf=np.inf)).quantile(0.5),
                "median_gap": Curve(gap).quantile(0.5),
            },
        }

    def _attack_summary(self, norm: str, attack: str) -> dict[str, Any]:
        worked = self._rows(attack, norm) & (
            self._table["status"] != "already_misclassified"
        )
        columns = ("forward_passes", "backward_passes", "decision_queries", "seconds")
        return {
            "attacked": int(worked.sum()),
            "found": int(self._table["found"][worked].sum()),
            "errors": int((self._table["status"][worked] == "error").sum()),
            "median": Curve.of_attack(self._table["distance"][worked]).quantile(0.5),
            "queries": [
                {
                    "forward_passes": count,
                    "lower_quartile": curve.quantile(0.25),
                    "median": curve.quantile(0.5),
                    "upper_quartile": curve.quantile(0.75),
                }
                for count, curve in self.queries(attack, norm).items()
            ],
            **{name: float(self._table[name][worked].sum()) for name in columns},
            "warrant": self._warrant_summary(norm, attack),
        }

    def _warrant_summary(self, norm: str, attack: str) -> dict[str, Any]:
        found = self.warrant(norm, attack)
        rates = {name: found.get(name) for name in ("success_rate", "random_rate")}
        named = {name: found.get(name) for name in ("verdict", "rule", "epsilon")}
        return {**named, **rates}

    def _rows(self, attack: str, norm: str) -> Array:
        """Which rows of the table are of an attack, in a norm."""
        self._check_attack(attack, norm)
        table = self._table
        rows: Array = (table["norm"] == norm) & (table["attack"] == attack)
        return rows

    def _check_attack(self, attack: str, norm: str) -> None:
        known = self.attacks(norm)
        if attack not in known:
            raise BadInput(
                f"the run has no attack '{attack}'; {suggestion(attack, known)}"
            )

    def _norm(self, norm: str | Norm | None) -> str:
        if norm is None:
            if len(self.norms) != 1:
                raise BadInput(
                    f"the run has the norms {', '.join(self.norms)}; say which one"
                )
            return str(self.norms[0])
        name = repr(norm) if isinstance(norm, Norm) else norm
        if name not in self.norms:
            raise BadInput(
                f"the run has no norm '{name}'; {suggestion(name, self.norms)}"
            )
        return name


Run: TypeAlias = str | os.PathLike[str] | Results
"""A run folder, or what was read from it."""


def as_results(run: Run) -> Results:
    """What a run found, read where that is yet to be done.

    Raises:
        BadInput: It is no run, or its folder cannot be read.
    """
    return run if isinstance(run, Results) else Results(folder_of(run))


def folder_of(run: Run) -> Path:
    """Where a run is kept, for those who go by nothing but its files.

    Raises:
        BadInput: It is no run.
    """
    if isinstance(run, Results):
        return run.path
    if isinstance(run, str | os.PathLike):
        return Path(run)
    raise BadInput(f"expected a run folder, or the results of a run; got {run!r}")


def as_runs(runs: Run | Sequence[Run]) -> list[Run]:
    """Some runs, or one."""
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        return [runs]
    return list(runs)
