"""Before anything is attacked: is this a classifier, and what does it return?"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model
from robustkit.numerics.fused import compiler_missing
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, framework_of, native, to_numpy

__all__ = [
    "Examined",
    "check_attacks",
    "check_labels",
    "check_logits",
    "examine",
    "no_compiler",
]


@dataclass(frozen=True)
class Examined:
    """What a first look at a model showed.

    Attributes:
        classes: How many it tells apart.
        random: Whether it gave different answers to the same input.
        notes: What the user should know, a sentence each.
    """

    classes: int
    random: bool
    notes: tuple[str, ...]


def examine(model: Model, x: Array) -> Examined:
    """Ask a model about one or two inputs and look at the answer.

    Args:
        model: To be asked; a few forward passes.
        x: (1 or 2, ...) valid inputs.

    Raises:
        BadInput: It raises at every input, or does not return one row of two or more
            numbers for each.
    """
    answers = [_ask(model, x[i : i + 1]) for i in range(len(x))]
    failures = [a for a in answers if isinstance(a, Exception)]
    if len(failures) == len(answers):
        hint = _hint(failures[0])
        if x.ndim == 4 and not hint:
            hint = (
                "; images are passed as they are, so check whether the model wants "
                "channels first (n, c, h, w) or last (n, h, w, c)"
            )
        raise BadInput(
            f"the model '{model.name}' raised on inputs of shape {x[:1].shape} and "
            f"dtype {x.dtype}: {_short(failures[0])}{hint}"
        ) from failures[0]
    logits = np.concatenate(
        [check_logits(model, a, 1) for a in answers if not isinstance(a, Exception)]
    )
    if len(logits) > 1:
        together = _ask(model, x)
        if isinstance(together, Exception) or len(together) != len(x):
            came = (
                _short(together)
                if isinstance(together, Exception)
                else f"an output of shape {together.shape}"
            )
            raise BadInput(
                f"the model '{model.name}' answers one input at a time only: for a "
                f"batch of {len(x)} it gave {came}; axis 0 of inputs and outputs must "
                "be the sample axis"
            )
    if np.isnan(logits).all():
        raise BadInput(
            f"the model '{model.name}' returned nothing but NaN for the first inputs; "
            "check its weights and whether the inputs have the scale it expects "
            "(--bounds, --mean, --std)"
        )
    notes = model.notes + _probability_note(model, logits)
    random = not _same(_ask(model, x[:1]), answers[0])
    if random:
        notes += (
            f"the model '{model.name}' gives different answers to the same input, by "
            "chance or because it remembers what it was asked (robustkit check tells "
            "which); distances are then those of lucky draws, and its robustness is "
            "not told",
        )
    elif len(x) > 1 and len(logits) > 1 and not _same(_ask(model, x), logits):
        notes += (
            f"the answers of the model '{model.name}' depend on the other inputs in "
            "the batch (batch statistics?); so do results, and on the batch size",
        )
    return Examined(logits.shape[1], random, notes)


def no_compiler(model: Model, x: Array) -> str | None:
    """Why the arithmetic of attacks on a model is not compiled, if it cannot be.

    Warns of it, once. For torch it is found out by compiling something, in seconds.

    Args:
        model: To be attacked.
        x: Any input.
    """
    tensor = model.to_tensor(x)
    kind = framework_of(tensor)
    reason = f"the model works in {kind}, not in torch or JAX"
    if kind == "jax":
        return None
    if framework_of(native(tensor)) == "jax":
        reason = "attacks on JAX models work in NumPy on a processor, which is faster"
    if kind == "torch":
        missing = compiler_missing()
        if missing is None:
            return None
        reason = f"torch finds no compiler that works ({missing}; robustkit doctor)"
    said = f"the attacks' arithmetic is not compiled: {reason}"
    warnings.warn(said, stacklevel=3)
    return said


def check_attacks(
    model: Model,
    x: Array,
    attacks: Mapping[Norm, Mapping[str, Attack[Any]]],
    pool: Array | None,
) -> None:
    """Whether all attacks can work on such inputs, in their norms; asks nothing.

    Args:
        model: To be attacked.
        x: (m, ...) any inputs.
        attacks: By norm and name.
        pool: (k, ...) other inputs that they may use; None: none.

    Raises:
        BadInput: One cannot.
    """
    inputs = model.to_tensor(x)
    others = None if pool is None else model.to_tensor(pool[:1])
    labels = model.to_tensor(np.zeros(len(x), dtype=np.int64))
    for norm, some in attacks.items():
        problem = Problem(model, inputs, Misclassification(labels), norm, pool=others)
        for attack in some.values():
            attack.check(problem)


def check_labels(labels: Array, classes: int, start: int) -> None:
    """Whether all labels are classes of the model.

    Args:
        labels: (n,) integers.
        classes: How many the model has.
        start: Position of the first label in the data.

    Raises:
        BadInput: One is not.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise BadInput(
            f"the model has {classes} classes, so labels must be 0 to {classes - 1}; "
            f"sample {start + wrong[0]} has the label {labels[wrong[0]]}"
        )


