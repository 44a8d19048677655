"""Functions on batches: which framework they are written in is found by trying."""

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from robustkit.errors import BadInput
from robustkit.models.base import Model, native_name
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.user_code import describe_failure
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, as_array

__all__ = ["adapt_function"]


def adapt_function(
    function: Callable[[Any], Any],
    bounds: Bounds | None,
    example: Array,
    device: str | torch.device | None,
    name: str | None,
) -> Model:
    """Adapt a function to the framework that its output for an example is of.

    One that takes NumPy batches only is a NumPy function, also if it answers in torch.

    Args:
        function: (n, ...) NumPy, torch or JAX batch to logits (n, classes).
        bounds: Of valid inputs, in input units.
        example: (n, ...) float32 inputs, for one forward pass, or one for each
            framework until one does not fail.
        device: Where torch functions run.
        name: For people.

    Raises:
        BadInput: It fails for every framework, or returns no logits.

    >>> from robustkit.models.functions import adapt_function
    >>> x = np.zeros((3, 4), np.float32)
    >>> type(adapt_function(lambda x: x[:, :2], None, x, None, None)).__name__
    'NumPyModel'
    """
    called = name or native_name(function)
    framework, out = _tried(function, example, device, called)
    shape, count = tuple(np.shape(out)), len(example)
    if len(shape) != 2 or shape[0] != count:
        raise BadInput(
            f"expected logits of shape ({count}, classes) for {count} inputs of shape "
            f"{example.shape[1:]}; '{called}' returned the shape {shape}. If it "
            "returns classes, say so: LabelModel(function, classes=...)"
        )
    if framework == "torch":
        return TorchModel(function, bounds, device=device, name=name)
    if framework == "jax":
        from robustkit.models.jax import JaxModel

        return JaxModel(function, bounds, name=name)
    if isinstance(out, torch.Tensor):
        function = _on_host(function)
    return NumPyModel(function, bounds, name=called)


def _on_host(function: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """A function from NumPy to torch as one from NumPy to NumPy."""

    def answer(x: Array) -> Array:
        with torch.no_grad():
            out = function(x)
        return as_array(getattr(out, "logits", out), "the model's scores")

    return answer


def _tried(
    function: Callable[[Any], Any],
    example: Array,
    device: str | torch.device | None,
    called: str,
) -> tuple[str, Any]:
    """The framework of what `function` returns for the example, and the output."""
    makers: dict[str, Callable[[], Any]] = {
        "NumPy": example.copy,
        "torch": lambda: torch.from_numpy(example.copy()).to(device or "cpu"),
    }
    if "jax" in sys.modules:
        makers["JAX"] = lambda: sys.modules["jax"].numpy.array(example)
    failures, from_numpy = [], None
    for kind, maker in makers.items():
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                out = function(maker())
        except Exception as error:
            failures.append(f"on a {kind} batch {describe_failure(error)}")
            continue
        out = getattr(out, "logits", out)
        if isinstance(out, torch.Tensor):
            if kind == "torch":
                return "torch", out.detach().cpu()
            # Of what takes JAX arrays too, as NumPy's, the first answer stays.
            from_numpy = out.detach().cpu() if from_numpy is None else from_numpy
            continue
        # The function may have been the first to import it.
        if "jax" in sys.modules and isinstance(out, sys.modules["jax"].Array):
            return "jax", out
        if isinstance(out, np.ndarray | np.generic | list | tuple | float | int):
            # Several outputs make no array.
            with suppress(Exception):
                return "numpy", np.asarray(out)
        raise BadInput(
            f"expected logits (n, classes) as an array of NumPy, torch or JAX; "
            f"'{called}' returned a {type(out).__name__}"
        )
    if from_numpy is not None:
        return "numpy", from_numpy
    raise BadInput(
        f"'{called}' fails on an example batch of shape {example.shape}, float32: "
        + "; ".join(failures)
    )
