"""A readout as a plain function of its framework, for attacks from elsewhere."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from robustkit.active_tests.readouts import Head
from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.models.guests import OtherRows, answered
from robustkit.numerics.random import seeded
from robustkit.numerics.tensors import (
    Array,
    Tensor,
    as_array,
    as_tensor,
    native,
    stack_columns,
    take,
)

__all__ = ["PlainAttack", "attack_plainly"]

PlainAttack: TypeAlias = Callable[[Any, Any, Any], Any]
"""From a model, inputs (n, ...) and labels (n,), all zero, to adversarials (n, ...)."""


def attack_plainly(
    attack: PlainAttack, model: Model, head: Head, x: Array, seed: int
) -> Array:
    """(n, ...) what a plain function returns for readouts of n samples.

    It is called once, with all samples. Row i belongs to sample i then, so an attack
    that asks about another number of rows (because it drops samples, or stacks
    restarts) is called again, with one sample at a time; all rows are that sample's.

    Args:
        attack: Called with (model, x, y). Where the model works on torch tensors, the
            model is a torch module and x and y are tensors; else it is a function on
            arrays of the model's framework. It returns logits, and has `.bounds`.
        model: The features.
        head: Of n samples.
        x: (n, ...) the originals.
        seed: Of the global generators of torch and NumPy while the attack runs.

    Raises:
        BadInput: It returns no array.
    """
    with seeded(seed):
        try:
            return _called(attack, model, head, x)
        except OtherRows:
            rows = (np.array([i]) for i in range(len(x)))
            return np.concatenate(
                [_called(attack, model, take(head, row), x[row]) for row in rows]
            )


def _called(attack: PlainAttack, model: Model, head: Head, x: Array) -> Array:
    zeros = np.zeros(len(x), dtype=np.int64)
    inputs, labels = (native(model.to_tensor(part)).raw for part in (x, zeros))
    ask = _Asked(model, head, len(x))
    asked: Any
    if isinstance(inputs, torch.Tensor):
        asked = _Module(ask)
    else:
        asked = _Function(ask, is_jax=not isinstance(inputs, np.ndarray))
    with model.session():
        found = attack(asked, inputs, labels)
    # A copy in whatever framework it came.
    points = np.array(as_array(found, "adversarials"))
    if points.dtype.kind not in "fiu":
        raise BadInput(
            "expected the attack to return adversarials (n, ...), one for each input; "
            f"got a {type(found).__name__}"
        )
    return points


class _Asked:
    """The logits of readouts, for points in the order of the samples."""

    def __init__(self, model: Model, head: Head, count: int) -> None:
        self.model, self._head, self._count = model, head, count

    def rows(self, count: int) -> Head:
        if self._count == 1:
            return take(self._head, np.zeros(count, dtype=np.int64))
        if count != self._count:
            raise OtherRows
        return self._head

    def logits(self, x: Any) -> Any:
        head = self.rows(x.shape[0])
        return self._shown(head, head(self.model.logits(as_tensor(x))))

    def linearise(self, x: Any) -> tuple[Any, Callable[[Any], Any]]:
        head = self.rows(x.shape[0])
        outputs, pull_back = self.model.linearise(as_tensor(x))

        def back(slopes: Any) -> Any:
            full = as_tensor(slopes)
            if head.detector:
                full = stack_columns([full, full[:, :1] * 0])
            return native(pull_back(head.pull_back(full))).raw

        return self._shown(head, head(outputs)), back

    def _shown(self, head: Head, logits: Tensor) -> Any:
        """Without the detector's column, which is no class."""
        return native(logits[:, :-1] if head.detector else logits).raw


class _Function:
    """On arrays. JAX differentiates it, outside of jit; NumPy has no gradients."""

    def __init__(self, ask: _Asked, is_jax: bool) -> None:
        self.bounds = ask.model.bounds
        self._call = _differentiable(ask) if is_jax else ask.logits

    def __call__(self, x: Any) -> Any:
        return self._call(x)


def _differentiable(ask: _Asked) -> Callable[[Any], Any]:
    import jax

    function = jax.custom_vjp(ask.logits)

    def forward(x: Any) -> tuple[Any, Any]:
        return ask.logits(x), x

    def backward(x: Any, slopes: Any) -> tuple[Any]:
        return (ask.linearise(x)[1](slopes),)

    function.defvjp(forward, backward)
    call: Callable[[Any], Any] = function
    return call


class _Module(torch.nn.Module):
    """On torch tensors, which torch differentiates by the model's own way back."""

    def __init__(self, ask: _Asked) -> None:
        super().__init__()
        self._ask, self.bounds = ask, ask.model.bounds
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            logits: torch.Tensor = self._ask.logits(x.detach())
            return logits
        return answered(x, self._ask.linearise)
