"""What counts as adversarial in an evaluation: targets as criteria."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from robustkit.engine.criteria import (
    Criterion,
    Misclassification,
    Targeted,
    Undetected,
)
from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import Array, Tensor, as_tensor, to_numpy

__all__ = [
    "MakeCriterion",
    "adversarial_from_start",
    "make_criterion",
    "misclassified",
    "targets_of",
]

MakeCriterion: TypeAlias = Callable[[Array, Array, Array], Criterion]
"""From labels (n,), clean logits (n, classes), inputs (n, ...) to their criterion."""

_TARGETS = ("random", "least-likely")


def make_criterion(
    model: Model,
    target: int | str | None,
    criterion: Callable[[Tensor], Criterion] | None,
    classes: int,
    seed: int,
) -> MakeCriterion:
    """What is adversarial for whom, from the settings of `evaluate`.

    Args:
        model: Whose tensors the criteria hold.
        target: A class, "random" or "least-likely" of those but the label (and but
            the refusal of a model that may refuse); None: any class but the label.
        criterion: From labels (n,) to a criterion of the user's, instead of a target.
        classes: How many the model has.
        seed: Of random targets.

    Raises:
        BadInput: Both are given, or there is no such target.
    """
    if criterion is not None and target is not None:
        raise BadInput("give either a target or a criterion of your own, not both")
    if isinstance(target, str) and target not in _TARGETS:
        raise BadInput(
            f"unknown target '{target}'; give a class number, 'random' or "
            "'least-likely'"
        )
    if isinstance(target, int) and not 0 <= target < classes:
        raise BadInput(
            f"the model has {classes} classes, so the target must be 0 to "
            f"{classes - 1}; got {target}"
        )

    def make(label: Array, logits: Array, x: Array) -> Criterion:
        if criterion is not None:
            return criterion(model.to_tensor(label))
        if target is None:
            return misclassified(model, model.to_tensor(label))
        if model.abstains:
            # A refusal is no class to be taken for, unless it is asked for.
            logits = logits[:, :-1]
        return Targeted(model.to_tensor(_targets(target, label, logits, x, seed)))

    return make


def misclassified(model: Model, labels: Tensor) -> Criterion:
    """Any answer but the labels (n,) and, of a model that may refuse, the refusal."""
    return Undetected(labels) if model.abstains else Misclassification(labels)


def adversarial_from_start(
    criterion: Criterion, margin: Array, prediction: Array, label: Array
) -> Array:
    """(n,) which samples are adversarial unperturbed.

    Args:
        criterion: Of the n samples.
        margin: (n,) of the originals.
        prediction: (n,) the classes predicted for them.
        label: (n,) their classes.
    """
    if isinstance(criterion, Misclassification | Undetected):
        # A tie that is decided against the label is no robust sample either.
        return np.asarray((margin < 0) | (prediction != label))
    return np.asarray(margin < 0)


def targets_of(criterion: Criterion, count: int) -> Array:
    """(count,) the class each sample is to be taken for; -1: any but the label.

    Raises:
        BadInput: The criterion is another one.
    """
    if isinstance(criterion, Targeted):
        return to_numpy(criterion.targets)
    if not isinstance(criterion, Misclassification):
        raise BadInput(
            "lower bounds are for misclassification and targets; the criterion is a "
            f"{type(criterion).__name__}"
        )
    return np.full(count, -1)


def _targets(
    target: int | str, label: Array, logits: Array, x: Array, seed: int
) -> Array:
    if isinstance(target, int):
        return np.full_like(label, target)
    if target == "random":
        # A stream of its own, which no attack draws from.
        rng = Rng(seed, sample_keys(x), 0, as_tensor(x), stream=1)
        other = to_numpy(rng.integers(logits.shape[1] - 1))
        return np.asarray(other + (other >= label))
    others = np.array(logits)
    others[np.arange(len(label)), label] = np.inf
    least: Array = others.argmin(axis=1)
    return least
