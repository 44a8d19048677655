"""Which tables a report has, and what is in them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustkit.evaluation.compare import Comparison
from robustkit.evaluation.curve import CONFIDENCE, Curve, Interval, proportion
from robustkit.evaluation.envelope import Envelope
from robustkit.evaluation.power_law import PowerLaw
from robustkit.evaluation.results import Results
from robustkit.report import words
from robustkit.report.chart import Chart
from robustkit.report.charts import Named
from robustkit.report.tabular import Cell, Tabular

__all__ = [
    "accuracy_table",
    "attacks_table",
    "classes_table",
    "comparison_tables",
    "contributions_table",
    "laws_table",
    "queries_table",
    "runs_table",
    "samples_table",
]

_COUNTS = 6
_MOST_CLASSES = 20
_PERCENT = words.percent(CONFIDENCE, 1)


def runs_table(runs: Sequence[Named], norms: Sequence[str]) -> Tabular:
    """What the runs are, a row each."""
    rows = []
    for run in runs:
        results, summary = run.results, run.summary
        count = summary["samples"]
        medians = [
            _sized(summary["norms"][norm]["distance"]["median"], norm, results)
            if norm in results.norms
            else Cell(words.DASH)
            for norm in norms
        ]
        rows.append(
            (
                Cell(run.name),
                Cell(results.run["model"]["name"]),
                Cell(results.run["data"]["name"]),
                Cell(f"{count:,}"),
                _share(results.clean_accuracy, count),
                *medians,
            )
        )
    heads = tuple(f"Median {words.norm_name(norm)}" for norm in norms)
    boxes = [tuple(run.results.run["config"]["bounds"]) for run in runs]
    units = (
        " Valid inputs differ, so sizes do not compare: "
        + "; ".join(
            f"{run.name} from {low:g} to {high:g}"
            for run, (low, high) in zip(runs, boxes, strict=True)
        )
        + "."
        if len(set(boxes)) > 1
        else ""
    )
    return Tabular(
        title="Runs",
        columns=("Run", "Model", "Data", "Samples", "Clean accuracy", *heads),
        rows=tuple(rows),
        note=f"Intervals hold with {_PERCENT} confidence, each for itself "
        f"(Clopper{words.DASH}Pearson). Medians are of the smallest perturbations "
        "found over all samples, those that are adversarial from the start as 0."
        + units,
        key="runs",
        names=3,
        shown=False,
    )


def accuracy_table(runs: Sequence[Named], norm: str) -> Tabular:
    """Robust accuracy at the sizes asked about, with exact intervals."""
    title = "Robust accuracy"
    note = f"Each interval is exact for its own size (Clopper{words.DASH}Pearson)."
    epsilons = sorted(
        {e for run in runs for e in run.results.run["config"]["epsilons"][norm]}
    )
    # Each curve is made once, not once for each size.
    curves = [run.results.curve(norm) for run in runs]
    certified = [
        (run.name, curve)
        for run in runs
        if (curve := run.results.lower_curve(norm)) is not None
    ]
    if certified:
        note += " Certified: proven to have no adversarial of that size."
    bounds = tuple(runs[0].results.run["config"]["bounds"])
    rows = []
    for epsilon in epsilons:
        size, also = words.epsilon(epsilon, norm, bounds)
        shares = [
            _share(curve.robust_accuracy(epsilon), len(curve.distance))
            for curve in curves
        ]
        if len(runs) == 1:
            shares = [Cell(shares[0].text), Cell(shares[0].also)]
        proven = [
            _share(curve.robust_accuracy(epsilon), len(curve.distance))
            for _, curve in certified
        ]
        rows.append((Cell(size, also), *shares, *proven))
    columns = (
        ("Robust accuracy", f"{_PERCENT} interval")
        if len(runs) == 1
        else tuple(run.name for run in runs)
    )
    heads = tuple(
        "Certified" if len(runs) == 1 else f"{name}, certified" for name, _ in certified
    )
    return Tabular(
        title,
        ("Size at most", *columns, *heads),
        tuple(rows),
        note,
        "accuracy",
        shown=False,
    )


def samples_table(runs: Sequence[Named], norm: str) -> Tabular:
    """What became of the samples."""
    summaries = [run.summary for run in runs]
    config = runs[0].results.run["config"]
    start = "Misclassified"
    if config["target"] is not None or config["criterion"]:
        start = "Adversarial"
    elif any(run.results.run["model"].get("abstains") for run in runs):
        start = "Misclassified or refused"
    counts = []
    for summary in summaries:
        found = summary["norms"][norm]
        known = (found["found"], found["not_found"], found["errors"])
        counts.append((*known[:2], summary["samples"] - sum(known), known[2]))
    names = (
        "Adversarial found",
        "None found",
        f"{start} without any change",
        "Error, counted as not robust",
    )
    rows = [
        (Cell(name), *(Cell(f"{count[place]:,}") for count in counts))
        for place, name in enumerate(names)
        if place < 3 or any(count[place] for count in counts)
    ]
    heads = tuple(run.name for run in runs) if len(runs) > 1 else ("Samples",)
    return Tabular("Samples", ("", *heads), tuple(rows), key="samples")


def attacks_table(runs: Sequence[Named], norm: str) -> Tabular:
    """What each attack found, what it cost, and what its active test says."""
    rows = []
    for run in runs:
        attacks = run.summary["norms"][norm]["attacks"]
        for name, summary in attacks.items():
            cells = _attack(run.results, norm, name, summary)
            rows.append((*_run_cell(run, runs), *cells))
    return Tabular(
        title="Attacks",
        columns=(
            *_run_head(runs),
            "Attack",
            "Found",
            "Median size",
            "Forward passes",
            "Backward passes",
            "Decision queries",
            "Seconds",
            "Warrant",
        ),
        rows=tuple(rows),
        note="Of the samples that had to be attacked; passes, queries and seconds are "
        "means per sample, and the median counts samples without an adversarial as "
        "infinitely far.",
        key="attacks",
        names=1 + len(_run_head(runs)),
    )


def contributions_table(
    runs: Sequence[Named], norm: str, envelopes: Sequence[Envelope]
) -> Tabular | None:
    """Whose the nearest adversarials are; None where no run has several attacks."""
    rows = []
    for run, found in zip(runs, envelopes, strict=True):
        if len(found.contributions) < 2:
            continue
        count = len(found.nearest)
        for share in found.contributions:
            rows.append(
                (
                    *_run_cell(run, runs),
                    Cell(share.attack),
                    _of(share.nearest, count),
                    _of(share.alone, count),
                    _sized(share.without, norm, run.results),
                )
            )
    if not rows:
        return None
    return Tabular(
        title="Which attack contributed",
        columns=(*_run_head(runs), "Attack", "Nearest", "Alone", "Median without it"),
        rows=tuple(rows),
        note="Nearest: no other attack found a nearer adversarial; alone: all others "
        "are farther. The last column is the median over the samples attacked, had "
        "this attack not been run.",
        key="contributions",
        names=1 + len(_run_head(runs)),
    )


def queries_table(chart: Chart | None) -> Tabular | None:
    """The numbers of a chart of distances against queries."""
    if chart is None:
        return None
    # Where a line ends, others may have no number of their own; not so at the last end.
    early = {int(count) for line in chart.series for count in line.x[:-1]}
    counts = sorted(early | {max(int(line.x[-1]) for line in chart.series)})
    # As many as fit beside each other, the last one among them.
    counts = counts[:: -max(math.ceil(len(counts) / _COUNTS), 1)][::-1]
    rows = []
    for line in chart.series:
        assert line.lower is not None
        assert line.upper is not None
        known = {
            int(count): Cell(words.size(middle), f"{words.size(low)} to {_upper(high)}")
            for count, low, middle, high in zip(
                line.x, line.lower, line.y, line.upper, strict=True
            )
        }
        last = known[int(line.x[-1])]
        cells = [
            Cell(words.DASH) if count < line.x[0] else known.get(count, last)
            for count in counts
        ]
        rows.append((Cell(line.name), *cells))
    return Tabular(
        title="Size against queries",
        columns=("Attack", *(f"{count:,}" for count in counts)),
        rows=tuple(rows),
        note="Median size known after so many forward passes per sample, and the "
        "quartiles, over the samples that had to be attacked; for attacks that take no "
        "backward passes. A dash: not yet an adversarial for half of them.",
        key="queries",
    )


def classes_table(runs: Sequence[Named], norm: str) -> Tabular | None:
    """Robust accuracy and median by class, the least robust first.

    At the size asked about at which the first run's robust accuracy is nearest to half
    of its clean accuracy. None where there is one class only.
    """
    first = runs[0].results
    labels = np.unique(np.concatenate([run.results.label for run in runs]))
    epsilons = first.run["config"]["epsilons"][norm]
    if len(labels) < 2 or not epsilons:
        return None
    half = first.clean_accuracy.estimate / 2
    curve = first.curve(norm)
    epsilon = min(epsilons, key=lambda e: abs(curve.robust_accuracy(e).estimate - half))
    by_class = {int(label): _by_class(runs, norm, label, epsilon) for label in labels}
    order = sorted(by_class, key=lambda label: (by_class[label][0], label))
    names = first.run["data"]["class_names"]
    rows = [
        (Cell(words.class_name(label, names)), *by_class[label][1])
        for label in order[:_MOST_CLASSES]
    ]
    size = words.epsilon(epsilon, norm, tuple(first.run["config"]["bounds"]))[0]
    heads = (
        ("Samples", "Clean accuracy", f"Robust at {size}", "Median size")
        if len(runs) == 1
        else tuple(f"{run.name}, robust at {size}" for run in runs)
    )
    left = len(order) - len(rows)
    return Tabular(
        title="By class",
        columns=("Class", *heads),
        rows=tuple(rows),
        note="The least robust first"
        + (f"; {left} more classes are left out" if left else "")
        + f". Intervals hold with {_PERCENT} confidence, each for itself; among many "
        "classes some are off by chance.",
        key="classes",
    )


def laws_table(
    runs: Sequence[Named], norm: str, laws: Sequence[PowerLaw | None]
) -> Tabular | None:
    """The power laws of the error; None where there is none."""
    rows = [
        (
            *_run_cell(run, runs),
            Cell(
                f"{law.exponent.estimate:.2f}",
                f"{law.exponent.lower:.2f} to {law.exponent.upper:.2f}",
            ),
            _sized(law.limit, norm, run.results),
            Cell(words.percent(law.share, len(run.results.index))),
            Cell(f"{law.samples:,}"),
            Cell(
                f"{law.p_value:.2g}",
                "no such law" if law.p_value < 1 - CONFIDENCE else "",
                warn=law.p_value < 1 - CONFIDENCE,
            ),
        )
        for run, law in zip(runs, laws, strict=True)
        if law is not None
    ]
    if not rows:
        return None
    return Tabular(
        title="Power law of the error",
        columns=(
            *_run_head(runs),
            "Exponent",
            "Up to size",
            "Error there",
            "Samples",
            "p",
        ),
        rows=tuple(rows),
        note="The share of samples that are adversarial within a size but not from the "
        "start, fitted as a power of the size to the nearest quarter of the "
        f"adversarials, with the exact {_PERCENT} interval of the exponent; p is of "
        "the hypothesis that it is a power law.",
        key="power-law",
    )


def comparison_tables(found: Comparison) -> list[Tabular]:
    """Each later run against the first, and every attack against the nearest."""
    tables = [
        Tabular(
            title=f"{words.norm_name(pair.norm)}: {pair.second} against {pair.first}",
            columns=(
                "Size at most",
                pair.first,
                pair.second,
                "Difference",
                "Robust in one only",
                "p",
            ),
            rows=tuple(
                (
                    Cell(words.size(at.epsilon)),
                    *(Cell(words.percent(a, pair.samples)) for a in at.robust_accuracy),
                    Cell(*words.points(at.difference)),
                    Cell(f"{at.only_first} / {at.only_second}"),
                    Cell(f"{at.p_value:.2g}"),
                )
                for at in pair.differences
            ),
            note=f"On the {pair.samples:,} samples of both. Differences are in points, "
            f"with the {_PERCENT} interval of the paired bootstrap; p is of McNemar's "
            f"exact test. Distances are {words.factor(pair.ratio)} times as large in "
            "the geometric mean"
            + (
                f", and nearer at {100 * pair.nearer:.0f}{words.SPACE}% of the samples "
                "with both."
                if not math.isnan(pair.nearer)
                else "."
            ),
            key=f"pair-{pair.norm}",
        )
        for pair in found.pairs
    ]
    if found.attacks:
        tables.append(_optimality(found))
    return [replace(t, note=" ".join((*found.notes, t.note))) for t in tables]


def _optimality(found: Comparison) -> Tabular:
    return Tabular(
        title="Attacks against the nearest of all",
        columns=(
            "Attack",
            "Run",
            "Norm",
            "Local optimality",
            "Passes, forward and backward",
            "At equal passes",
        ),
        rows=tuple(
            (
                Cell(a.attack),
                Cell(a.run),
                Cell(words.norm_name(a.norm)),
                Cell(_percent(a.local_optimality)),
                Cell(f"{a.passes:,.0f}"),
                Cell(_percent(a.at_equal_passes), f"after {a.equal_passes:,}")
                if a.equal_passes is not None
                else Cell(words.DASH),
            )
            for a in found.attacks
        ),
        note=f"Local optimality as AttackBench defines it: 100{words.SPACE}% where the "
        "attack is the nearest of all attacks on that model everywhere, 0 where it "
        "finds nothing. At equal passes: by what every attack knew after as many "
        "forward and backward passes together, against the nearest of all by then.",
        key="optimality",
        names=3,
    )


def _by_class(
    runs: Sequence[Named], norm: str, label: int, epsilon: float
) -> tuple[tuple[float, float], list[Cell]]:
    """The first run's robust accuracy and median in a class, and its row's cells."""
    cells, first = [], (2.0, 0.0)
    for place, run in enumerate(runs):
        results = run.results
        rows = results.label == label
        count = int(rows.sum())
        distance = results.distances(norm)[rows]
        curve = Curve(distance)
        robust = curve.robust_accuracy(epsilon)
        if place == 0 and count:
            first = robust.estimate, curve.quantile(0.5)
        if len(runs) > 1:
            cells.append(_share(robust, count) if count else Cell(words.DASH))
            continue
        right = int((results.prediction[rows] == label).sum())
        cells = [
            Cell(f"{count:,}"),
            _share(proportion(right, count), count),
            _share(robust, count),
            _sized(curve.quantile(0.5), norm, results),
        ]
    return first, cells


def _attack(
    results: Results, norm: str, name: str, summary: dict[str, Any]
) -> tuple[Cell, ...]:
    attacked, warrant = summary["attacked"], summary["warrant"]

    def each(what: str, digits: int = 0) -> Cell:
        if attacked == 0:
            return Cell(words.DASH)
        mean = summary[what] / attacked
        return Cell(f"{mean:,.{digits}f}" if digits == 0 else words.size(mean))

    errors = summary["errors"]
    return (
        Cell(name, under=results.run["sources"].get(name, "")),
        Cell(
            f"{summary['found']:,} of {attacked:,}",
            f"{errors} error{'s' if errors > 1 else ''}" if errors else "",
        ),
        _sized(summary["median"], norm, results) if attacked else Cell(words.DASH),
        each("forward_passes"),
        each("backward_passes"),
        each("decision_queries"),
        each("seconds", 2),
        Cell(
            warrant["verdict"],
            tip=str(warrant["rule"]),
            warn=warrant["verdict"] != "PASS",
        ),
    )


def _run_head(runs: Sequence[Named]) -> tuple[str, ...]:
    return ("Run",) if len(runs) > 1 else ()


def _run_cell(run: Named, runs: Sequence[Named]) -> tuple[Cell, ...]:
    return (Cell(run.name),) if len(runs) > 1 else ()


def _share(value: Interval, count: int) -> Cell:
    return Cell(words.percent(value.estimate, count), words.interval(value, count))


def _sized(value: float, norm: str, results: Results) -> Cell:
    low, high = results.run["config"]["bounds"]
    return Cell(words.size(value), words.in_255ths(value, norm, (low, high)))


def _of(part: int, whole: int) -> Cell:
    share = words.percent(part / whole, whole) if whole else ""
    return Cell(f"{part:,} of {whole:,}", share)


def _upper(value: float) -> str:
    return "\N{INFINITY}" if math.isnan(value) else words.size(value)


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return words.DASH
    return f"{100 * value:.1f}{words.SPACE}%"
