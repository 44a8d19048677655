"""The report as one HTML page that needs nothing else."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from robustkit.checks.check import FINDINGS
from robustkit.evaluation.curve import CONFIDENCE, Interval
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import read_json
from robustkit.report import words
from robustkit.report.drawing import draw
from robustkit.report.examples import choose
from robustkit.report.findings import picture
from robustkit.report.panel import QueryLine, attack_order, look_at, query_lines
from robustkit.report.reproduce import bibtex, command, python_call

__all__ = ["render"]

_REASONS = 5
_COUNTS = 6
_REASON_WIDTH = 300


def render(results: Results, data: DataSet | None) -> str:
    """The page's HTML.

    Args:
        results: Of a run, finished or not.
        data: Where the originals of the pictures are; None: in examples.npz.
    """
    environment = Environment(
        loader=PackageLoader("robustkit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    run, summary = results.run, results.summary()
    count = summary["samples"]
    return environment.get_template("report.html.jinja").render(
        run=run,
        config=run["config"],
        count=count,
        confidence=words.percent(CONFIDENCE, 1),
        clean=_share(Interval(**summary["clean_accuracy"]), count),
        warnings=_warnings(results, summary),
        findings=_findings(results),
        norms=[_norm(results, data, norm, summary) for norm in results.norms],
        attacks=attack_order(results),
        goal=run["config"]["target"] is not None or run["config"]["criterion"],
        settings=_settings(run["config"]),
        command=command(run),
        python_call=python_call(run),
        bibtex=bibtex(run["versions"]["robustkit"], run["started"][:4]),
    )


def _findings(results: Results) -> list[dict[str, Any]]:
    """What the checks found, if they were made."""
    if not (results.path / FINDINGS).exists():
        return []
    content = read_json(results.path / FINDINGS)
    return [
        {
            **finding,
            "evidence": words.evidence(finding),
            "picture": picture(results, finding, content.get("measured", {})),
        }
        for finding in content["findings"]
    ]


def _norm(
    results: Results, data: DataSet | None, norm: str, summary: dict[str, Any]
) -> dict[str, Any]:
    bounds = tuple(results.run["config"]["bounds"])
    found, count = summary["norms"][norm], summary["samples"]
    letter, subscript = words.symbol(norm)
    names = results.run["data"]["class_names"]

    def sized(value: float) -> tuple[str, str]:
        return words.size(value), words.in_255ths(value, norm, bounds)

    return {
        "letter": letter,
        "subscript": subscript,
        "explanation": words.explanation(norm),
        "median": sized(found["distance"]["median"]),
        "median_says": _median_says(found, norm, bounds),
        "quartiles": [
            sized(found["distance"][name])[0]
            for name in ("lower_quartile", "upper_quartile")
        ],
        "band": words.percent(min(found["band"], 1.0), count),
        "found": found,
        "wrong": count - found["found"] - found["not_found"] - found["errors"],
        "accuracies": [
            {
                "epsilon": words.epsilon(entry["epsilon"], norm, bounds),
                **_share(
                    Interval(entry["estimate"], entry["lower"], entry["upper"]), count
                ),
            }
            for entry in found["robust_accuracy"]
        ],
        "warrants": words.warrants(found["attacks"]),
        "warranted": words.warranted(found["attacks"]),
        "drawing": draw(look_at(results, norm), bounds),
        "attacks": [
            _attack(results, norm, name, attack, bounds)
            for name, attack in found["attacks"].items()
        ],
        "queries": _queries(results, norm),
        "examples": [
            {
                "of": example,
                "label": _class(example.label, names),
                "distance": sized(example.distance),
                "changes": [
                    (place, words.size(old), words.size(new), _signed(new - old))
                    for place, old, new in example.changes
                ],
            }
            for example in choose(results, norm, data)
        ],
        "settings": results.run["config"]["attacks"][norm],
    }


def _attack(
    results: Results,
    norm: str,
    name: str,
    summary: dict[str, Any],
    bounds: tuple[float, ...],
) -> dict[str, Any]:
    attacked = summary["attacked"]

    def each(what: str, digits: int = 0) -> str:
        if attacked == 0:
            return "\N{EN DASH}"
        mean = summary[what] / attacked
        return f"{mean:,.{digits}f}" if digits == 0 else words.size(mean)

    return {
        "name": name,
        "source": results.run["sources"].get(name, ""),
        "attacked": attacked,
        "found": summary["found"],
        "errors": summary["errors"],
        "median": (
            words.size(summary["median"]) if attacked else "\N{EN DASH}",
            words.in_255ths(summary["median"], norm, (bounds[0], bounds[1])),
        ),
        "forward": each("forward_passes"),
        "backward": each("backward_passes"),
        "decisions": each("decision_queries"),
        "seconds": each("seconds", 2),
        "warrant": summary["warrant"],
    }


def _queries(results: Results, norm: str) -> dict[str, Any] | None:
    """Median sizes against forward passes, of attacks without backward passes."""
    lines = query_lines(results, norm)
    if not lines:
        return None
    counts = sorted({int(count) for line in lines for count in line.counts})
    # As many as fit beside each other, the last one among them.
    counts = counts[:: -max(math.ceil(len(counts) / _COUNTS), 1)][::-1]
    rows = []
    for line in lines:
        known = dict(zip(line.counts.tolist(), _quartiles(line), strict=True))
        before = [count for count in counts if count < line.counts[0]]
        last = known[int(line.counts[-1])]
        rows.append(
            {
                "name": line.name,
                "sizes": [
                    ("\N{EN DASH}", "") if count in before else known.get(count, last)
                    for count in counts
                ],
            }
        )
    return {"counts": [f"{count:,}" for count in counts], "rows": rows}


def _quartiles(line: QueryLine) -> list[tuple[str, str]]:
    return [
        (
            words.size(middle),
            f"{words.size(low)} to "
            + ("\N{INFINITY}" if math.isnan(high) else words.size(high)),
        )
        for low, middle, high in zip(
            line.lower.tolist(), line.median.tolist(), line.upper.tolist(), strict=True
        )
    ]


def _share(value: Interval, count: int) -> dict[str, Any]:
    return {
        "percent": words.percent(value.estimate, count),
        "interval": words.interval(value, count),
        "estimate": 0.0 if math.isnan(value.estimate) else value.estimate,
        "lower": value.lower,
        "upper": value.upper,
    }


def _median_says(found: dict[str, Any], norm: str, bounds: tuple[float, ...]) -> str:
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
            for reason, times in _reasons(results.path).most_common(_REASONS)
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
    return warnings + list(run["notes"])


def _reasons(folder: Path) -> Counter[str]:
    with open(folder / "samples.csv", newline="", encoding="utf-8") as file:
        return Counter(
            row["reason"][:_REASON_WIDTH]
            for row in csv.DictReader(file)
            if row["status"] == "error"
        )


def _settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """All but what has a place of its own on the page."""
    own = ("model", "data", "norms", "attacks", "epsilons")
    return [
        (name.replace("_", " "), _plain(value))
        for name, value in config.items()
        if name not in own
    ]


def _plain(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _class(label: int, names: list[str] | None) -> str:
    return names[label] if names and label < len(names) else str(label)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else chr(0x2212)}{words.size(abs(value))}"
