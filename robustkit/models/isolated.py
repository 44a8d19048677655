"""A model that raises at some inputs, asked about batches."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from robustkit.errors import BadInput, in_one_line
from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.tensors import Batch, Tensor, like, stack_rows

__all__ = ["Isolated", "isolated", "raised_by"]

T = TypeVar("T")


class Isolated(Wrapper):
    """A model whose scores are NaN at the inputs at which it raises.

    Where a batch fails, ever smaller parts of it are asked about, so that an input does
    not touch the others. Its gradient is zero there. Memory that runs out at a single
    input is no answer, and stays an error.

    Args:
        model: To be asked.
        classes: How many scores it returns; None: as many as for another input.

    Attributes:
        raised: What it raised first, in one line; empty: nothing.

    Raises:
        BadInput: In `logits` and `linearise`: the model does, or it raised at every
            input so far.

    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> def cautious(x):
    ...     if x.max() > 1:
    ...         raise ValueError("too bright")
    ...     return x
    >>> model = Isolated(NumPyModel(cautious))
    >>> model.logits(as_tensor(np.array([[0.0, 1.0], [2.0, 0.0]]))).raw.tolist()
    [[0.0, 1.0], [nan, nan]]
    >>> model.raised
    'ValueError: too bright'
    """

    def __init__(self, model: Model, classes: int | None = None) -> None:
        super().__init__(model)
        self._classes = classes
        self.raised = ""

    def logits(self, x: Batch) -> Tensor:
        return self._scores(self._asked(x, self._model.logits))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        parts = self._asked(x, self._model.linearise)

        def pull_back(slopes: Tensor) -> Batch:
            gradients, start = [], 0
            for part, answer in parts:
                end = start + part.shape[0]
                gradients.append(
                    part.zeros_like()
                    if answer is None
                    else answer[1](slopes[start:end])
                )
                start = end
            return stack_rows(gradients)

        scores = [(part, answer and answer[0]) for part, answer in parts]
        return self._scores(scores), pull_back

    def at_layer(self, layer: str) -> Model:
        return Isolated(self._model.at_layer(layer))

    def fingerprint(self) -> str | None:
        return self._model.fingerprint()

    def _around(self, model: Model, *others: Model) -> Model:
        return Isolated(model, self._classes)

    def _asked(
        self, x: Batch, ask: Callable[[Batch], T]
    ) -> list[tuple[Batch, T | None]]:
        """Parts of a batch in their order, each with its answer; None: it raised."""
        try:
            return [(x, ask(x))]
        except BadInput:
            raise
        except Exception as error:
            if x.shape[0] <= 1:
                # Of the machine, and not of the input.
                if isinstance(error, MemoryError | torch.OutOfMemoryError):
                    raise
                self.raised = self.raised or in_one_line(error)
                return [(x, None)]
        middle = x.shape[0] // 2
        return [*self._asked(x[:middle], ask), *self._asked(x[middle:], ask)]

    def _scores(self, parts: list[tuple[Batch, Tensor | None]]) -> Tensor:
        for _, answer in parts:
            if answer is not None:
                self._classes = int(answer.shape[-1])
        if self._classes is None:
            raise BadInput(
                f"the model '{self.name}' raised at every input it was asked about: "
                f"{self.raised}; mend it, or leave those inputs out"
            )
        unknown = np.full((1, self._classes), np.nan, np.float32)
        return stack_rows(
            [
                like(part, unknown[: part.shape[0]]) if answer is None else answer
                for part, answer in parts
            ]
        )


def isolated(model: Model, classes: int | None = None) -> Isolated:
    """The model as an `Isolated` one, unless it is one."""
    return model if isinstance(model, Isolated) else Isolated(model, classes)


def raised_by(model: Model) -> str:
    """What a model, or one that it asks, raised first, in one line; empty: nothing."""
    if isinstance(model, Isolated) and model.raised:
        return model.raised
    asked = model.asked if isinstance(model, Wrapper) else ()
    return next(filter(None, map(raised_by, asked)), "")
