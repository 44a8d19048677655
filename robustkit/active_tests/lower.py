"""Lower bounds on the distances of a run, so that its curve has two sides."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from robustkit.active_tests.exact import EXACT_NORMS, exact_distance
from robustkit.active_tests.lowering import as_network
from robustkit.certify.bounds import METHODS, Method
from robustkit.certify.distances import Certifier
from robustkit.certify.regions import NORMS
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.goals import make_criterion, targets_of
from robustkit.evaluation.lower import read_bounds, write_lower
from robustkit.evaluation.opening import check_evaluated, model_and_data, reopened
from robustkit.evaluation.preflight import examine
from robustkit.evaluation.results import Results, Run, as_results
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["bound_below", "check_method", "check_network"]

_Bound: TypeAlias = Callable[[Array, int, str, int, float], float]
"""Of an input (...), its label, a norm, the target or -1, and a distance known."""


def check_method(method: str, norms: Sequence[str]) -> None:
    """Whether there are such bounds; to be asked before a long evaluation, too.

    Args:
        method: As for `bound_below`.
        norms: Names of those whose distances are to be bounded.

    Raises:
        BadInput: There are none.
    """
    if method not in (*METHODS, "exact"):
        if isinstance(method, str | os.PathLike) and Path(method).is_file():
            return
        raise BadInput(
            f"there are no bounds '{method}', by name or as a file; "
            f"{suggestion(str(method), (*METHODS, 'exact'))}"
        )
    possible = EXACT_NORMS if method == "exact" else NORMS
    for norm in norms:
        if norm not in possible:
            raise BadInput(
                f"lower bounds by '{method}' are not computed in the norm {norm}; "
                f"known: {', '.join(possible)}"
            )


def check_network(
    method: str,
    model: Any,
    data: Any,
    *,
    bounds: tuple[float, float] | None = None,
    device: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Whether there are such bounds for a network; before a long evaluation, too.

    Args:
        method: As for `bound_below`.
        model: As for the evaluation, as is all that follows.
        data: On which it is tried.
        bounds: Of valid inputs.
        device: For torch models.
        mean: The model is shown (x - mean) / std.
        std: See `mean`.

    Raises:
        BadInput: There are none; or model or data cannot be opened.
    """
    if method not in (*METHODS, "exact"):
        return
    opened, dataset = model_and_data(
        model, data, bounds, 1, device=device, mean=mean, std=std
    )
    if method == "exact":
        as_network(opened, dataset.example.shape[1:])
    else:
        Certifier(opened.precise(), dataset.example)


def bound_below(
    results: Run,
    model: Any,
    data: Any,
    method: str = "crown",
    *,
    timeout: float = 60.0,
    progress: Callable[[str], None] | None = None,
) -> Results:
    """Bound the distances of a run from below, and keep the bounds with the run.

    They are written to lower.csv and summary.json in the run folder, where reports find
    them. Samples that are adversarial from the start have the bound 0.

    Args:
        results: Of the evaluation, or its run folder.
        model: As it was given to the evaluation.
        data: Likewise.
        method: "interval" or "crown": certificates for networks of ReLUs and affine
            operations, in linf, l2 and l1; "exact": by integer programs, for small
            networks, in linf, l1 and l0; or a file of another verifier's (`read_bounds`
            in `evaluation.lower`).
        timeout: Seconds for each sample, for "exact".
        progress: Called with what comes next, in words.

    Returns:
        The results again, with their lower bounds.

    Raises:
        BadInput: Something given is not as described, model or data are not those of
            the run, the network is not of that kind, or a bound contradicts the
            distance of an adversarial that was found; the message names the sample.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", samples=3)
    >>> results = bound_below(results, "digits", "digits", "interval")
    >>> bool((results.lower() <= results.distance).all())
    True
    """
    results = as_results(results)
    check_method(method, results.norms)
    if method not in (*METHODS, "exact"):
        write_lower(results, read_bounds(method, results), f"file {Path(method).name}")
        return results
    config = results.run["config"]
    if config["criterion"]:
        raise BadInput(
            "lower bounds are for misclassification and targets; the run has a "
            f"criterion of its own, '{config['criterion']}'"
        )
    opened, dataset = reopened(results, model, data)
    check_evaluated(results, opened)
    if dataset.count is not None:
        # Bounds may take hours, so all of it is compared before where that can be.
        for _ in dataset.batches(config["batch_size"]):
            pass
        check_evaluated(results, opened, dataset)
    precise = opened.precise()
    classes = examine(opened, dataset.example).classes
    make = make_criterion(precise, config["target"], None, classes, config["seed"])
    if method == "exact":
        bound = _exact(opened, dataset.example, timeout, config["seed"])
    else:
        bound = _certified(precise, dataset.example, cast(Method, method))
    upper = {norm: results.distances(norm) for norm in results.norms}
    lower = {norm: np.full(len(results.index), np.nan) for norm in results.norms}
    place = {int(index): row for row, index in enumerate(results.index)}
    start = 0
    for x, y in dataset.batches(config["batch_size"]):
        logits = to_numpy(precise.logits(precise.to_tensor(x)))
        targets = targets_of(make(y, logits, x), len(x))
        for row, index in enumerate(range(start, start + len(x))):
            at = place.get(index)
            if at is None:
                continue
            for norm in results.norms:
                if progress is not None:
                    progress(f"lower bound of sample {index}: {norm} {method}")
                if upper[norm][at] == 0:
                    lower[norm][at] = 0.0
                    continue
                label, target = int(y[row]), int(targets[row])
                lower[norm][at] = bound(
                    x[row], label, norm, target, float(upper[norm][at])
                )
        start += len(x)
    check_evaluated(results, None, dataset)
    write_lower(results, lower, method, closed=method != "exact")
    return results


def _certified(model: Model, example: Array, method: Method) -> _Bound:
    """Bounds by certificates."""
    certifier = Certifier(model, example, method)

    def bound(x: Array, label: int, norm: str, target: int, found: float) -> float:
        return certifier.radius(x, label, norm, target=target, most=found)

    return bound


def _exact(model: Model, example: Array, timeout: float, seed: int) -> _Bound:
    """Bounds by integer programs, which need no adversarial that was found."""
    network = as_network(model, example.shape[1:])

    def bound(x: Array, label: int, norm: str, target: int, _: float) -> float:
        return exact_distance(
            network,
            x,
            label,
            norm,
            target=None if target < 0 else target,
            bounds=model.bounds,
            timeout=timeout,
            seed=seed,
        ).lower

    return bound
