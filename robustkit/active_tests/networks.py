"""Plain ReLU networks, as lists of weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustkit.active_tests.scores import rows_times
from robustkit.numerics.tensors import Array

__all__ = ["ReluNetwork"]


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
