"""Models of one framework, asked about batches of another."""

from typing import Any

import numpy as np

from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.tensors import Batch, Tensor, like, to_numpy

__all__ = ["Foreign"]


class Foreign(Wrapper):
    """A model that may be asked from any framework and any device.

    Its answers and gradients are of the kind of the batch, and lie where that lies.

    Args:
        model: To be asked; by the batch itself where that is of the model's kind.

    >>> import torch
    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> model = Foreign(NumPyModel(lambda x: 2 * x))
    >>> model.logits(as_tensor(torch.ones(1, 2))).raw
    tensor([[2., 2.]])
    """

    def logits(self, x: Batch) -> Tensor:
        if self._knows(x):
            return self._model.logits(x)
        return like(x, np.array(to_numpy(self._model.logits(self._abroad(x)))))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        if self._knows(x):
            return self._model.linearise(x)
        logits, back = self._model.linearise(self._abroad(x))

        def pull_back(slopes: Tensor) -> Batch:
            there = like(logits, np.array(to_numpy(slopes)))
            return like(x, np.array(to_numpy(back(there))))

        return like(x, np.array(to_numpy(logits))), pull_back

    def at_layer(self, layer: str) -> Model:
        return Foreign(self._model.at_layer(layer))

    def fingerprint(self) -> str | None:
        return self._model.fingerprint()

    def _around(self, model: Model, *others: Model) -> Model:
        return Foreign(model)

    def _knows(self, x: Batch) -> bool:
        return _kind(self._abroad(x[:1])) == _kind(x)

    def _abroad(self, x: Batch) -> Batch:
        return self._model.to_tensor(to_numpy(x))


def _kind(x: Batch) -> tuple[Any, Any]:
    """Of which framework a batch is, and where it lies."""
    return type(x), getattr(x.raw, "device", None)
