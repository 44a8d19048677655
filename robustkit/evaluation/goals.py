"""What counts as adversarial in an evaluation: targets as criteria."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from robustkit.engine.criteria import (
    Criterion,
    Misclassification,
    Targeted,
    Undetected,
)
from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import (
    Array,
    Tensor,
    as_array,
    as_tensor,
    to_numpy,
)

__all__ = [
    "MakeCriterion",
    "adversarial_from_start",
    "make_criterion",
    "misclassified",
    "of_model",
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
        target: A class, or the refusal of a model that may refuse; "random" or
            "least-likely" of the classes but the label; None: any but the label.
        criterion: From labels (n,) to a criterion of the user's, instead of a target;
            its arrays may be of any framework.
        classes: How many outputs the model has, those of no label too.
        seed: Of random targets.

    Raises:
        BadInput: Both are given, there is no such target, or the criterion is no
            function; later, that what it returns is no criterion of the samples.
    """
    if criterion is not None and not callable(criterion):
        raise BadInput(
            "the criterion must be a function from labels (n,) to a criterion, such as "
            f"lambda labels: TopK(labels, 3); got a {type(criterion).__name__}"
        )
    if criterion is not None and target is not None:
        raise BadInput("give either a target or a criterion of your own, not both")
    if isinstance(target, str) and target not in _TARGETS:
        raise BadInput(
            f"unknown target '{target}'; give a class number, 'random' or "
            "'least-likely'"
        )
    labelled = classes - model.unlabelled
    refusal = classes - 1 if model.abstains else None
    if isinstance(target, int) and not 0 <= target < labelled and target != refusal:
        also = "" if refusal is None else f", or {refusal} for its refusal"
        raise BadInput(
            f"the model has {labelled} classes, so the target must be 0 to "
            f"{labelled - 1}{also}; got {target}"
        )

    def make(label: Array, logits: Array, x: Array) -> Criterion:
        if criterion is not None:
            made = criterion(model.to_tensor(label))
            return of_model(made, model, len(label), classes)
        if target is None:
            return misclassified(model, model.to_tensor(label))
        # A refusal is no class to be taken for, unless it is asked for.
        logits = logits[:, : logits.shape[1] - model.unlabelled]
        return Targeted(model.to_tensor(_targets(target, label, logits, x, seed)))

    return make


def of_model(criterion: Criterion, model: Model, count: int, classes: int) -> Criterion:
    """A criterion of the user's, with its arrays as tensors of the model's.

    Args:
        criterion: Its arrays may be of any framework, or lists.
        model: That is attacked.
        count: How many samples it must be of.
        classes: How many the model has.

    Raises:
        BadInput: It is no criterion, has not one row for each sample, names a class
            that the model does not have, or is met by no answer that the model can
            give, where it has answered already and names one class each time.
    """
    if not isinstance(criterion, Criterion):
        raise BadInput(
            "the function of a criterion must return a criterion, such as "
            f"TopK(labels, 3); it returned a {type(criterion).__name__}"
        )
    made: Criterion = _of_model(criterion, model, count, classes)
    _check_within_sight(made, model, count, classes)
    return made


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


def _check_within_sight(
    criterion: Criterion, model: Model, count: int, classes: int
) -> None:
    """Whether an answer that names one class can meet the criterion."""
    asked: Model | None = model
    while isinstance(asked, Preprocessed):
        asked = asked.wraps
    if asked is None or not asked.one_class:
        return
    for answer in np.eye(classes, dtype=np.float32):
        answers = model.to_tensor(np.tile(answer, (count, 1)))
        if (to_numpy(criterion.margin(answers)) < 0).any():
            return
    raise BadInput(
        f"the model '{model.name}' names one class in each answer, and no such answer "
        f"meets the criterion {type(criterion).__name__}, so that nothing could be "
        "found and every sample would count as robust; choose a criterion of the first "
        "class alone, such as Targeted, or a model that shows scores"
    )


def _of_model(part: Any, model: Model, count: int, classes: int) -> Any:
    if isinstance(part, tuple):
        return tuple(_of_model(one, model, count, classes) for one in part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        changes = {
            field.name: _of_model(getattr(part, field.name), model, count, classes)
            for field in dataclasses.fields(part)
            if field.init
        }
        made = dataclasses.replace(part, **changes)
        if isinstance(made, Criterion):
            _check_classes(made, count, classes)
        return made
    setting = not hasattr(part, "shape") or isinstance(part, np.generic)
    if setting and not isinstance(part, list):
        return part
    host = as_array(part, "the criterion's values")
    if host.dtype.kind not in "biuf":
        raise BadInput(
            f"the values of a criterion must be numbers; got an array of {host.dtype}"
        )
    if host.shape[:1] != (count,):
        raise BadInput(
            f"a criterion of {count} samples must hold one row for each; got an array "
            f"of shape {host.shape}"
        )
    # Which all frameworks take for places, as they do no shorter ones.
    return model.to_tensor(host.astype(np.int64) if host.dtype.kind in "iu" else host)


def _check_classes(criterion: Criterion, count: int, classes: int) -> None:
    name = type(criterion).__name__
    for part in criterion.classes_named():
        named = to_numpy(part) if isinstance(part, Tensor) else np.asarray(part)
        if named.shape != (count,) or named.dtype.kind not in "iu":
            raise BadInput(
                f"the classes of {name} must be ({count},) integers; got an array of "
                f"shape {named.shape} and dtype {named.dtype}"
            )
        wrong = np.flatnonzero((named < 0) | (named >= classes))
        if len(wrong):
            raise BadInput(
                f"the model has {classes} classes, so those of {name} must be 0 to "
                f"{classes - 1}; sample {wrong[0]} has {named[wrong[0]]}"
            )


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
