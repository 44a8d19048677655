"""Runs held against each other, sample by sample."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import bdtr

from robustkit.arguments import as_seed
from robustkit.engine.attack import edge
from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_examples
from robustkit.evaluation.curve import CONFIDENCE, Curve, Interval
from robustkit.evaluation.results import Results, Run, as_results, as_runs
from robustkit.evaluation.store import unfinished
from robustkit.evaluation.tables import QUERIES
from robustkit.numerics.tensors import Array

__all__ = [
    "Comparison",
    "Difference",
    "Optimality",
    "Pair",
    "compare",
    "run_names",
    "same_data",
]

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """How two runs differ at one size.

    Attributes:
        epsilon: In norm units.
        robust_accuracy: Of both runs.
        difference: Of the second less the first, with its paired bootstrap interval.
        only_first: Samples that stand in the first run only.
        only_second: In the second only.
        p_value: McNemar's exact test of those two numbers being alike.
    """

    epsilon: float
    robust_accuracy: tuple[float, float]
    difference: Interval
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Pair:
    """The second of two runs against the first, in one norm.

    Attributes:
        first: Name of the run.
        second: Of the other.
        norm: Whose distances are compared.
        samples: How many are finished in both.
        ratio: Geometric mean of the distances' ratio, second over first, of the samples
            with an adversarial in both that are not adversarial from the start; with
            its paired bootstrap interval.
        nearer: The share of those samples that are nearer in the second run.
        differences: At each epsilon that both runs have.
    """

    first: str
    second: str
    norm: str
    samples: int
    ratio: Interval
    nearer: float
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Optimality:
    """How near one attack comes to the nearest of all.

    Attributes:
        run: Name of the run.
        norm: Whose distances are compared.
        attack: Its name.
        local_optimality: 1 where it is the nearest of all everywhere, 0 where it finds
            nothing; see `compare`.
        passes: Forward and backward passes it took per sample, on average.
        equal_passes: The most of them, of a fixed series, that some sample took in
            every attack on this model; None where the runs did not record so much.
        at_equal_passes: Local optimality by what each attack knew after so many passes,
            against the nearest of all by then.
    """

    run: str
    norm: str
    attack: str
    local_optimality: float
    passes: float
    equal_passes: int | None
    at_equal_passes: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        pairs: Each later run against the first.
        attacks: Every attack of every run against the nearest of all.
        notes: What the reader should know, a sentence each: which runs are unfinished,
            or have other goals.
    """

    pairs: tuple[Pair, ...]
    attacks: tuple[Optimality, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"schema": 1, "confidence": CONFIDENCE, **asdict(self)}


def compare(runs: Run | Sequence[Run], *, seed: int = 0) -> Comparison:
    """Compare runs on the same samples: models, or attacks on one model.

    Intervals are of the paired bootstrap (10,000 resamples of the samples, percentiles)
    and speak of the sampling of the data, not of the strength of the attacks. Only
    samples that all attacks of the norm are done with in both runs are compared; those
    whose distance is unknown then count as not robust.

    The local optimality of an attack is (A - C) / (A - B) with C the area under its
    curve of robust accuracy, B that under the nearest of all attacks of all runs on the
    same model with the same goal, both up to the largest distance in the latter, and A
    the area if nothing were found there. It is stated for the distances in the end, and
    for those known after equally many passes, forward and backward ones together, which
    is the fair comparison of attacks. An adversarial counts from the forward pass that
    showed it. An attack is credited with nothing where its distance is unknown.

    Args:
        runs: Run folders or results: two or more, the first of which is the base; or
            one, whose attacks are compared.
        seed: Of the bootstrap.

    Source:
        Local optimality: Cina, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed,
        Roli: AttackBench, AAAI 2025; by steps, not trapezoids, as curves are steps.

    Raises:
        BadInput: Runs are of other data, have no norm in common, or no sample that is
            finished in both.

    >>> import robustkit as rk
    >>> one = rk.evaluate("digits", "digits", samples=20, attacks=["fmn"])
    >>> two = rk.evaluate("digits-robust", "digits", samples=20, attacks=["fmn"])
    >>> rk.compare([one, two]).pairs[0].ratio.estimate > 1
    True
    """
    opened = [as_results(run) for run in as_runs(runs)]
    if not opened:
        raise BadInput("no run was named; name one or more")
    base = opened[0]
    for run in opened:
        if not any(run.finished(norm).any() for norm in run.norms):
            way = "leave it out"
            if unfinished(run.path):
                way = f"go on with `robustkit eval --resume {run.path}`"
            raise BadInput(
                f"the run in '{run.path}' has no finished sample (its status is "
                f"'{run.run['status']}'), so there is nothing to compare; {way}"
            )
    for other in opened[1:]:
        _check_same_data(base, other)
    norms = [n for n in base.norms if all(n in run.norms for run in opened)]
    if not norms:
        said = "; ".join(", ".join(run.norms) for run in opened)
        raise BadInput(f"the runs have no norm in common: {said}")
    names = run_names(opened)
    rng = np.random.default_rng(as_seed(seed))
    pairs = [
        _pair(norm, (names[0], base), (name, run), rng)
        for norm in norms
        for name, run in zip(names[1:], opened[1:], strict=True)
        if len(_common(norm, [base, run]))
    ]
    if len(opened) > 1 and not pairs:
        raise BadInput("no sample is finished in two of the runs; go on with them")
    goals = {name: _goal(run) for name, run in zip(names, opened, strict=True)}
    models: dict[tuple[str, str], list[tuple[str, Results]]] = {}
    for name, run in zip(names, opened, strict=True):
        model = run.run["model"]
        key = model["fingerprint"] or f"{model['adapter']} {model['name']}"
        models.setdefault((key, goals[name]), []).append((name, run))
    attacks = [
        a for norm in norms for some in models.values() for a in _optimality(norm, some)
    ]
    notes = _other_goals(goals)
    notes += [
        f"The run '{name}' is not finished ({run.run['status']}): in {norm} "
        f"{run.finished(norm).sum()} of {len(run.index)} samples are, and only those "
        "that the others have finished too are compared."
        for name, run in zip(names, opened, strict=True)
        for norm in norms
        if run.run["status"] != "complete"
    ]
    return Comparison(tuple(pairs), tuple(attacks), tuple(notes))


