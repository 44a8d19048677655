"""What a report says, whoever writes it down: the page, Markdown or LaTeX."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustkit.checks.check import FINDINGS
from robustkit.errors import BadInput
from robustkit.evaluation.archive import inside
from robustkit.evaluation.compare import compare, run_names, same_data
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.envelope import envelope
from robustkit.evaluation.power_law import fit_power_law
from robustkit.evaluation.reading import whole_lines
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import read_json
from robustkit.report import words
from robustkit.report.chart import Chart
from robustkit.report.charts import (
    Named,
    attack_order,
    curve_chart,
    envelope_chart,
    passes_charts,
    power_law_chart,
    spectrum_chart,
)
from robustkit.report.examples import Gallery, choose
from robustkit.report.findings import picture
from robustkit.report.spectrum import spectrum
from robustkit.report.tables import (
    accuracy_table,
    attacks_table,
    classes_table,
    comparison_tables,
    contributions_table,
    laws_table,
    queries_table,
    runs_table,
    samples_table,
)
from robustkit.report.tabular import Tabular

__all__ = ["Content", "NormPart", "RunPart", "gather"]

_REASONS = 5
_REASON_WIDTH = 300
_FINDING = ("id", "severity", "diagnosis", "remedy")


@dataclass(frozen=True)
class RunPart:
    """What is said of one run as a whole.

    Attributes:
        name: Short, and different from those of the other runs.
        results: Of the run.
        summary: As in summary.json.
        warnings: What to know before its numbers are used, a sentence each.
        findings: What the checks found, with the evidence in words.
    """

    name: str
    results: Results
    summary: dict[str, Any]
    warnings: tuple[str, ...]
    findings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class NormPart:
    """What is said of one norm.

    Attributes:
        norm: Its name.
        runs: Those that minimised it.
        says: The median of each run in a sentence.
        warrants: For each run, what active tests say, and whether that is a warrant.
        curve: Robust accuracy against size.
        accuracy: The same at the sizes asked about.
        samples: What became of them.
        attacks: What they found and what it took; None: none ran.
        envelopes: For each run with several attacks.
        contributions: Whose the nearest adversarials are.
        queries: Distances against queries.
        passes: Distances against passes, where gradients were used.
        query_table: The numbers of `queries`.
        power_law: The error an adversary adds.
        laws: The same in numbers.
        spectrum: Of the perturbations.
        classes: By class.
        galleries: For each run.
    """

    norm: str
    runs: tuple[Named, ...]
    says: tuple[str, ...]
    warrants: tuple[tuple[str, bool], ...]
    curve: Chart
    accuracy: Tabular
    samples: Tabular
    attacks: Tabular | None
    envelopes: tuple[Chart, ...]
    contributions: Tabular | None
    queries: Chart | None
    passes: Chart | None
    query_table: Tabular | None
    power_law: Chart | None
    laws: Tabular | None
    spectrum: Chart | None
    classes: Tabular | None
    galleries: tuple[Gallery, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All of them."""
        single = (self.curve, self.queries, self.passes, self.power_law, self.spectrum)
        return (*(c for c in single if c is not None), *self.envelopes)


@dataclass(frozen=True)
class Content:
    """What a report says.

    Attributes:
        runs: Of which it is.
        overview: The runs beside each other; None for one run.
        comparison: Sample by sample, for several runs on the same data, or several
            attacks.
        norms: One part each.
    """

    runs: tuple[RunPart, ...]
    overview: Tabular | None
    comparison: tuple[Tabular, ...]
    norms: tuple[NormPart, ...]

    @property
    def tables(self) -> tuple[Tabular, ...]:
        """Those about the report as a whole."""
        return (*((self.overview,) if self.overview else ()), *self.comparison)


def gather(runs: Sequence[Results], data: DataSet | None = None) -> Content:
    """Everything a report says of runs.

    Args:
        runs: One or more; finished or not.
        data: Where the originals of all of them are; None: in examples.npz.

    Raises:
        BadInput: No run was given; or `data` does not hold the originals of a run.
    """
    if not runs:
        raise BadInput("no run was named; name one or more run folders")
    names = run_names(runs)
    named = [Named(name, run) for name, run in zip(names, runs, strict=True)]
    norms = tuple(dict.fromkeys(norm for run in runs for norm in run.norms))
    return Content(
        runs=tuple(map(_run, named)),
        overview=runs_table(named, norms) if len(runs) > 1 else None,
        comparison=_comparison(runs, norms),
        norms=tuple(
            _norm([run for run in named if norm in run.results.norms], norm, data)
            for norm in norms
        ),
    )


def _comparison(runs: Sequence[Results], norms: Sequence[str]) -> tuple[Tabular, ...]:
    several = len(runs) > 1 or any(len(runs[0].attacks(n)) > 1 for n in runs[0].norms)
    alike = all(same_data(runs[0], run) for run in runs[1:])
    in_all = any(all(norm in run.norms for run in runs) for norm in norms)
    some = all(any(run.finished(norm).any() for norm in run.norms) for run in runs)
    if not (several and alike and in_all and some):
        return ()
    return tuple(comparison_tables(compare(runs)))