def check_logits(model: Model, logits: Array, count: int) -> Array:
    """The answer to `count` inputs, if it can be one.

    Raises:
        BadInput: It is not one row of two or more numbers for each.
    """
    if logits.shape in ((count,), (count, 1)):
        raise BadInput(
            f"the model '{model.name}' returns one number per input; expected one per "
            "class. Of two classes return the columns (0, s) of a score s that is "
            "above 0 for the second one, or (1 - p, p) of a probability p; the score "
            "is better, without a sigmoid behind it"
        )
    if logits.ndim != 2 or logits.shape[0] != count:
        inputs = "one input" if count == 1 else f"{count} inputs"
        raise BadInput(
            f"the model '{model.name}' returned an output of shape {logits.shape} for "
            f"{inputs}; expected logits of shape ({count}, classes): one row per sample"
        )
    if logits.shape[1] < 2:
        raise BadInput(
            f"the model '{model.name}' returned an output of shape {logits.shape}; "
            "expected two or more numbers for each input, one per class"
        )
    if logits.dtype.kind not in "fiu":
        raise BadInput(
            f"the model '{model.name}' returned values of dtype {logits.dtype}; "
            "expected numbers, one per class"
        )
    return logits


def _ask(model: Model, x: Array) -> Array | Exception:
    try:
        return to_numpy(model.logits(model.to_tensor(x)))
    except BadInput:
        raise
    except Exception as error:
        return error


def _hint(error: Exception) -> str:
    """What torch's errors mean that come from a trap and do not say so."""
    said = str(error)
    if "more than 1 value per channel" in said:
        return (
            "; it was asked about one at a time, and batch statistics are in use, so "
            "that answers depend on the other inputs in the batch: evaluate with fixed "
            "statistics (model.eval())"
        )
    if "does not require grad" in said or "does not have a grad_fn" in said:
        return (
            "; it seems that the model optimises its own parameters at test time, and "
            "parameters are frozen while questions are asked. Let it optimise a copy "
            "that it makes in each forward pass, and attack the whole of it, with the "
            "inner steps in the graph or with decisions only (--access decision)"
        )
    return ""


def _same(one: Array | Exception, other: Array | Exception) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return isinstance(one, Exception) and isinstance(other, Exception)
    return np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _probability_note(model: Model, logits: Array) -> tuple[str, ...]:
    off = np.abs(logits.sum(axis=1) - 1).max()
    if model.access is Access.DECISION:
        # Labels as scores of one and zeros; there are no others to be had.
        return ()
    if logits.min() < -1e-5 or logits.max() > 1 + 1e-5 or not off < 1e-4:
        return ()
    harm = (
        "their gradients vanish where it is confident, which makes it look more robust "
        "than it is. Return logits: leave out the softmax"
    )
    if model.access < Access.GRADIENT:
        harm = (
            "where it is confident all but one are next to zero, so that attacks by "
            "scores see little change. Return logits, if it has any"
        )
    return (
        f"the model '{model.name}' seems to return probabilities (all values within "
        f"[0, 1], rows sum to 1 within {off:.1g}); {harm}",
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