def _goal(run: Results) -> str:
    """What an adversarial of a run is, so that the same words are the same goal."""
    config = run.run["config"]
    if config["criterion"]:
        return f"the criterion {config['criterion']}"
    if config["target"] is None:
        return "any wrong class"
    # The seed draws random ones.
    drawn = f" of seed {config['seed']}" if config["target"] == "random" else ""
    return f"the target {config['target']}{drawn}"


def _other_goals(goals: Mapping[str, str]) -> list[str]:
    """That runs have different goals, where they do; by the name of each."""
    of_goal: dict[str, list[str]] = {}
    for name, goal in goals.items():
        of_goal.setdefault(goal, []).append(f"'{name}'")
    if len(of_goal) < 2:
        return []
    said = [f"{' and '.join(names)} {goal}" for goal, names in of_goal.items()]
    return [
        "The runs have other goals, so their numbers are of different questions: "
        f"{', '.join(said)}."
    ]


def same_data(one: Results, other: Results) -> bool:
    """Whether two runs are of the same samples, as far as run folders tell."""
    common = np.intersect1d(one.index, other.index)
    places = [np.searchsorted(run.index, common) for run in (one, other)]
    same = len(common) > 0 and np.array_equal(
        one.label[places[0]], other.label[places[1]]
    )
    first, second = (run.run["data"].get("fingerprint") for run in (one, other))
    if np.array_equal(one.index, other.index) and first and second:
        same = same and first == second
    return same and _same_examples(one.path, other.path)


def _check_same_data(one: Results, other: Results) -> None:
    if not same_data(one, other):
        raise BadInput(
            f"the runs in '{one.path}' and '{other.path}' are of other data "
            f"('{one.run['data']['name']}', '{other.run['data']['name']}'), so they "
            "cannot be compared sample by sample"
        )


def _same_examples(*paths: Path) -> bool:
    """Whether the originals that both runs kept are the same."""
    one, other = (read_examples(path / "examples.npz") for path in paths)
    return all(np.array_equal(one[i], other[i]) for i in one.keys() & other.keys())


def run_names(runs: Sequence[Results]) -> list[str]:
    """Short names of the runs, with a number where they would be alike."""
    names = [run.path.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({place + 1})"
        for place, name in enumerate(names)
    ]


def _pair(
    norm: str,
    first: tuple[str, Results],
    second: tuple[str, Results],
    rng: np.random.Generator,
) -> Pair:
    common = _common(norm, [first[1], second[1]])
    one, two = (_settled(run, norm, common) for _, run in (first, second))
    both = np.isfinite(one) & np.isfinite(two) & (one > 0) & (two > 0)
    logs = np.zeros(len(common))
    logs[both] = np.log(two[both] / one[both])
    shared = [
        e
        for e in first[1].run["config"]["epsilons"][norm]
        if e in second[1].run["config"]["epsilons"][norm]
    ]
    stands = [(one > far, two > far) for far in map(edge, shared)]
    changes = [later.astype(float) - earlier for earlier, later in stands]
    sums = _resampled(np.stack([logs, both, *changes], axis=1), rng)
    return Pair(
        first=first[0],
        second=second[0],
        norm=norm,
        samples=len(common),
        ratio=_mean_ratio(logs, both, sums[:, 0], sums[:, 1]),
        nearer=float((logs[both] < 0).mean()) if both.any() else np.nan,
        differences=tuple(
            _difference(epsilon, earlier, later, sums[:, 2 + place] / len(common))
            for place, (epsilon, (earlier, later)) in enumerate(
                zip(shared, stands, strict=True)
            )
        ),
    )


