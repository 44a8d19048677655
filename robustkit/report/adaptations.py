"""What answering a run's findings changed, as tables of the report."""

from typing import Any

from robustkit.adaptive.adapt import ADAPTIVE
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import read_json
from robustkit.report import words

__all__ = ["adaptations"]


def adaptations(results: Results) -> list[dict[str, Any]]:
    """What answering the findings changed, norm by norm, if they were answered."""
    if not (results.path / ADAPTIVE).exists():
        return []
    content = read_json(results.path / ADAPTIVE)
    bounds, count = tuple(results.run["config"]["bounds"]), content["samples"]
    tables = []
    for norm, found in content["norms"].items():
        sizes = [entry["epsilon"] for entry in found["steps"][0]["robust_accuracy"]]
        letter, subscript = words.symbol(norm)
        steps = [
            {
                **step,
                "shares": [
                    words.percent(entry["estimate"], count)
                    for entry in step["robust_accuracy"]
                ],
                "passes": f"{step['forward_passes'] / max(step['attacked'], 1):,.0f}",
            }
            for step in found["steps"]
        ]
        tables.append(
            {
                "letter": letter,
                "subscript": subscript,
                "sizes": [words.epsilon(size, norm, bounds) for size in sizes],
                "steps": steps,
                "draws": content["draws"],
            }
        )
    return tables
