"""Operations of torch that are affine, and what they make of sizes."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from robustkit.errors import BadInput

__all__ = [
    "IN_PLACE",
    "KEPT",
    "VIEWS",
    "Function",
    "check_affine",
    "is_relu",
    "numel",
    "run_node",
    "size_of",
    "spread_of",
]

Function: TypeAlias = Callable[..., Any]

aten = torch.ops.aten


def _unchanged(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return x


def _converted(x: torch.Tensor, dtype: Any = None, **_: Any) -> torch.Tensor:
    """In double precision in place of single; parameters may be rounded further."""
    same = x.is_floating_point() and dtype in (torch.float32, torch.float64)
    return x if same or dtype is None else x.to(dtype)


def _sum(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + abs(alpha) * b


def _sum_reversed(a: Any, b: Any, alpha: Any = 1) -> Any:
    return abs(alpha) * a + b


_RELUS = {aten.relu.default, aten.clamp_min.default, aten.clamp.default}
# Whose result may share the memory of what they are given. (What was split cannot be
# changed in place where gradients are wanted.)
VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.t.default,
    aten.transpose.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.detach.default,
    aten.alias.default,
}
# Those whose slopes are never negative, once what is constant in them is made so.
_PLAIN = {
    *VIEWS,
    aten.clone.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    aten.constant_pad_nd.default,
    aten.avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.mean.default,
    aten.mean.dim,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    operator.getitem,
}
_SUMS = {
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.neg.default,
    aten.cat.default,
    aten.stack.default,
}
# With a factor that must be constant.
_PRODUCTS = {
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.convolution.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
}
# Of which only the first operand may depend on the input.
_FIRST_ONLY = {
    aten.div.Tensor,
    aten.div.Scalar,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
}
_NORMALISED = {
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
}
_SCALED = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}
# With numbers among their arguments that are added or multiplied.
_WITH_NUMBERS = {
    *_SCALED,
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.constant_pad_nd.default,
}
# What is changed in place, and what that computes.
IN_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.add_.Scalar: aten.add.Scalar,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.sub_.Scalar: aten.sub.Scalar,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.mul_.Scalar: aten.mul.Scalar,
    aten.div_.Tensor: aten.div.Tensor,
    aten.div_.Scalar: aten.div.Scalar,
}
KEPT = aten.detach.default
# How a distance from the middle travels, where it is not the operation itself.
_SPREAD: dict[Any, Function] = {
    aten.sub.Tensor: _sum,
    aten.sub.Scalar: _sum,
    aten.rsub.Scalar: _sum_reversed,
    aten.neg.default: _unchanged,
}
# Precision is ours, and stays double.
_REPLACED: dict[Any, Function] = {
    aten._to_copy.default: _converted,
    aten.detach.default: _unchanged,
    # Values here may be laid out in memory in another way than when followed.
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}


def is_relu(node: Node) -> bool:
    """Whether an operation is a ReLU, however it is written."""
    if node.target is aten.relu.default:
        return True
    if node.target not in _RELUS:
        return False
    ends = [node.kwargs.get("min"), node.kwargs.get("max")]
    ends[: len(node.args) - 1] = node.args[1:]
    return isinstance(ends[0], int | float) and ends[0] == 0 and ends[1] is None


def check_affine(node: Node, dependent: set[Node], name: str) -> None:
    """Refuse an operation that is not affine in what depends on the input.

    Args:
        node: The operation.
        dependent: Those that depend on the input.
        name: Of the model, for the message.

    Raises:
        BadInput: It is not, or not in single or double precision.
    """
    target = node.target
    known = target in _PLAIN or target in _SUMS
    if target in _PRODUCTS:
        # The same one twice is no product with a constant.
        times = sum(n in dependent for n in _flat(node.args))
        first = target not in _FIRST_ONLY or node.args[0] in dependent
        known = times == 1 and first
    dtype = node.kwargs.get("dtype")
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        known = False
    elif isinstance(dtype, torch.dtype) and torch.finfo(dtype).bits < 32:
        raise BadInput(
            f"the model '{name}' computes in {dtype}, whose rounding certificates do "
            "not cover; give it in float32"
        )
    if target is aten.native_batch_norm.default and node.args[5] is not False:
        # The statistics of a batch are no constants.
        known = False
    if not known:
        what = getattr(target, "_opname", None) or getattr(target, "__name__", target)
        raise BadInput(
            f"the model '{name}' has the operation '{what}' on what depends on its "
            "input; certificates and exact distances are for networks of ReLUs and "
            "affine operations only"
        )


def _flat(args: Any) -> list[Node]:
    nodes: list[Node] = []
    map_arg(args, nodes.append)
    return nodes


def run_node(node: Node, value: Callable[[Node], Any]) -> Any:
    """What the operation gives for values of others, in double precision."""
    function: Any = _REPLACED.get(node.target, node.target)
    args, kwargs = map_arg((node.args, dict(node.kwargs)), value)
    return function(*args, **kwargs)


def spread_of(
    node: Node, radii: Mapping[Node, Any], constants: Mapping[Node, Any]
) -> Any:
    """What the operation makes of the radii, with all its slopes made positive."""
    moved = size_of(node, radii, constants)
    still = size_of(node, {n: _zero(value) for n, value in radii.items()}, constants)
    if isinstance(moved, torch.Tensor):
        return moved - still
    return [a - b for a, b in zip(moved, still, strict=True)]


def size_of(
    node: Node, sizes: Mapping[Node, Any], constants: Mapping[Node, Any]
) -> Any:
    """What the operation makes of sizes, with all that is constant made positive."""
    function: Any = _SPREAD.get(node.target, _REPLACED.get(node.target, node.target))
    args, kwargs = map_arg(
        (node.args, dict(node.kwargs)),
        lambda n: sizes[n] if n in sizes else _positive(constants[n]),
    )
    given: list[Any] = list(args)
    settings: dict[str, Any] = dict(kwargs)
    if node.target in _WITH_NUMBERS:
        given[1:] = [_positive(value) for value in given[1:]]
    if node.target in _NORMALISED:
        # The mean, which is taken away.
        given[3] = -given[3]
    if node.target is aten.avg_pool2d.default:
        # By what its sums are divided.
        given[6:] = [_positive(value) for value in given[6:]]
    for factor in settings.keys() & {"alpha", "beta", "value", "divisor_override"}:
        settings[factor] = _positive(settings[factor])
    return function(*given, **settings)


def _positive(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        # Small integers have one more below zero than above.
        value = value.to(torch.float64)
    return abs(value) if isinstance(value, torch.Tensor | float | int) else value


def numel(value: Any) -> int:
    """How many numbers there are in a tensor, or in several."""
    some = [value] if isinstance(value, torch.Tensor) else value
    return sum(tensor.numel() for tensor in some)


def _zero(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    return [torch.zeros_like(entry) for entry in value]
