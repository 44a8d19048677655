"""One attack on some samples, with plain arrays in and out."""

from dataclasses import dataclass
from typing import Any

from robustkit.engine import loop
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion, Misclassification
from robustkit.engine.ledger import Ledger
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.load import as_model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array, Tensor, as_tensor, is_finite, to_numpy
from robustkit.registry import get_attack

__all__ = ["AttackResult", "run"]


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
    bounds: tuple[float, float] | Bounds | None = None,
    budget: int | None = None,
    seed: int = 0,
    starts: Any = None,
    pool: Any = None,
) -> AttackResult:
    """Run one attack.

    Args:
        attack: An attack, or the name of one.
        model: Anything `as_model` accepts.
        x: (n, ...) inputs within the bounds; a torch, JAX or NumPy array.
        criterion: A criterion of n samples; or labels (n,), for misclassification.
        norm: In which distances are measured.
        bounds: Of valid inputs; None: the model's own, else (0, 1).
        budget: The most model passes per sample that count; None: the attack's own.
        seed: Of all randomness.
        starts: (n, ...) points to start from, for attacks that want some.
        pool: (m, ...) other inputs that attacks may start from or walk towards.

    Raises:
        BadInput: Something given is not as described.

    >>> import numpy as np, robustkit as rk
    >>> weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> model = rk.NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights)
    >>> x, y = np.array([[0.9, 0.5], [0.2, 0.8]]), np.array([0, 0])
    >>> rk.run("fmn", model, x, y, norm="linf").distance.round(2)
    array([0.2, 0. ])
    """
    native = not isinstance(x, Tensor)
    x, criterion = as_tensor(x), _criterion(criterion)
    box = Bounds(*bounds) if isinstance(bounds, tuple | list) else bounds
    adapted = as_model(model, box, example=to_numpy(x[:1]))
    lower, upper = adapted.bounds.lower, adapted.bounds.upper
    host = to_numpy(x)
    if x.ndim < 2 or not bool(is_finite(x).all()):
        raise BadInput(f"x must be (n, ...) and finite; got shape {x.shape}")
    if host.size and (host.min() < lower or host.max() > upper):
        raise BadInput(
            f"x has values from {host.min():.6g} to {host.max():.6g}, outside the "
            f"bounds [{lower:g}, {upper:g}]; give bounds=(lower, upper)"
        )
    problem = Problem(
        adapted,
        x,
        criterion,
        get_norm(norm),
        seed=seed,
        starts=None if starts is None else as_tensor(starts),
        pool=None if pool is None else as_tensor(pool),
    )
    if len(host):
        problem.ledger.know(to_numpy(criterion.margin(adapted.logits(x))) < 0)
    chosen = get_attack(attack) if isinstance(attack, str) else attack
    ledger = loop.run(chosen, problem, budget=budget)
    found = ledger.found
    if not native:
        return AttackResult(ledger.best, ledger.distance, found, ledger)
    return AttackResult(ledger.best.raw, ledger.distance.raw, found.raw, ledger)


def _criterion(criterion: Criterion | Any) -> Criterion:
    if isinstance(criterion, Criterion):
        return criterion
    labels = as_tensor(criterion)
    values: Array = to_numpy(labels)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise BadInput(
            "expected a criterion or labels (n,) of integers; got an array of shape "
            f"{values.shape} and dtype {values.dtype}"
        )
    return Misclassification(labels)
