"""What a run leaves to begin with: its samples, sizes and criteria."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from robustkit.arguments import as_number, as_whole
from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput
from robustkit.evaluation.goals import MakeCriterion
from robustkit.evaluation.results import Results
from robustkit.models.base import Model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm
from robustkit.numerics.random import sample_keys
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["check_settings", "customary", "samples", "settled", "size_of_interest"]

# Draws that say which class is least likely.
_SETTLING = 20


def check_settings(
    results: Results,
    criterion: Any,
    budget: int | None,
    total: int | None,
    draws: int,
) -> None:
    """Raise BadInput where answering the findings could not work."""
    config = results.run["config"]
    if config["access"] != results.run["model"]["access"]:
        raise BadInput(
            "remedies use all that a model shows, and this evaluation was limited to "
            f"{config['access']}s; evaluate without that limit"
        )
    if config["criterion"] is not None and criterion is None:
        raise BadInput(
            f"the evaluation had a criterion of your own ({config['criterion']}); give "
            "it again"
        )
    if budget is not None:
        as_whole(budget, "the budget of a remedy", least=1)
    if total is not None:
        as_whole(total, "the total of all remedies", least=1)
    # Fewer confirm nothing.
    as_whole(draws, "the number of draws", least=10)


def samples(
    batches: Iterable[tuple[Array, Array]], results: Results
) -> tuple[Array, Array, Array]:
    """The samples of a run and their labels, in its order, and the other inputs."""
    parts = list(batches)
    x = np.concatenate([part for part, _ in parts])
    label = np.concatenate([part for _, part in parts])
    if len(results.index) == 0 or results.index[-1] >= len(x):
        raise BadInput(
            f"the run has samples up to {results.index[-1:]}, the data {len(x)}; give "
            "the data that it was made on"
        )
    others = np.delete(x, results.index, axis=0)
    x, label = x[results.index], label[results.index]
    if not np.array_equal(label, results.label):
        raise BadInput(
            "the labels are not those of the run; give the data that it was made on"
        )
    return x, label, others


def size_of_interest(results: Results, norm: str, epsilon: float | None) -> float:
    """`epsilon`, or the largest at which half of the accuracy is left, or the least.

    Raises:
        BadInput: It is no size, or None where the run has none.
    """
    if epsilon is not None:
        return as_number(epsilon, "epsilon", above=0)
    sizes = results.run["config"]["epsilons"][norm]
    if not sizes:
        raise BadInput(
            f"the run states robust accuracy at no size in the norm {norm}; say which "
            "is of interest, as epsilon"
        )
    half = results.clean_accuracy.estimate / 2
    left = [s for s in sizes if results.robust_accuracy(s, norm).estimate >= half]
    return float(max(left, default=min(sizes)))


def customary(norm: Norm, epsilon: float, x: Array, bounds: Bounds) -> float:
    """A change of every feature that comes to about `epsilon`, in input units."""
    features = math.prod(x.shape[1:])
    least, most = bounds.width / 255, bounds.width / 4
    size = 8 / 255 * bounds.width
    if norm.name == "linf":
        size = epsilon
    elif norm.name == "l2":
        size = epsilon / math.sqrt(features)
    return min(max(size, least), most)


def settled(make: MakeCriterion, model: Model, x: Array, size: int) -> MakeCriterion:
    """Criteria chosen by mean scores: by single draws, each question had its own."""
    chosen: dict[int, Array] = {}
    with model.session():
        for start in range(0, len(x), size):
            some = x[start : start + size]
            point = model.to_tensor(some)
            drawn = [to_numpy(model.logits(point)) for _ in range(_SETTLING)]
            chosen |= zip(
                sample_keys(some).tolist(), np.mean(drawn, axis=0), strict=True
            )

    def made(label: Array, _: Array, x: Array) -> Criterion:
        return make(label, np.stack([chosen[k] for k in sample_keys(x).tolist()]), x)

    return made
