"""Models for the laws: one that remembers what it was asked, and awkward ones."""

from collections.abc import Callable

import numpy as np

from robustkit.active_tests.masks import one_hot_outputs
from robustkit.models.base import Access, Model, PullBack, Wrapper
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, to_numpy

__all__ = ["Altered", "Endless", "NumPyFunction", "Watched", "constant", "nan_near"]


class Endless(RuntimeError):
    """An attack asks on and on."""


class Watched(Wrapper):
    """Another model on NumPy, which counts and remembers the questions put to it.

    Args:
        model: To be asked.
        access: The most that is shown; below `GRADIENT` there is no gradient, and at
            `DECISION` the logits are 1 for the class decided on and 0 for others.
        limit: How many points may be asked about; None: any number.

    Raises:
        Endless: When asked about more.

    Attributes:
        forwards: How many points were asked about.
        backwards: How many of them a gradient was asked for.
        queries: The points, batch by batch.
    """

    def __init__(
        self,
        model: Model,
        access: Access = Access.GRADIENT,
        limit: int | None = None,
    ) -> None:
        super().__init__(one_hot_outputs(model) if access is Access.DECISION else model)
        self.name, self.access = model.name, min(access, model.access)
        self.forwards = self.backwards = 0
        self.queries: list[Array] = []
        self._limit = limit

    def logits(self, x: Batch) -> Tensor:
        self._note(x)
        if x.shape[0] == 0:
            some = np.zeros((1, *x.shape[1:]), to_numpy(x).dtype)
            return self._model.logits(self.to_tensor(some))[:0]
        return self._model.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        if self.access < Access.GRADIENT:
            return super().linearise(x)
        if x.shape[0] == 0:
            return self.logits(x), lambda slopes: x
        self._note(x)
        logits, pull_back = self._model.linearise(x)

        def counted(slopes: Tensor) -> Batch:
            self.backwards += slopes.shape[0]
            return pull_back(slopes)

        return logits, counted

    def _around(self, model: Model, *others: Model) -> Model:
        return Watched(model, self.access, self._limit)

    def _note(self, x: Batch) -> None:
        self.forwards += x.shape[0]
        if self._limit is not None and self.forwards > self._limit:
            raise Endless(f"asked more than {self._limit} times, with no end in sight")
        self.queries.append(np.array(to_numpy(x)))


class Altered(Wrapper):
    """Another model on NumPy with other logits, and gradients as if they were its own.

    Args:
        model: To be asked.
        alter: From points (n, ...) and logits (n, classes) to other logits.
        flat: Its gradients are zero everywhere.
    """

    def __init__(
        self,
        model: Model,
        alter: Callable[[Array, Array], Array],
        *,
        flat: bool = False,
    ) -> None:
        super().__init__(model)
        self._alter, self._flat = alter, flat

    def logits(self, x: Batch) -> Tensor:
        return self._altered(x, self._model.logits(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(x)

        def back(slopes: Tensor) -> Batch:
            return x.zeros_like() if self._flat else pull_back(slopes)

        return self._altered(x, logits), back

    def _around(self, model: Model, *others: Model) -> Model:
        return Altered(model, self._alter, flat=self._flat)

    def _altered(self, x: Batch, logits: Tensor) -> Tensor:
        values = self._alter(to_numpy(x), np.array(to_numpy(logits)))
        return as_tensor(values.astype(x.dtype))


def constant(model: Model) -> Model:
    """The same logits for every class and input, and gradients of zero."""
    return Altered(model, lambda x, logits: np.zeros_like(logits), flat=True)


def nan_near(model: Model, x: Array, row: int) -> Model:
    """NaN wherever the input `row` of `x` is the nearest, but not at itself."""
    originals = x.reshape(len(x), -1)

    def alter(points: Array, logits: Array) -> Array:
        flat = points.reshape(len(points), 1, -1)
        distances = np.square(flat - originals).sum(axis=2)
        nearest = distances.argmin(axis=1) == row
        logits[nearest & (distances[:, row] > 0)] = np.nan
        return logits

    return Altered(model, alter)


class NumPyFunction:
    """A model as a function from NumPy batches to logits, with a `gradient`.

    Args:
        model: On NumPy.

    Attributes:
        bounds: (lower, upper) of valid inputs.
    """

    def __init__(self, model: Model) -> None:
        self.bounds = (model.bounds.lower, model.bounds.upper)
        self._model = model

    def __call__(self, x: Array) -> Array:
        # A copy: what a caller writes into it is its own affair.
        return np.array(to_numpy(self._model.logits(as_tensor(x))))

    def gradient(self, x: Array, slopes: Array) -> Array:
        """From slopes (n, classes) with regard to the logits to those to the input."""
        _, pull_back = self._model.linearise(as_tensor(x))
        return np.array(to_numpy(pull_back(as_tensor(slopes))))
