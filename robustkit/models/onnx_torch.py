"""ONNX networks rebuilt from torch operations, for their gradients."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robustkit.errors import MissingPackage
from robustkit.models.batching import AnyBatch
from robustkit.models.onnx_operators import OPERATORS, STEPS
from robustkit.numerics.tensors import Array

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingPackage("onnx", "onnx", "an ONNX model") from error

__all__ = ["NotDifferentiable", "OnnxNetwork", "before_softmax", "differentiable"]

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2


class NotDifferentiable(ValueError):
    """Why a network cannot be differentiated, as the end of a sentence."""


class _NoPath(Exception):
    """The output does not depend on the input in a differentiable way."""


@dataclass(frozen=True)
class _Node:
    """One operation: from values by name to values by name; "" is none."""

    operator: str
    function: Callable[..., Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    settings: dict[str, Any]

    def run(self, values: dict[str, Any]) -> None:
        """Add the outputs to `values`."""
        for name in self.inputs:
            if name and name not in values:
                raise NotDifferentiable(
                    f"robustkit does not rebuild the value '{name}' that its operator "
                    f"'{self.operator}' takes (a further output, or sparse)"
                )
        given = [values[name] if name else None for name in self.inputs]
        try:
            out = self.function(*given, **self.settings)
        except NotImplementedError as error:
            raise NotDifferentiable(
                f"robustkit does not know its operator '{self.operator}' with the "
                f"setting '{error}'"
            ) from error
        outputs = out if isinstance(out, tuple) else (out,)
        # Operators may have outputs that nobody asks for, such as a mask.
        values.update(zip(self.outputs, outputs, strict=False))


class OnnxNetwork:
    """The graph of an ONNX file as a function from a torch batch to a torch tensor.

    What does not depend on the input is computed once. Only operations that the output
    needs are looked at.

    Args:
        proto: The network, an `onnx.ModelProto` of one input.
        output: The name of the value to compute.
        straight_through: Let gradients pass through steps (Sign, Floor, Ceil, Round) as
            if these returned what they are given.

    Attributes:
        tolerance: How far from onnxruntime it may be, as a share of a row's largest
            score.

    Raises:
        NotDifferentiable: An operator, or a setting of one, is not known.
    """

    def __init__(
        self, proto: Any, output: str, *, straight_through: bool = False
    ) -> None:
        opset = _opset(proto)
        fixed = {
            entry.name: _tensor(numpy_helper.to_array(entry))
            for entry in proto.graph.initializer
        }
        (given,) = (e for e in proto.graph.input if e.name not in fixed)
        element = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
        self._dtype = _dtype(element)
        half = self._dtype == torch.float16
        self.tolerance = _HALF_TOLERANCE if half else _TOLERANCE
        self._input, self._output = given.name, output
        self._nodes: list[_Node] = []
        for entry in _needed(proto.graph, output):
            node = _node(entry, opset, straight_through)
            if all(name in fixed or not name for name in node.inputs):
                node.run(fixed)
            else:
                self._nodes.append(node)
        self._fixed = fixed

    @property
    def operators(self) -> set[str]:
        """The names of those between input and output."""
        return {node.operator for node in self._nodes}

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """What the network computes."""
        values = {**self._fixed, self._input: x.to(self._dtype)}
        for node in self._nodes:
            node.run(values)
        out: torch.Tensor = values[self._output]
        return out

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) to (n, classes), without trailing axes of length one."""
        out = self.value(x)
        while out.ndim > 2 and out.shape[-1] == 1:
            out = out[..., 0]
        return out


