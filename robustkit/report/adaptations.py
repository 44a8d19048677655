"""What answering a run's findings changed, as tables of the report."""

from collections.abc import Mapping
from typing import Any

from robustkit.adaptive.adaptation import ADAPTIVE
from robustkit.errors import BadInput
from robustkit.evaluation.description import printable
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import read_json
from robustkit.report import words

__all__ = ["adaptations"]


def adaptations(results: Results) -> list[dict[str, Any]]:
    """What answering the findings changed, norm by norm, if they were answered.

    Raises:
        BadInput: The file is not what `robustkit eval --adaptive` writes.
    """
    path = results.path / ADAPTIVE
    if not path.exists():
        return []
    content = printable(read_json(path))
    bounds = tuple(results.run["config"]["bounds"])
    try:
        return [
            _table(norm, found, bounds, content)
            for norm, found in content["norms"].items()
        ]
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise BadInput(
            f"'{path}' does not hold what answering the findings changed; remove it, "
            f"or make it anew with `robustkit eval --resume {results.path} --adaptive`"
        ) from error


def _table(
    norm: str,
    found: Mapping[str, Any],
    bounds: tuple[float, float],
    content: Mapping[str, Any],
) -> dict[str, Any]:
    letter, subscript = words.symbol(norm)
    steps, count = found["steps"], int(content["samples"])
    sizes = [float(entry["epsilon"]) for entry in steps[0]["robust_accuracy"]]
    return {
        "letter": letter,
        "subscript": subscript,
        "sizes": [words.epsilon(size, norm, bounds) for size in sizes],
        "steps": [_step(step, count) for step in steps],
        "cost": _cost(found, content.get("total"), count),
        "left_out": [
            (str(one["remedy"]), ", ".join(map(str, one["findings"])))
            for one in found.get("left_out", ())
        ],
        "enough": _enough(found.get("enough")),
        "draws": int(content["draws"]),
    }


def _cost(found: Mapping[str, Any], total: Any, count: int) -> str:
    """What the remedies took and might have; empty for files without."""
    if total is None:
        return ""
    plain, remedies = (
        f"{int(found[name]) / max(count, 1):,.0f}"
        for name in ("plain_passes", "remedy_passes")
    )
    return (
        f"Passes per sample: {plain} of the plain evaluation, {remedies} of all "
        f"remedies, of {int(total):,} at most; those for measuring and confirming are "
        "not counted."
    )


def _enough(passes: Any) -> str:
    return "" if passes is None else f"{int(passes)}"


def _step(step: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {
        "findings": [str(name) for name in step["findings"]],
        "remedy": str(step["remedy"]),
        "details": str(step["details"]),
        "failures": {str(k): str(why) for k, why in step["failures"].items()},
        "nearer": int(step["nearer"]),
        "shares": [
            words.percent(entry["estimate"], count) for entry in step["robust_accuracy"]
        ],
        "passes": f"{step['forward_passes'] / max(count, 1):,.0f}",
    }