def _resampled(columns: Array, rng: np.random.Generator) -> Array:
    """(resamples, k) sums of the columns (n, k) over as many rows drawn at random."""
    count = len(columns)
    sums = np.empty((_RESAMPLES, columns.shape[1]))
    for place in range(_RESAMPLES):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        sums[place] = drawn @ columns
    return sums


def _mean_ratio(logs: Array, both: Array, sums: Array, counts: Array) -> Interval:
    if not both.any():
        return Interval(np.nan, 0.0, np.inf)
    means = sums[counts > 0] / counts[counts > 0]
    low, high = np.exp(np.quantile(means, _tails()))
    return Interval(float(np.exp(logs[both].mean())), float(low), float(high))


def _difference(
    epsilon: float, earlier: Array, later: Array, means: Array
) -> Difference:
    low, high = np.quantile(means, _tails())
    only_first = int((earlier & ~later).sum())
    only_second = int((later & ~earlier).sum())
    discordant = only_first + only_second
    p_value = 1.0
    if discordant:
        fewer = min(only_first, only_second)
        p_value = min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))
    change = float(later.mean() - earlier.mean())
    return Difference(
        epsilon=epsilon,
        robust_accuracy=(float(earlier.mean()), float(later.mean())),
        difference=Interval(change, float(low), float(high)),
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
    )


def _tails() -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    return tail, 1 - tail


def _optimality(norm: str, runs: Sequence[tuple[str, Results]]) -> list[Optimality]:
    common = _common(norm, [run for _, run in runs])
    named = [(name, run, a) for name, run in runs for a in run.attacks(norm)]
    late = [_credited(run, run.distances(norm, a), common) for _, run, a in named]
    nearest = np.min(late, axis=0, initial=np.inf)
    if not (np.isfinite(nearest) & (nearest > 0)).any():
        return []
    count = _equal_passes(norm, named)
    early: list[Array] = []
    if count is not None:
        place = QUERIES.index(count)
        early = [
            _credited(
                run, run.distances_after(a, norm, backward=True)[:, place], common
            )
            for _, run, a in named
        ]
    found = []
    for place, (name, run, attack) in enumerate(named):
        done = run.finished(norm, attack)
        attacked = int((run.distances(norm, attack)[done] != 0).sum())
        found.append(
            Optimality(
                run=name,
                norm=norm,
                attack=attack,
                local_optimality=_reached(late[place], nearest),
                passes=float(run.passes(attack, norm).sum()) / max(attacked, 1),
                equal_passes=count,
                at_equal_passes=(
                    _reached(early[place], np.min(early, axis=0)) if early else None
                ),
            )
        )
    return found


def _equal_passes(norm: str, named: Sequence[tuple[str, Results, str]]) -> int | None:
    """The largest number in `QUERIES` that every attack came to."""
    if not all(
        (run.path / "queries.csv").exists() and run.run["status"] != "running"
        for _, run, _ in named
    ):
        return None
    most = min(int(run.passes(a, norm).max(initial=0)) for _, run, a in named)
    return max((count for count in QUERIES if count <= most), default=None)


def _reached(distance: Array, nearest: Array) -> float:
    """Local optimality; 1 where no attack at all found anything."""
    largest = float(nearest[np.isfinite(nearest)].max(initial=0.0))
    nothing = float((nearest > 0).mean()) * largest
    area, best = _area(distance, largest), _area(nearest, largest)
    if best < nothing:
        return (nothing - area) / (nothing - best)
    return float(area <= best)


def _area(distance: Array, largest: float) -> float:
    """Under the curve of robust accuracy, from 0 to `largest`."""
    sizes, accuracy = Curve(np.minimum(distance, largest)).steps()
    widths = np.diff(np.append(sizes, largest))
    return float((widths * accuracy).sum())


def _common(norm: str, runs: Sequence[Results]) -> Array:
    """(n,) positions of the samples that are finished in all of the runs."""
    finished = [run.index[run.finished(norm)] for run in runs]
    return functools.reduce(np.intersect1d, finished)


def _settled(run: Results, norm: str, index: Array) -> Array:
    """(n,) distances at those samples; 0 where unknown."""
    places = np.searchsorted(run.index, index)
    return np.nan_to_num(run.distances(norm)[places], nan=0.0, posinf=np.inf)


def _credited(run: Results, distance: Array, index: Array) -> Array:
    """(n,) those distances of an attack at those samples; infinite where unknown."""
    places = np.searchsorted(run.index, index)
    return np.nan_to_num(distance[places], nan=np.inf, posinf=np.inf)
