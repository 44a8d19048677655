"""A model with its randomness held still."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.tensors import Batch, Tensor

__all__ = ["Fixed"]


class Fixed(Wrapper):
    """A model that draws the same random numbers for every question.

    Holds still what is drawn from the global generators of torch, NumPy and Python, and
    leaves them as they were. A generator of the model's own goes on.

    Args:
        model: Whose answers are random.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._states = _states()

    def logits(self, x: Batch) -> Tensor:
        with self._still():
            return self._model.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        with self._still():
            return self._model.linearise(x)

    def _around(self, model: Model, *others: Model) -> Model:
        again = Fixed(model)
        again._states = self._states
        return again

    @contextmanager
    def _still(self) -> Iterator[None]:
        before = _states()
        _restore(self._states)
        try:
            yield
        finally:
            _restore(before)


def _states() -> dict[str, Any]:
    # The old global generators are what old models draw from.
    states = {"python": random.getstate(), "numpy": np.random.get_state()}  # noqa: NPY002
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch: Any = sys.modules.get("torch")
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
