"""The operators of ONNX that have weights or windows, as functions on torch tensors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.models.onnx_shapes import refuse

__all__ = ["LAYERS"]


def _einsum(*factors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *factors)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = (a.T if transA else a), (b.T if transB else b)
    if c is None:
        return alpha * (a @ b)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _batch_normalisation(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    refuse(training_mode != 0, "training_mode")
    refuse(spatial != 1, "spatial")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _instance_normalisation(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_normalisation(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    out = functional.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return out if bias is None else out + bias


def _local_response_normalisation(
    x: Tensor,
    *,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
) -> Tensor:
    return functional.local_response_norm(x, size, alpha, beta, bias)


def _window_pads(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: list[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """Before and after each spatial axis."""
    count = len(kernel)
    if auto_pad == "VALID":
        return [(0, 0)] * count
    if auto_pad == "NOTSET":
        sizes = [0] * (2 * count) if pads is None else list(pads)
        return list(zip(sizes[:count], sizes[count:], strict=True))
    pairs = []
    for size, width, stride, dilation in zip(
        x.shape[2:], kernel, strides, dilations, strict=True
    ):
        reach = (width - 1) * dilation + 1
        missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
        less, more = missing // 2, missing - missing // 2
        pairs.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return pairs


def _widened(x: Tensor, pairs: list[tuple[int, int]], value: float) -> Tensor:
    flat = [size for pair in reversed(pairs) for size in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _begun(
    out: Tensor,
    x: Tensor,
    strides: Sequence[int],
    pairs: list[tuple[int, int]],
) -> Tensor:
    """What a pool returns, without windows that begin behind its input `x`."""
    for place, stride in enumerate(strides):
        axis = place + out.ndim - len(strides)
        count = -(-(pairs[place][0] + x.shape[axis]) // stride)
        if out.shape[axis] > count:
            out = out.narrow(axis, 0, count)
    return out


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = weight.shape[2:]
    strides, dilations = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    pairs = _window_pads(x, kernel, strides, dilations, pads, auto_pad)
    even = [before for before, after in pairs if before == after]
    if len(even) < len(pairs):
        x, even = _widened(x, pairs, 0.0), [0] * len(pairs)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)
    return convolve[len(kernel) - 1](x, weight, bias, strides, even, dilations, group)


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    storage_order: int = 0,
) -> Tensor:
    ones = [1] * len(kernel_shape)
    strides, dilations = strides or ones, dilations or ones
    pairs = _window_pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
    out = pool[len(kernel_shape) - 1](
        _widened(x, pairs, -math.inf),
        kernel_shape,
        strides,
        dilation=dilations,
        ceil_mode=bool(ceil_mode),
    )
    return _begun(out, x, strides, pairs) if ceil_mode else out


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    count_include_pad: int = 0,
) -> Tensor:
    ones = [1] * len(kernel_shape)
    refuse(any(size != 1 for size in dilations or ones), "dilations")
    strides = strides or ones
    pairs = _window_pads(x, kernel_shape, strides, ones, pads, auto_pad)
    pools = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)

    def pool(values: Tensor) -> Tensor:
        out = pools[len(kernel_shape) - 1](
            _widened(values, pairs, 0.0),
            kernel_shape,
            strides,
            ceil_mode=bool(ceil_mode),
        )
        return _begun(out, x, strides, pairs) if ceil_mode else out

    if count_include_pad or not any(map(any, pairs)):
        return pool(x)
    return pool(x) / pool(torch.ones_like(x))


def _global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


LAYERS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "Conv": _conv,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "InstanceNormalization": _instance_normalisation,
    "LRN": _local_response_normalisation,
    "LayerNormalization": _layer_normalisation,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
}
"""See `robustkit.models.onnx_operators`."""
