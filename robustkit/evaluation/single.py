"""One attack on some samples, with plain arrays in and out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.arguments import as_whole
from robustkit.engine import loop
from robustkit.engine.attack import Attack, questions
from robustkit.engine.criteria import Criterion
from robustkit.engine.ledger import Ledger
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.evaluation.arrays import checked_inputs
from robustkit.evaluation.goals import misclassified, of_model
from robustkit.evaluation.opening import open_model
from robustkit.evaluation.preflight import check_labels, check_logits
from robustkit.models.base import Model
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Tensor,
    as_array,
    as_tensor,
    like,
    native,
    to_numpy,
)
from robustkit.presets import auto
from robustkit.registry import get_attack

__all__ = ["AttackResult", "adapted_inputs", "run"]


@dataclass(frozen=True)
class AttackResult:
    """What one attack found, in arrays of the kind that came in.

    Attributes:
        x_adversarial: (n, ...) the nearest adversarial, the original where none was.
        distance: (n,) in norm units; 0 where the original is adversarial, infinite
            where none was found.
        found: (n,) whether there is one.
        ledger: What it cost, per sample, and the query-distortion curve. The one look
            at the originals, which `run` takes first, is not billed.
    """

    x_adversarial: Any
    distance: Any
    found: Any
    ledger: Ledger


def run(
    attack: Attack[Any] | str,
    model: Any,
    x: Any,
    criterion: Criterion | Any,
    *,
    norm: str | Norm = "linf",
    bounds: BoundsLike | None = None,
    budget: int | None = None,
    seed: int = 0,
    starts: Any = None,
    pool: Any = None,
    compiled: bool = False,
) -> AttackResult:
    """Run one attack.

    Args:
        attack: An attack, or the name of one, which then plans for the budget.
        model: Anything `as_model` accepts.
        x: (n, ...) inputs within the bounds; a torch, JAX or NumPy array, or lists.
        criterion: A criterion of n samples, whose arrays may be of any framework; or
            labels (n,), for misclassification.
        norm: In which distances are measured.
        bounds: Of valid inputs; None: the model's own, else (0, 1).
        budget: The most model passes per sample that count; None: the attack's own.
        seed: Of all randomness.
        starts: (n, ...) points to start from, for attacks that want some.
        pool: (m, ...) other inputs that attacks may start from or walk towards; or a
            pair of these and their classes (m,), which say whom to try first.
        compiled: Compile the attack's arithmetic; see `evaluate`.

    Raises:
        BadInput: Something given is not as described.

    >>> import numpy as np, robustkit as rk
    >>> weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> model = rk.NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights)
    >>> x, y = np.array([[0.9, 0.5], [0.2, 0.8]]), np.array([0, 0])
    >>> rk.run("fmn", model, x, y, norm="linf").distance.round(2)
    array([0.2, 0. ])
    """
    adapted, given, host = adapted_inputs(model, x, bounds)
    originals = adapted.to_tensor(host)
    logits = adapted.logits(originals)
    count = len(host)
    classes = check_logits(adapted, to_numpy(logits), count).shape[1]
    if not isinstance(criterion, Criterion):
        labels = _labels(criterion, count, classes - adapted.unlabelled)
        criterion = misclassified(adapted, adapted.to_tensor(labels))
    else:
        criterion = of_model(criterion, adapted, count, classes)
    others, others_classes = _pool(pool, host, adapted)
    problem = Problem(
        adapted,
        originals,
        criterion,
        get_norm(norm),
        seed=seed,
        starts=_others(starts, host, adapted, count, "starts"),
        pool=others,
        pool_classes=others_classes,
    )
    problem.ledger.know(to_numpy(criterion.margin(logits)) < 0)
    if budget is not None:
        budget = as_whole(budget, "the budget", least=1)
    if attack == "auto":
        access = adapted.access
        steps = None if budget is None else questions(budget, adapted, access)
        chosen = auto(norm, steps, access)
    elif isinstance(attack, str):
        chosen = get_attack(attack)
        if budget is not None:
            chosen = chosen.within(questions(budget, adapted, chosen.access))
    elif isinstance(attack, Attack):
        chosen = attack
    else:
        raise BadInput(f"expected an attack, or the name of one; got {attack!r}")
    ledger = loop.run(chosen, problem, budget=budget, compiled=compiled)

    def back(tensor: Tensor) -> Any:
        """A copy in the framework that the inputs came in."""
        copy = native(like(given, np.array(to_numpy(tensor))))
        return copy if isinstance(x, Tensor) else copy.raw

    return AttackResult(
        back(ledger.best), back(ledger.distance), back(ledger.found), ledger
    )


def adapted_inputs(
    model: Any, x: Any, bounds: BoundsLike | None
) -> tuple[Model, Tensor, Array]:
    """A model and its inputs: as given, and as a checked array.

    Args:
        model: Anything `as_model` accepts, or a name or file that `load_model` does.
        x: (n, ...) floats within the bounds; a torch, JAX or NumPy array, or lists.
        bounds: Of valid inputs; None: the model's own, else (0, 1).

    Raises:
        BadInput: Something given is not as described.
    """
    values = as_array(x, "x")
    given, host = as_tensor(x if hasattr(x, "shape") else values), _inputs(values)
    box = None if bounds is None else as_bounds(bounds)
    adapted = open_model(model, box, example=host[:1])
    lower, upper = adapted.bounds.lower, adapted.bounds.upper
    if host.size and (host.min() < lower or host.max() > upper):
        raise BadInput(
            f"x has values from {host.min():.6g} to {host.max():.6g}, outside the "
            f"bounds [{lower:g}, {upper:g}]; give bounds=(lower, upper)"
        )
    return adapted, given, host


def _inputs(values: Array) -> Array:
    host = np.array(values)
    if host.ndim < 2 or len(host) == 0 or host.dtype.kind != "f":
        raise BadInput(
            "x must be floats of shape (n, ...), at least one sample; got shape "
            f"{host.shape} and dtype {host.dtype}"
        )
    if not np.isfinite(host).all():
        raise BadInput("x must be finite; it holds NaN or infinity")
    # Half precision is for models, not for distances.
    return host if host.dtype == np.float64 else host.astype(np.float32)


def _labels(values: Any, count: int, classes: int) -> Array:
    labels = as_array(values, "labels")
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise BadInput(
            f"expected a criterion or labels ({count},) of integers; got an array of "
            f"shape {labels.shape} and dtype {labels.dtype}"
        )
    check_labels(labels, classes, 0)
    return labels.astype(np.int64)


def _pool(pool: Any, host: Array, model: Model) -> tuple[Batch | None, Array | None]:
    if not isinstance(pool, tuple):
        return _others(pool, host, model, None, "pool"), None
    if len(pool) != 2:
        raise BadInput(
            "the pool must be inputs, or a pair of these and their classes; got a "
            f"tuple of {len(pool)}"
        )
    values = as_array(pool[0], "pool")
    inputs = _others(values, host, model, None, "pool")
    classes, count = as_array(pool[1], "the pool's classes"), len(values)
    if classes.shape != (count,) or classes.dtype.kind not in "iu":
        raise BadInput(
            f"the pool's classes must be ({count},) integers; got an array of shape "
            f"{classes.shape} and dtype {classes.dtype}"
        )
    return inputs, classes


def _others(
    values: Any, host: Array, model: Model, count: int | None, name: str
) -> Batch | None:
    if values is None:
        return None
    points = as_array(values, name)
    if points.shape[1:] != host.shape[1:] or count not in (None, len(points)):
        number = "any number of" if count is None else str(count)
        raise BadInput(
            f"{name} must be {number} inputs of shape {host.shape[1:]}; got an array "
            f"of shape {points.shape}"
        )
    return model.to_tensor(
        checked_inputs(points, model.bounds, name=name, dtype=host.dtype)
    )
