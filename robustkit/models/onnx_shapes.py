"""The operators of ONNX that move values, as functions on torch tensors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SHAPES", "integers", "refuse"]


def integers(values: Tensor | list[int]) -> list[int]:
    """The numbers of an attribute, or of the input that has taken its place."""
    if isinstance(values, Tensor):
        return [int(value) for value in values.reshape(-1).tolist()]
    return values


def refuse(setting: bool, name: str) -> None:
    """Do not go on with a setting that is not known.

    Raises:
        NotImplementedError: With the name of the setting, if there is such a one.
    """
    if setting:
        raise NotImplementedError(name)


def _cast(x: Tensor, *, to: torch.dtype, saturate: int = 1) -> Tensor:
    return x.to(to)


def _cast_like(x: Tensor, target: Tensor, *, saturate: int = 1) -> Tensor:
    return x.to(target.dtype)


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    floats = value_floats if value_float is None else value_float
    if floats is not None:
        return torch.tensor(floats, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int)


def _constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    value = torch.zeros(1) if value is None else value
    return value.reshape(()).expand(integers(shape))


def _dropout(
    x: Tensor,
    ratio: Any = None,
    training_mode: Tensor | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    refuse(training_mode is not None and bool(training_mode), "training_mode")
    return x


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(integers(shape))))


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.ndim
    indices = indices.long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _pad(
    x: Tensor,
    pads: Tensor | list[int],
    value: Tensor | float | None = None,
    axes: Tensor | list[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    sizes = integers(pads)
    placed = range(x.ndim) if axes is None else [a % x.ndim for a in integers(axes)]
    pairs = [(0, 0)] * x.ndim
    for place, axis in enumerate(placed):
        pairs[axis] = (sizes[place], sizes[place + len(sizes) // 2])
    # Of images torch mirrors or repeats no fewer than two axes, of series one.
    least = 0 if mode == "constant" else max(x.ndim - 2, 1)
    while len(pairs) > least and pairs[0] == (0, 0):
        pairs = pairs[1:]
    flat = [size for pair in reversed(pairs) for size in pair]
    if mode == "constant":
        return functional.pad(x, flat, value=0.0 if value is None else float(value))
    mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    return functional.pad(x, flat, mode)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    ends = (start.item(), limit.item(), delta.item())
    return torch.arange(*ends, dtype=start.dtype)


def _reshape(x: Tensor, shape: Tensor | list[int], *, allowzero: int = 0) -> Tensor:
    sizes = integers(shape)
    if not allowzero:
        sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64)


def _slice(
    x: Tensor,
    starts: Tensor | list[int],
    ends: Tensor | list[int],
    axes: Tensor | list[int] | None = None,
    steps: Tensor | list[int] | None = None,
) -> Tensor:
    first, last = integers(starts), integers(ends)
    places = range(len(first)) if axes is None else integers(axes)
    strides = [1] * len(first) if steps is None else integers(steps)
    for axis, *cut in zip(places, first, last, strides, strict=True):
        # Slices of torch cannot run backwards; Python's ranges can.
        kept = range(*slice(*cut).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64))
    return x


def _split(
    x: Tensor,
    split: Tensor | list[int] | None = None,
    *,
    axis: int = 0,
    num_outputs: int,
) -> tuple[Tensor, ...]:
    if split is not None:
        return torch.split(x, integers(split), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


def _squeeze(x: Tensor, axes: Tensor | list[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.tile(integers(repeats))


def _transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    return x.permute(*(range(x.ndim)[::-1] if perm is None else perm))


def _unsqueeze(x: Tensor, axes: Tensor | list[int]) -> Tensor:
    places = integers(axes)
    rank = x.ndim + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


SHAPES: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda x: x,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""See `robustkit.models.onnx_operators`."""
