"""Functions on NumPy arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from robustkit.arguments import as_function
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, PullBack, native_name
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, to_numpy

__all__ = ["NumPyModel"]


class NumPyModel(Model):
    """A function from a NumPy batch to scores, with gradients where you write them.

    Args:
        function: (n, ...) to logits (n, classes).
        bounds: Of valid inputs, in input units.
        gradient: Optional. From x (n, ...) and slopes (n, classes), the derivative of
            a loss with regard to the logits, to its derivative with regard to x.
        name: For people.

    Raises:
        BadInput: One of them is no function. In questions: what the gradient returns
            has another shape than the inputs.

    >>> weights = np.eye(3, 2)
    >>> model = NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights.T)
    >>> model.access.name
    'GRADIENT'
    """

    def __init__(
        self,
        function: Callable[[Array], Any],
        bounds: BoundsLike | None = None,
        *,
        gradient: Callable[[Array, Array], Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.bounds = as_bounds(bounds)
        self.access = Access.SCORE if gradient is None else Access.GRADIENT
        self.name = name or native_name(function)
        self._function = as_function(function, "the model")
        if gradient is not None:
            as_function(gradient, "the model's gradient")
        self._gradient = gradient

    def logits(self, x: Batch) -> Tensor:
        # The function gets its own copy: what it writes into it is its own affair. In
        # one layout, since sums may depend on it.
        out = np.asarray(self._function(np.array(to_numpy(x), order="C")))
        return as_tensor(out.astype(x.dtype) if out.dtype.kind in "fiu" else out)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        if self._gradient is None:
            return super().linearise(x)
        gradient, inputs = self._gradient, to_numpy(x)

        def pull_back(slopes: Tensor) -> Batch:
            given = np.array(inputs, order="C"), np.array(to_numpy(slopes))
            values = np.asarray(gradient(*given))
            if values.dtype.kind not in "fiu" or values.size != inputs.size:
                raise BadInput(
                    f"expected a gradient of the shape {inputs.shape} of the inputs; "
                    f"that of '{self.name}' returned the shape {values.shape} and "
                    f"dtype {values.dtype}"
                )
            return as_tensor(values.astype(x.dtype).reshape(inputs.shape))

        return self.logits(x), pull_back

    def to_tensor(self, x: Array) -> Batch:
        return as_tensor(np.array(x, order="C"))