def _run(run: Named) -> RunPart:
    summary = run.summary
    return RunPart(
        name=run.name,
        results=run.results,
        summary=summary,
        warnings=tuple(_warnings(run.results, summary)),
        findings=tuple(_findings(run.results)),
    )


def _norm(runs: Sequence[Named], norm: str, data: DataSet | None) -> NormPart:
    envelopes = [envelope(run.results, norm) for run in runs]
    queries, passes = passes_charts(runs, norm)
    laws = [fit_power_law(run.results.distances(norm)) for run in runs]
    galleries = tuple(choose(run.results, norm, data) for run in runs)
    summaries = [run.summary["norms"][norm] for run in runs]
    order = list(dict.fromkeys(a for run in runs for a in attack_order(run.results)))
    drawn = [
        envelope_chart(run, norm, found, order)
        for run, found in zip(runs, envelopes, strict=True)
    ]
    attacks = attacks_table(runs, norm)
    return NormPart(
        norm=norm,
        runs=tuple(runs),
        says=tuple(
            _median_says(found, norm, run.results.run["config"]["bounds"])
            for run, found in zip(runs, summaries, strict=True)
        ),
        warrants=tuple(
            (words.warrants(found["attacks"]), words.warranted(found["attacks"]))
            for found in summaries
        ),
        curve=curve_chart(runs, norm),
        accuracy=accuracy_table(runs, norm),
        samples=samples_table(runs, norm),
        attacks=attacks if attacks.rows else None,
        envelopes=tuple(chart for chart in drawn if chart is not None),
        contributions=contributions_table(runs, norm, envelopes),
        queries=queries,
        passes=passes,
        query_table=queries_table(queries),
        power_law=power_law_chart(runs, norm, laws),
        laws=laws_table(runs, norm, laws),
        spectrum=spectrum_chart(
            runs,
            [spectrum(gallery.changes) for gallery in galleries],
            # Those of the first run are no others' inputs.
            spectrum(galleries[0].originals)
            if all(same_data(runs[0].results, run.results) for run in runs[1:])
            else None,
        ),
        classes=classes_table(runs, norm),
        galleries=galleries,
    )


def _findings(results: Results) -> list[dict[str, Any]]:
    """What the checks found, if they were made."""
    path = results.path / FINDINGS
    if not path.exists():
        return []
    try:
        content = read_json(path)
        return [
            {
                **{name: str(finding[name]) for name in _FINDING},
                "evidence": words.evidence(finding),
                "picture": picture(results, finding, content.get("measured", {})),
            }
            for finding in content["findings"]
        ]
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise BadInput(
            f"'{path}' does not hold what the checks found; remove it, or make it anew "
            f"with `robustkit eval --resume {results.path}`"
        ) from error


def _median_says(found: dict[str, Any], norm: str, bounds: Sequence[float]) -> str:
    median = found["distance"]["median"]
    if math.isnan(median):
        return "No sample was evaluated."
    if math.isinf(median):
        return "No adversarial was found for at least half of the samples."
    if median == 0:
        return (
            "At least half of the samples are adversarial without any change, or "
            "ended in an error."
        )
    levels = words.in_255ths(median, norm, (bounds[0], bounds[1]))
    also = f" ({levels})" if levels else ""
    errors = ", with errors counted among them" if found["errors"] else ""
    return (
        f"For half of the samples{errors}, a change of size {words.size(median)}{also} "
        "or less is enough."
    )


def _warnings(results: Results, summary: dict[str, Any]) -> list[str]:
    run, warnings = results.run, []
    if run["status"] != "complete":
        state = {
            "interrupted": "The run was interrupted",
            "failed": "The run failed",
            "running": "The run has not ended, or was killed",
        }.get(run["status"], f"The run is '{run['status']}'")
        why = f" ({run['failure']})" if "failure" in run else ""
        warnings.append(
            f"{state}{why}. Everything here speaks of the {summary['samples']} samples "
            "reached so far; one that no attack had finished for a norm counts as not "
            "robust in it."
        )
    failed = sum(found["errors"] for found in summary["norms"].values())
    if failed:
        reasons = "; ".join(
            f"{reason} ({times} times)" if times > 1 else reason
            for reason, times in _reasons(results).most_common(_REASONS)
        )
        warnings.append(
            "Samples that ended in an error count as not robust: "
            + ", ".join(
                f"{found['errors']} for {words.norm_name(norm)}"
                for norm, found in summary["norms"].items()
                if found["errors"]
            )
            + f". {reasons}"
        )
    for norm in results.norms:
        if stopped := words.cut_off(int(results.cut_off(norm).sum())):
            warnings.append(f"{words.norm_name(norm)}: {stopped}")
    return warnings + list(run["notes"])


def _reasons(results: Results) -> Counter[str]:
    table = inside(results.path / "samples.csv")
    with open(table, newline="", encoding="utf-8") as file:
        lines = whole_lines(file, results.run["status"] != "running")
        return Counter(
            row["reason"][:_REASON_WIDTH]
            for row in csv.DictReader(lines)
            if row["status"] == "error"
        )
