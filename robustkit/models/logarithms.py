"""Logits of models that return probabilities."""

import numpy as np

from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.tensors import Batch, Tensor

__all__ = ["Logarithms"]


class Logarithms(Wrapper):
    """A model's outputs as logarithms: logits again, where it returns probabilities.

    The order of the classes is the same, so decisions are. In single precision the
    margin can be followed as long as the smaller probability is above zero, at a gap of
    some 100 logits, while that of probabilities ends at 17.

    Args:
        model: Of outputs that are not negative.

    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> model = Logarithms(NumPyModel(lambda x: x))
    >>> model.logits(as_tensor(np.array([[0.25, 0.75]]))).raw.round(2).tolist()
    [[-1.39, -0.29]]
    """

    def logits(self, x: Batch) -> Tensor:
        return _above_zero(self._model.logits(x)).log()

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        chances, pull_back = self._model.linearise(x)
        chances = _above_zero(chances)
        return chances.log(), lambda slopes: pull_back(slopes / chances)

    def _around(self, model: Model, *others: Model) -> Model:
        return Logarithms(model)

    def _settings(self) -> str:
        return "logarithms"


def _above_zero(chances: Tensor) -> Tensor:
    return chances.clip(float(np.finfo(np.float32).tiny), np.inf)
