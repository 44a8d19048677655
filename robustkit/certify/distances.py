"""The largest radius that is certified, for each sample."""

from collections.abc import Callable

import numpy as np
import torch

from robustkit.certify.bounds import METHODS, Method, least_values
from robustkit.certify.networks import ReluGraph, compare, follow
from robustkit.certify.regions import Region
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array

__all__ = ["Certifier"]

_ROUNDING = 1e-6
"""The model itself, in single precision, may be wrong by that share of its scores."""
_SMALLEST = 1e-9
"""Of the size of the box: below that, nothing is said to be certified."""
_HALVINGS = 9


class Certifier:
    """Certifies a network of ReLUs and affine operations.

    What is certified holds in exact arithmetic, for the network with its parameters as
    they are: bounds are computed in double precision, and what its rounding can do at
    most is taken off. For the model as it is run, in single precision and whatever
    order, there is an allowance that is no proof: a margin counts only if it exceeds a
    millionth of the largest score, about what that rounding does to scores, and twice
    what it is seen to do at the input.

    Args:
        model: As `follow` takes it.
        example: (1, ...) or more inputs.
        method: "interval" or "crown".

    Raises:
        BadInput: The model is no such network, or there is no such method.

    >>> from robustkit.models.torch import TorchModel
    >>> net = torch.nn.Linear(2, 2, bias=False).eval()
    >>> net.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x = np.array([[0.7, 0.3]], np.float32)
    >>> certifier = Certifier(TorchModel(net), x)
    >>> round(certifier.radius(x[0], 0, "linf"), 3)
    0.2
    """

    def __init__(self, model: Model, example: Array, method: Method = "crown") -> None:
        if method not in METHODS:
            raise BadInput(
                f"unknown kind of bound '{method}'; {suggestion(method, METHODS)}"
            )
        self._model, self._method = model, method
        self._shape = np.shape(example)[1:]
        self._graph: ReluGraph = follow(model, torch.from_numpy(np.array(example[:1])))

    def certifies(
        self, x: Array, label: int, norm: str | Norm, radius: float, target: int = -1
    ) -> bool:
        """Whether it is proven that no adversarial lies in the closed ball.

        Args:
            x: (...) one input.
            label: Its class.
            norm: "linf", "l2" or "l1".
            radius: Of the ball, in norm units; it is cut to the model's bounds.
            target: The class to be reached; -1: any but the label.

        Raises:
            BadInput: The radius is negative; also as for `radius`.
        """
        if not radius >= 0:
            raise BadInput(f"a radius must be at least 0; got {radius}")
        certified = self._goal(x, label, norm, target, self._method)
        whole = self._size_of_box(x, norm)
        return certified is not None and certified(min(radius, whole))

    def radius(
        self,
        x: Array,
        label: int,
        norm: str | Norm,
        *,
        target: int = -1,
        most: float | None = None,
    ) -> float:
        """The largest radius that is certified, by bisection to about 0.2 %.

        Where bounds are not monotone in the radius there may be larger ones.

        Args:
            x: (...) one input.
            label: Its class.
            norm: "linf", "l2" or "l1".
            target: The class to be reached; -1: any but the label.
            most: A distance at which an adversarial is known; None: unknown.

        Returns:
            In norm units; 0 where not even the input itself is certified, infinite
            where all of the box is.

        Raises:
            BadInput: The input is not of the example's shape or not within the model's
                bounds, there is no such class or norm, or the model does something
                else there than at the example.
        """
        whole = self._size_of_box(x, norm)
        known = most is not None and np.isfinite(most)
        high = min(float(most), whole) if known and most is not None else whole
        low = 0.0
        # Linear bounds are dear, so intervals say where to begin.
        for method in METHODS[: METHODS.index(self._method) + 1]:
            certified = self._goal(x, label, norm, target, method)
            if certified is None:
                return 0.0
            low = _largest(certified, low, high, whole * _SMALLEST)
        return low if low < whole else float("inf")

    def _goal(
        self, x: Array, label: int, norm: str | Norm, target: int, method: Method
    ) -> Callable[[float], bool] | None:
        """What tells whether a radius is certified; None: not even zero is."""
        name, bounds = repr(get_norm(norm)), self._model.bounds.rounded_to(x.dtype)
        if x.shape != self._shape or not (
            (x >= bounds.lower).all() and (x <= bounds.upper).all()
        ):
            raise BadInput(
                f"expected an input of shape {self._shape} within [{bounds.lower:g}, "
                f"{bounds.upper:g}]; got one of shape {x.shape} between {x.min():g} "
                f"and {x.max():g}"
            )
        flat = torch.from_numpy(np.array(x, dtype=np.float64)).reshape(-1)
        scores, gap = compare(self._model, self._graph, x)
        if not (0 <= label < len(scores) and target < len(scores)):
            raise BadInput(
                f"the model has {len(scores)} classes, from 0; got the label {label} "
                f"and the target {target}"
            )
        rows = _rows(len(scores), label, target)
        # Two scores make a margin, and each may be wrong by what is seen here.
        enough = max(_ROUNDING * float(np.abs(scores).max()), 2 * gap)
        if not _worst(rows @ torch.from_numpy(scores.astype(np.float64)), target) > (
            enough
        ):
            return None

        def certified(radius: float) -> bool:
            region = Region(flat, name, radius, bounds.lower, bounds.upper)
            with torch.no_grad():
                least = least_values(self._graph, region, rows, method)
            return _worst(least, target) > enough

        return certified

    def _size_of_box(self, x: Array, norm: str | Norm) -> float:
        """The largest distance from an input within the bounds."""
        bounds, x = self._model.bounds.rounded_to(x.dtype), x.astype(np.float64)
        far = np.maximum(x - bounds.lower, bounds.upper - x)
        sizes = {"linf": far.max(), "l2": np.sqrt((far**2).sum()), "l1": far.sum()}
        return float(sizes.get(repr(get_norm(norm)), far.max()))


def _largest(
    certified: Callable[[float], bool], low: float, high: float, smallest: float
) -> float:
    """A radius that is certified, with a larger one that is not close above it.

    Args:
        certified: Whether a radius is.
        low: One that is.
        high: The largest of interest.
        smallest: The least that is tried.
    """
    start = low or smallest
    while start < high and certified(min(start * 2, high)):
        low = start = min(start * 2, high)
    if low == high:
        return high
    high = min(start * 2, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if certified(middle) else (low, middle)
    return low


def _rows(classes: int, label: int, target: int) -> torch.Tensor:
    """(classes - 1, classes) functions of the scores that must stay above zero."""
    unit = torch.eye(classes, dtype=torch.float64)
    if target < 0:
        others = [j for j in range(classes) if j != label]
        return unit[label] - unit[others]
    others = [j for j in range(classes) if j != target]
    return unit[others] - unit[target]


def _worst(least: torch.Tensor, target: int) -> float:
    """The margin that is sure, from bounds on its rows.

    A target is reached only if it beats all others.
    """
    return float(least.min() if target < 0 else least.max())
