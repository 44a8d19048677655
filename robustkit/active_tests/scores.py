"""Classifiers on flat inputs, and the models they make."""

from typing import Protocol

from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Scores", "flat_model", "rows_times"]


class Scores(Protocol):
    """A classifier on flat inputs."""

    def logits(self, x: Array) -> Array:
        """(n, d) to scores (n, classes), each row by itself."""

    def gradient(self, x: Array, slopes: Array) -> Array:
        """From slopes (n, classes) of a loss to its gradient (n, d) at x (n, d)."""


def rows_times(x: Array, w: Array) -> Array:
    """`x` (n, d) times `w` (d, m), with a rounding that depends on no other row."""
    product: Array = (x[:, :, None] * w).sum(axis=1)
    return product


def flat_model(scores: Scores, bounds: Bounds, name: str) -> NumPyModel:
    """A model on inputs of any shape, which are flattened."""

    def flat(x: Array) -> Array:
        return x.reshape(len(x), -1)

    return NumPyModel(
        lambda x: scores.logits(flat(x)),
        bounds,
        gradient=lambda x, slopes: scores.gradient(flat(x), slopes),
        name=name,
    )
