"""The report as one HTML page that needs nothing else."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from robustkit.evaluation.curve import CONFIDENCE
from robustkit.report import words
from robustkit.report.adaptations import adaptations
from robustkit.report.charts import attack_order, joint_confidence
from robustkit.report.content import Content, NormPart, RunPart
from robustkit.report.drawing import draw
from robustkit.report.examples import Example
from robustkit.report.reproduce import bibtex, command, methods, python_call

__all__ = ["render"]


def render(content: Content, *, comparison_only: bool = False) -> str:
    """The page's HTML.

    Args:
        content: What it says.
        comparison_only: Leave out all but the comparison of the runs.
    """
    first = content.runs[0].results.run
    return _template().render(
        title=_title(content),
        content=content,
        comparison_only=comparison_only,
        confidence=words.percent(CONFIDENCE, 1),
        runs=[_run(run) for run in content.runs],
        norms=[_norm(part) for part in content.norms],
        bibtex=bibtex(first["versions"]["robustkit"], first["started"][:4]),
        version=first["versions"]["robustkit"],
    )


@functools.cache
def _template() -> Template:
    """Compiled once, which takes longer than to fill it in."""
    environment = Environment(
        loader=PackageLoader("robustkit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["draw"] = draw
    environment.filters["percent"] = words.percent
    environment.filters["interval"] = words.interval
    return environment.get_template("report.html.jinja")


def _title(content: Content) -> str:
    if len(content.runs) == 1:
        return f"Robustness of {content.runs[0].results.run['model']['name']}"
    return f"Robustness in {len(content.runs)} runs"


def _run(part: RunPart) -> dict[str, Any]:
    run, summary = part.results.run, part.summary
    config = run["config"]
    return {
        "of": part,
        "run": run,
        "config": config,
        "count": summary["samples"],
        "clean": part.results.clean_accuracy,
        "medians": [_median(part, norm) for norm in part.results.norms],
        "attacks": attack_order(part.results),
        "adaptations": adaptations(part.results),
        "settings": _settings(config),
        "named_attacks": [
            (_name(norm), attack, shown)
            for norm in part.results.norms
            for attack, shown in config["attacks"][norm].items()
        ],
        "command": command(run),
        "python_call": python_call(run),
        "methods": methods(run, summary),
    }


def _median(part: RunPart, norm: str) -> dict[str, Any]:
    distance = part.summary["norms"][norm]["distance"]
    low, high = part.results.run["config"]["bounds"]
    return {
        "name": _name(norm),
        "size": words.size(distance["median"]),
        "levels": words.in_255ths(distance["median"], norm, (low, high)),
        "quartiles": [
            words.size(distance[name]) for name in ("lower_quartile", "upper_quartile")
        ],
    }


def _norm(part: NormPart) -> dict[str, Any]:
    galleries = [
        (
            run.name,
            *(
                _gallery(examples, run.results.run, part.norm)
                for examples in (gallery.across, gallery.worst, gallery.of_classes)
            ),
        )
        for run, gallery in zip(part.runs, part.galleries, strict=True)
        if gallery.across
    ]
    curves = [run.results.curve(part.norm) for run in part.runs]
    confidence = joint_confidence(len(curves))
    return {
        "of": part,
        "name": _name(part.norm),
        "explanation": words.explanation(part.norm),
        "band": " and ".join(
            dict.fromkeys(
                words.percent(min(c.band(confidence), 1.0), len(c.distance))
                for c in curves
            )
        ),
        "errors": any(bool(np.isnan(c.distance).any()) for c in curves),
        "galleries": galleries,
    }


def _gallery(
    examples: Sequence[Example], run: dict[str, Any], norm: str
) -> list[dict[str, Any]]:
    low, high = run["config"]["bounds"]
    return [
        {
            "of": example,
            "label": words.class_name(example.label, run["data"]["class_names"]),
            "size": words.size(example.distance),
            "levels": words.in_255ths(example.distance, norm, (low, high)),
            "changes": [
                (place, words.size(old), _signed(new - old))
                for place, old, new in example.changes
            ],
        }
        for example in examples
    ]


def _name(norm: str) -> tuple[str, str]:
    return words.symbol(norm)


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


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else chr(0x2212)}{words.size(abs(value))}"
