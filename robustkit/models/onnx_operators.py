"""What the operators of ONNX do, as functions on torch tensors.

Inputs of an operator are positional and its attributes keywords, under the names of the
ONNX specification (https://onnx.ai/onnx/operators). Where a version of it has turned an
attribute into an input, both end in the same parameter. An input left out is None.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.models.onnx_layers import LAYERS
from robustkit.models.onnx_shapes import SHAPES, integers

__all__ = ["OPERATORS", "STEPS"]


def _clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return x if min is None and max is None else torch.clamp(x, min, max)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(x, alpha)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


def _power(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _selu(
    x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805
) -> Tensor:
    return gamma * functional.elu(x, alpha)


def _mean_of(*parts: Tensor) -> Tensor:
    return functools.reduce(torch.add, parts) / len(parts)


def _folded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fold(*parts: Tensor) -> Tensor:
        return functools.reduce(function, parts)

    return fold


def _step(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function without a slope: no gradient flows back through it."""

    def constant_piece(x: Tensor) -> Tensor:
        return function(x.detach())

    return constant_piece


def _length(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # Of a root of squares the slope at zero would be no number.
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
    return norm


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor,
        axes: Tensor | list[int] | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        over = [] if axes is None else integers(axes)
        if not over and noop_with_empty_axes:
            return x
        return function(x, over or list(range(x.ndim)), bool(keepdims))

    return reduce


def _softmax_over(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def softmax(x: Tensor, *, opset: int, axis: int | None = None) -> Tensor:
        if opset >= 13:
            return function(x, -1 if axis is None else axis)
        # Until then it was over all axes from the given one on.
        axis = 1 if axis is None else axis % x.ndim
        rows = x.reshape(*x.shape[:axis], -1)
        return function(rows, -1).reshape(x.shape)

    return softmax


OPERATORS: dict[str, Callable[..., Any]] = {
    **SHAPES,
    **LAYERS,
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": _step(torch.ceil),
    "Clip": _clip,
    "Cos": torch.cos,
    "Div": _divide,
    "Elu": _elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": _step(torch.floor),
    "Gelu": _gelu,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": functional.hardswish,
    "LeakyRelu": _leaky_relu,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": _softmax_over(torch.log_softmax),
    "Max": _folded(torch.maximum),
    "Mean": _mean_of,
    "Min": _folded(torch.minimum),
    "Mish": functional.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reduction(_length),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": torch.relu,
    "Round": _step(torch.round),
    "Selu": _selu,
    "Sigmoid": torch.sigmoid,
    "Sign": _step(torch.sign),
    "Sin": torch.sin,
    "Softmax": _softmax_over(torch.softmax),
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _folded(torch.add),
    "Tanh": torch.tanh,
    "Where": torch.where,
}
"""What can be rebuilt, by the name that ONNX gives it.

Softmax and LogSoftmax also take `opset`, the version of the operators in the file, and
Split always takes `num_outputs`.
"""

STEPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Those without a slope, through which no gradient passes."""
