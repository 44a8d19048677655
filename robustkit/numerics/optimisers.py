"""Optimisers as values: what they remember is a row per sample, so rows can go."""

import dataclasses
from dataclasses import dataclass

from robustkit.numerics.tensors import Batch

__all__ = ["Adam"]


@dataclass(frozen=True)
class Adam:
    """Steps of about the same size for every feature, whatever its gradient's size is.

    Attributes:
        mean: (n, ...) running average of the gradients.
        square: (n, ...) running average of their squares.
        steps: How many gradients are in them.
        decay: Weight that `mean` gives to the past.
        square_decay: Weight that `square` gives to the past.

    Source:
        Kingma, Ba: Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.

    >>> import numpy as np
    >>> from robustkit.numerics.tensors import as_tensor
    >>> x = as_tensor(np.zeros((1, 2)))
    >>> Adam.at(x).after(as_tensor(np.array([[4.0, -0.1]]))).direction.numpy().round(3)
    array([[ 1., -1.]])
    """

    mean: Batch
    square: Batch
    steps: int = 0
    decay: float = 0.9
    square_decay: float = 0.999

    @classmethod
    def at(cls, x: Batch) -> "Adam":
        """Before the first gradient, for inputs like `x` (n, ...)."""
        return cls(x.zeros_like(), x.zeros_like())

    def after(self, gradient: Batch) -> "Adam":
        """With one more gradient (n, ...)."""
        mean = self.mean * self.decay + gradient * (1 - self.decay)
        news = gradient.square() * (1 - self.square_decay)
        square = self.square * self.square_decay + news
        return dataclasses.replace(self, mean=mean, square=square, steps=self.steps + 1)

    @property
    def scale(self) -> Batch:
        """(n, ...) by how much each feature's average is divided; positive."""
        known = 1 - self.square_decay**self.steps
        # As in the paper: nothing is divided by zero, and noise is not blown up.
        return (self.square / known).sqrt() + 1e-8

    @property
    def direction(self) -> Batch:
        """(n, ...) to be followed downwards; about 1 or less in each feature."""
        known = 1 - self.decay**self.steps
        return self.mean / (self.scale * known)
