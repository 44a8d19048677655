"""The warrant of an evaluation: each of its attacks, tested on its model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robustkit.active_tests.binarization import binarize
from robustkit.active_tests.problems import Binarized
from robustkit.engine.attack import Attack
from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.opening import check_evaluated, reopened
from robustkit.evaluation.results import WARRANTS, Results, Run, as_results
from robustkit.evaluation.store import SCHEMA, write_json
from robustkit.models.base import as_access
from robustkit.numerics.norms import get_norm
from robustkit.registry import choose_attacks

__all__ = ["warrant"]


def warrant(
    results: Run,
    model: Any,
    data: Any,
    attacks: str | Sequence[str] | Mapping[str, Attack[Any]] = "auto",
    *,
    samples: int = 128,
    progress: Callable[[str], None] | None = None,
) -> Results:
    """Test every attack of an evaluation on its model, and keep the verdicts.

    On the first samples, at the middle one of the evaluation's sizes, with readouts of
    the logits. The verdicts are written to warrants.json and summary.json in the run
    folder, where reports find them.

    Args:
        results: Of the evaluation, or its run folder.
        model: As it was given to the evaluation.
        data: Likewise.
        attacks: Likewise.
        samples: How many to use.
        progress: Called with what comes next, in words.

    Returns:
        The results again, with their warrants.

    Raises:
        BadInput: Something given is not as described, the model is not the one that
            was evaluated, or the run has no sizes. What goes wrong in a test becomes
            part of its warrant instead.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", attacks=["fgsm"], samples=80)
    >>> results = warrant(results, "digits", "digits", ["fgsm"])
    >>> results.warrant("linf", "fgsm")["verdict"]
    'PASS'
    """
    results = as_results(results)
    config = results.run["config"]
    for name in config["norms"]:
        if not config["epsilons"][name]:
            raise BadInput(
                f"the run states robust accuracy at no size in the norm {name}, so "
                "there is none to test attacks at; evaluate with epsilons"
            )
    adapted, dataset = reopened(
        results,
        model,
        data,
        samples=samples,
        cache=config.get("cache"),
        headers=config.get("headers"),
    )
    check_evaluated(results, adapted)
    x = np.concatenate([x for x, _ in dataset.batches(samples)])
    verdicts: dict[str, dict[str, Any]] = {}
    for name in config["norms"]:
        norm, sizes = get_norm(name), config["epsilons"][name]
        epsilon = sizes[len(sizes) // 2]
        asked = results.run["asked"].get("epsilons") or {}
        chosen = choose_attacks(
            attacks,
            norm,
            as_access(config["access"]),
            config["budget"],
            adapted,
            epsilon=max(asked.get(name, ()), default=None),
        )
        built: Binarized | Exception
        try:
            built = binarize(
                adapted, x, epsilon=epsilon, norm=norm, seed=config["seed"]
            )
        except Exception as error:
            built = error
        verdicts[name] = {}
        for label, attack in chosen.items():
            if progress is not None:
                progress(f"warrant: {name} {label}")
            verdicts[name][label] = {
                "epsilon": epsilon,
                **_tested(built, attack, config["budget"]),
            }
    write_json(results.path / WARRANTS, {"schema": SCHEMA, "norms": verdicts})
    results.reload_warrants()
    write_json(results.path / "summary.json", results.summary())
    return results


def _tested(
    built: Binarized | Exception, attack: Attack[Any], budget: int | None
) -> dict[str, Any]:
    """The summary of a test, or why there is none."""
    try:
        if isinstance(built, Exception):
            raise built
        return built.test(attack, budget=budget).summary()
    except Exception as error:
        reason = in_one_line(error)
        return {"verdict": "ERROR", "rule": f"the test could not be run: {reason}"}
