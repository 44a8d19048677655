"""Model to model."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from robustkit.errors import BadInput
from robustkit.models.base import Model, PullBack
from robustkit.numerics.tensors import Array, Batch, Tensor, like

__all__ = ["Preprocessed"]


class Preprocessed(Model):
    """A model that is shown (x - mean) / std.

    The bounds, the perturbation and its size stay those of x itself.

    Args:
        model: Takes normalised inputs; its bounds are read as those of x.
        mean: One number, or one per channel.
        std: The same, all positive.
        axis: Of the channels.

    Raises:
        BadInput: A standard deviation is not positive, or the lengths differ.
    """

    def __init__(
        self, model: Model, mean: Sequence[float], std: Sequence[float], axis: int = 1
    ) -> None:
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise BadInput(
                "mean and std must have one entry per channel each, every std "
                f"positive; got mean {list(mean)}, std {list(std)}"
            )
        self.bounds, self.access, self.name = model.bounds, model.access, model.name
        self._model, self.notes = model, model.notes
        self._mean, self._std, self._axis = np.array(mean), np.array(std), axis

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(self._normalise(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(self._normalise(x))
        return logits, lambda slopes: pull_back(slopes) / self._channels(self._std, x)

    def precise(self) -> Model:
        inner = self._model.precise()
        if inner is self._model:
            return self
        mean, std = self._mean.tolist(), self._std.tolist()
        return Preprocessed(inner, mean, std, self._axis)

    def to_tensor(self, x: Array) -> Batch:
        return self._model.to_tensor(x)

    def session(self) -> AbstractContextManager[None]:
        return self._model.session()

    def fingerprint(self) -> str | None:
        inner = self._model.fingerprint()
        if inner is None:
            return None
        scale = f"{self._mean.tolist()} {self._std.tolist()} {self._axis}"
        return hashlib.sha256(f"{inner} {scale}".encode()).hexdigest()

    def _normalise(self, x: Batch) -> Batch:
        return (x - self._channels(self._mean, x)) / self._channels(self._std, x)

    def _channels(self, values: Array, x: Batch) -> Tensor:
        shape = [1] * x.ndim
        shape[self._axis] = len(values)
        if len(values) not in (1, x.shape[self._axis]):
            raise BadInput(
                f"{len(values)} means were given, but axis {self._axis} of inputs of "
                f"shape {x.shape} has {x.shape[self._axis]} channels"
            )
        return like(x, values.reshape(shape)).astype(x.dtype)