def before_softmax(proto: Any, output: str, rank: int) -> str:
    """The name of the value that a last softmax over the classes is given.

    Its decisions are the same, but its gradients do not vanish where it is confident.
    Without such a softmax: the name of the output itself.

    Args:
        proto: The network, an `onnx.ModelProto`.
        output: Its name.
        rank: How many axes it has; the classes are on axis 1.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    name = output
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    if name not in makers or makers[name].op_type != "Softmax":
        return output
    axes = [entry.i for entry in makers[name].attribute if entry.name == "axis"]
    given: str = makers[name].input[0]
    (axis,) = axes or [-1 if _opset(proto) >= 13 else 1]
    return given if axis in (1, 1 - rank) and given in makers else output


def differentiable(
    proto: Any,
    output: str,
    ask: AnyBatch,
    shape: Sequence[int],
    *,
    straight_through: bool,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from a torch batch to its scores that has gradients and is right.

    It is compared on batches of random inputs with what onnxruntime returns.

    Args:
        proto: The network, an `onnx.ModelProto` of one input.
        output: The name of the value to compute.
        ask: onnxruntime's scores of the network.
        shape: Of one input, without the batch axis.
        straight_through: See `OnnxNetwork`.

    Raises:
        NotDifferentiable: An operator is not known, its gradient is lost on the way,
            or the comparison failed.
    """
    rng = np.random.default_rng(0)
    inputs = [rng.random((n, *shape), dtype=np.float32) for n in (2, 3, 1)]
    try:
        probes = [(x, ask(x)) for x in inputs]
    except Exception as error:
        raise NotDifferentiable(
            f"onnxruntime fails on random inputs: {_short(error)}"
        ) from error
    try:
        network = OnnxNetwork(proto, output, straight_through=straight_through)
    except NotDifferentiable:
        raise
    except Exception as error:
        raise NotDifferentiable(
            f"it cannot be rebuilt in torch: {_short(error)}"
        ) from error
    # A file of a fixed batch size often works at others too, and is faster then.
    candidates: list[Callable[[torch.Tensor], torch.Tensor]] = [network]
    if ask.chunk is not None:
        candidates.append(_in_chunks(network, ask.chunk))
    for function in candidates:
        try:
            gap = max(_gap(function, x, scores) for x, scores in probes)
        except _NoPath as error:
            steps = sorted(network.operators & STEPS) or ["operators"]
            raise NotDifferentiable(
                f"no gradient passes through its {', '.join(steps)}"
            ) from error
        except Exception as error:
            reason = f"rebuilt in torch, it fails: {_short(error)}"
            continue
        if gap <= network.tolerance:
            return function
        reason = (
            f"rebuilt in torch, its scores differ from onnxruntime's by {gap:.1g} of "
            "the largest"
        )
    raise NotDifferentiable(reason)


def _opset(proto: Any) -> int:
    """The version of the operators in the file."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset: int = versions.get("", versions.get("ai.onnx", 1))
    return opset


def _needed(graph: Any, output: str) -> list[Any]:
    """The operations that the output depends on, in their order."""
    wanted, needed = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(name for name in node.input if name)
            needed.append(node)
    return needed[::-1]


def _node(proto: Any, opset: int, straight_through: bool) -> _Node:
    settings = {entry.name: _setting(entry) for entry in proto.attribute}
    function = OPERATORS.get(proto.op_type)
    if function is None or proto.domain not in ("", "ai.onnx"):
        name = ".".join(filter(None, (proto.domain, proto.op_type)))
        raise NotDifferentiable(f"robustkit does not know its operator '{name}'")
    try:
        known = set(inspect.signature(function).parameters)
    except ValueError:
        # Functions of torch itself, which are taken as they are.
        known = set()
    unknown = settings.keys() - known
    if unknown:
        raise NotDifferentiable(
            f"robustkit does not know its operator '{proto.op_type}' with the setting "
            f"'{min(unknown)}'"
        )
    if "opset" in known:
        settings["opset"] = opset
    if "num_outputs" in known:
        settings["num_outputs"] = len(proto.output)
    if straight_through and proto.op_type in STEPS:
        function = _straight(function)
    return _Node(proto.op_type, function, proto.input, proto.output, settings)


def _setting(entry: Any) -> Any:
    value = helper.get_attribute_value(entry)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _tensor(numpy_helper.to_array(value))
    if entry.name == "to":
        return _dtype(helper.tensor_dtype_to_np_dtype(value))
    return value


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _dtype(element: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, element)).dtype


def _in_chunks(
    network: OnnxNetwork, size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """All chunks of `size` rows at once, the last filled up with the last row."""
    mapped = torch.vmap(network)

    def asked(x: torch.Tensor) -> torch.Tensor:
        count = len(x)
        filled = torch.cat([x, x[-1:].expand(-count % size, *x.shape[1:])])
        out = mapped(filled.reshape(-1, size, *x.shape[1:]))
        return out.flatten(0, 1)[:count]

    return asked


def _gap(
    function: Callable[[torch.Tensor], torch.Tensor], x: Array, scores: Array
) -> float:
    """The largest difference from `scores`, as a share of a row's largest."""
    given = torch.from_numpy(x).requires_grad_()
    with torch.enable_grad():
        out = function(given)
    if not out.requires_grad:
        raise _NoPath
    rebuilt, scores = out.detach().double().numpy(), scores.astype(np.float64)
    if rebuilt.shape != scores.shape:
        return np.inf
    size = np.abs(scores).max(axis=1, keepdims=True)
    gap = np.abs(rebuilt - scores) / np.where(size > 0, size, 1.0)
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def _straight(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def passing(x: torch.Tensor) -> torch.Tensor:
        # The difference is zero, but has the slope of an identity.
        return function(x) + (x - x.detach())

    return passing


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
