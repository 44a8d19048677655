"""The exact smallest adversarial of a small ReLU network, or an interval around it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from robustkit.active_tests.bracket import Bracket
from robustkit.active_tests.lowering import as_network
from robustkit.active_tests.networks import ReluNetwork, power_near
from robustkit.arguments import as_seconds, as_whole
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.opening import model_and_data
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array

__all__ = ["EXACT_NORMS", "ExactResult", "Status", "exact_distance", "exact_distances"]

EXACT_NORMS = ("l0", "l1", "linf")
Status: TypeAlias = Literal["exact", "interval", "none", "misclassified"]

_CLOSE = 1e-5


@dataclass(frozen=True)
class ExactResult:
    """Between which sizes the smallest adversarial perturbation lies.

    Attributes:
        lower: No adversarial is nearer, in norm units, up to the solver's tolerances
            (a millionth); infinite where there is none.
        upper: The distance of the witness; infinite where none is known.
        witness: An adversarial at that distance (in the shape of the input, float64),
            whose margin was found below zero by a forward pass; or None.
        status: "exact": the two bounds agree to 1e-5 of their size (in L0, are equal);
            "interval": time was up, or ties are all there is; "none": there is no
            adversarial in the box; "misclassified": the input itself is one.
        seconds: How long it took.
    """

    lower: float
    upper: float
    witness: Array | None
    status: Status
    seconds: float


def exact_distance(
    network: Any,
    x: Any,
    y: int,
    norm: str | Norm = "linf",
    *,
    target: int | None = None,
    bounds: BoundsLike = (0.0, 1.0),
    timeout: float = 60.0,
    seed: int = 0,
) -> ExactResult:
    """The exact distance of the nearest adversarial of one input, by integer programs.

    An attack (`auto`) finds a first upper bound, and a linear program on its linear
    piece of the network the least distance there. Then one mixed-integer program per
    class, the likeliest first, is to prove that a ball almost as large holds no
    adversarial of that class; a linear program does for most of them. The bounds before
    the ReLUs that it needs are the best there are for the first layer, and found by
    linear programs for later ones. What is found instead of a proof is a better upper
    bound. Where a program takes too long, bounds that hold for adversarials only are
    found for it, and it is about a ball half as far above what is proven. Ties count as
    adversarial for `lower`, and the witness lies just beyond the boundary.

    Args:
        network: What `as_network` accepts: a torch module or a model of affine layers
            and ReLUs, pairs of weights and bias, or a `ReluNetwork`.
        x: One input (...), within the bounds.
        y: Its label.
        norm: "linf", "l1" or "l0".
        target: The class to be reached; None: any but the label.
        bounds: Of valid inputs.
        timeout: Seconds after which to return what is known. The attack at the start is
            not cut short.
        seed: Of the attack.

    Source:
        Tjeng, Xiao, Tedrake: Evaluating Robustness of Neural Networks with Mixed
        Integer Programming, ICLR 2019.

    Raises:
        BadInput: No such network, norm, label or input.

    >>> layers = [(np.array([[1.0, 1.0], [1.0, -1.0]]), np.zeros(2)),
    ...           (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 0.3]))]
    >>> result = exact_distance(layers, np.array([0.6, 0.2]), 0, "linf")
    >>> result.status, round(result.upper, 5)
    ('exact', 0.05)
    """
    started = time.monotonic()
    name = repr(get_norm(norm))
    if name not in EXACT_NORMS:
        raise BadInput(
            f"exact distances are not computed in the norm {name}; "
            f"{suggestion(name, EXACT_NORMS)}"
        )
    timeout = as_seconds(timeout, "the timeout")
    box = as_bounds(bounds).rounded_to(np.asarray(x).dtype)
    point = np.array(x, dtype=np.float64)
    lowered = as_network(network, point.shape, box)
    _check(point, y, target, box, len(lowered.layers[-1][1]))
    # Solvers judge by absolute tolerances.
    unit = float(power_near(np.array(box.width)))
    (weight, bias), *rest = lowered.layers
    bracket = Bracket(
        ReluNetwork([(weight * unit, bias), *rest]),
        point.reshape(-1) / unit,
        y,
        target,
        name,
        Bounds(box.lower / unit, box.upper / unit),
        started + timeout,
    )
    bracket.close(seed)
    seconds = time.monotonic() - started
    witness = bracket.witness
    shaped = None if witness is None else witness.reshape(point.shape) * unit
    length = 1.0 if name == "l0" else unit
    lower, upper = bracket.lower * length, bracket.upper * length
    status = _status(bracket.lower, bracket.upper)
    return ExactResult(lower, upper, shaped, status, seconds)


def exact_distances(
    model: Any,
    data: Any,
    *,
    norm: str | Norm = "linf",
    samples: int | None = None,
    target: int | None = None,
    bounds: BoundsLike | None = None,
    timeout: float = 60.0,
    seed: int = 0,
) -> Iterator[tuple[int, int, ExactResult]]:
    """Positions, labels and exact distances, each as `exact_distance` finds it.

    Positions are those in the data, so that samples that are left out show.

    Args:
        model: Anything `load_model` or `as_model` accepts that is such a network.
        data: Anything `load_data` or `as_data` accepts.
        norm: "linf", "l1" or "l0".
        samples: So many of the data; None: all.
        target: The class to be reached, whose samples are left out; None: any but the
            label.
        bounds: Of valid inputs; None: the model's own, else (0, 1).
        timeout: Seconds for each sample.
        seed: Of the attack.

    Raises:
        BadInput: Something given is not as described.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    >>> data = np.random.default_rng(0).random((3, 2)), np.array([0, 1, 0])
    >>> [label for place, label, result in exact_distances(net, data)]
    [0, 1, 0]
    """
    adapted, dataset = model_and_data(model, data, bounds, samples)
    network = as_network(adapted, dataset.example.shape[1:])
    attacked = False
    for place, (x, y) in enumerate(dataset.batches(1)):
        if y[0] == target:
            continue
        attacked = True
        result = exact_distance(
            network,
            x[0],
            int(y[0]),
            norm,
            target=target,
            bounds=adapted.bounds,
            timeout=timeout,
            seed=seed,
        )
        yield place, int(y[0]), result
    if not attacked:
        raise BadInput(f"all samples are of the target class {target}")


def _check(x: Array, y: int, target: int | None, box: Bounds, classes: int) -> None:
    for role, label in (("label", y), ("target", target)):
        if label is not None and not 0 <= as_whole(label, f"the {role}") < classes:
            raise BadInput(
                f"the network has {classes} classes, so the {role} must be 0 to "
                f"{classes - 1}; got {label}"
            )
    if target == y:
        raise BadInput(f"the target must differ from the label; both are {y}")
    if not np.isfinite(x).all() or x.min() < box.lower or x.max() > box.upper:
        raise BadInput(
            f"x must lie within the bounds [{box.lower:g}, {box.upper:g}]; it has "
            f"values from {x.min():.6g} to {x.max():.6g}"
        )


def _status(lower: float, upper: float) -> Status:
    if upper == 0:
        return "misclassified"
    if lower == np.inf:
        return "none"
    if upper == np.inf or upper - lower > _CLOSE * upper:
        return "interval"
    return "exact"
