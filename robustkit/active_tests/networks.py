"""Plain ReLU networks, as lists of weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustkit.active_tests.scores import rows_times
from robustkit.numerics.tensors import Array

__all__ = ["ReluNetwork", "balanced", "power_near"]

_LARGEST = 2.0**10
"""Values from one over that to that are near enough to one."""


@dataclass(frozen=True, eq=False)
class ReluNetwork:
    """Affine layers with a ReLU between any two of them.

    Args:
        layers: Weights (outputs, inputs) and bias (outputs,) of each, first to last.

    >>> net = ReluNetwork([(np.array([[1.0], [-1.0]]), np.zeros(2)),
    ...                    (np.eye(2), np.zeros(2))])
    >>> net.logits(np.array([[3.0], [-2.0]]))
    array([[3., 0.],
           [0., 2.]])
    """

    layers: Sequence[tuple[Array, Array]]

    def logits(self, x: Array) -> Array:
        """(n, d) to scores (n, classes)."""
        return self._forward(x)[-1]

    def gradient(self, x: Array, slopes: Array) -> Array:
        """(n, d), from slopes (n, classes); that of a ReLU at zero is zero."""
        *hidden, _ = self._forward(x)
        for at in reversed(range(len(self.layers))):
            slopes = rows_times(slopes, self.layers[at][0])
            if at > 0:
                slopes = slopes * (hidden[at - 1] > 0)
        return slopes

    def module(self) -> torch.nn.Sequential:
        """The same as a torch module, in the dtype of the weights."""
        parts: list[torch.nn.Module] = [torch.nn.Flatten()]
        for at, (weight, bias) in enumerate(self.layers):
            if at > 0:
                parts.append(torch.nn.ReLU())
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight = torch.nn.Parameter(torch.tensor(weight))
            linear.bias = torch.nn.Parameter(torch.tensor(bias))
            parts.append(linear)
        return torch.nn.Sequential(*parts).eval()

    def _forward(self, x: Array) -> list[Array]:
        """What each layer gives, before the ReLU."""
        values: list[Array] = []
        for weight, bias in self.layers:
            given = np.maximum(values[-1], 0) if values else x
            values.append(rows_times(given, weight.T) + bias)
        return values


def balanced(network: ReluNetwork, x: Array, reach: float) -> ReluNetwork:
    """The same decisions, by values around an input that are near one.

    Solvers judge by absolute tolerances, and leave out factors that are tiny. A ReLU
    passes on what a neuron is divided by, so the next layer can take it back; factors
    are powers of two, so nothing is rounded.

    Args:
        network: In double precision.
        x: (d,) the input.
        reach: The size of the largest feature.

    >>> large = ReluNetwork([(np.full((1, 1), 2.0**40), np.zeros(1)),
    ...                      (np.array([[2.0**-40], [0.0]]), np.zeros(2))])
    >>> [weight.tolist() for weight, bias in balanced(large, np.ones(1), 1.0).layers]
    [[[1.0]], [[1.0], [0.0]]]
    """
    layers: list[tuple[Array, Array]] = []
    taken, value, largest = np.ones(len(x)), x, reach
    for at, (weight, bias) in enumerate(network.layers):
        scaled = weight * taken
        sizes = np.linalg.norm(scaled, axis=1) * largest + np.abs(bias)
        if at == len(network.layers) - 1:
            # Scores are compared with each other.
            sizes = np.full_like(sizes, sizes.max())
        taken = power_near(sizes)
        scaled, shift = scaled / taken[:, None], bias / taken
        layers.append((scaled, shift))
        before = scaled @ value + shift
        value, largest = np.maximum(before, 0), float(np.abs(before).max())
    return ReluNetwork(layers)


def power_near(sizes: Array) -> Array:
    """Powers of two near those sizes that are far from one; 1 for others."""
    near = (sizes >= 1 / _LARGEST) & (sizes <= _LARGEST) | (sizes == 0)
    return np.asarray(np.where(near, 1.0, np.exp2(np.frexp(sizes)[1] - 1.0)))
