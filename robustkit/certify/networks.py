"""Networks as affine pieces between ReLUs, whatever they were written in.

The model is followed once, operation by operation (`make_fx`), at an input that has a
shape and no values: what leaves torch, or decides by values, would be taken for a
constant. What lies between ReLUs must be affine; skip connections are welcome.
Everything is computed anew in double precision.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from robustkit.certify.operations import (
    IN_PLACE,
    KEPT,
    VIEWS,
    Function,
    check_affine,
    is_relu,
    numel,
    run_node,
    size_of,
    spread_of,
)
from robustkit.certify.regions import UNIT
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model
from robustkit.numerics.tensors import Array, as_tensor, to_numpy

__all__ = ["INPUT", "Piece", "ReluGraph", "compare", "follow"]

INPUT = -1
"""The network's input, among the sources of a piece; others are numbers of ReLUs."""

_OF_AN_OPERATION = 16
"""Roundings beyond those of its sums, as where batch normalisation takes a root."""

_AGREEMENT = 1e-3
_ELSEWHERE = 3
"""So many random points of the box, and its two ends, are compared."""

_AT_ONCE = 16_000_000
"""So many numbers are worked on at once, at most."""


@dataclass(frozen=True, eq=False)
class Piece:
    """An affine function of the input and of what some ReLUs give.

    Attributes:
        sources: What it depends on, ascending: `INPUT`, numbers of ReLUs.
        shapes: (1, ...) of each of these.
    """

    sources: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    _leaves: tuple[Node, ...]
    _steps: tuple[Node, ...]
    _target: Node
    _constants: Mapping[Node, Any] = field(repr=False)

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        """The value (1, ...) at values (1, ...) of the sources."""
        known = dict(zip(self._leaves, values, strict=True))
        for node in self._steps:
            known[node] = run_node(node, lambda n: known.get(n, self._constants.get(n)))
        return known[self._target]

    def size(self, *sizes: torch.Tensor) -> torch.Tensor:
        """What the value (1, ...) cannot exceed, with all signs left out.

        Whatever is added up on the way to it, at values of at most these sizes (1, ...)
        of the sources: what rounding is in proportion to.
        """
        known = dict(zip(self._leaves, sizes, strict=True))
        for node in self._steps:
            known[node] = size_of(node, known, self._constants)
        return known[self._target]

    @cached_property
    def roundings(self) -> int:
        """No number takes more roundings than that on its way through, or back."""
        known = dict(zip(self._leaves, self._zeros(), strict=True))
        total = sum(shape.numel() for shape in self.shapes) + self.offset.numel()
        for node in self._steps:
            known[node] = run_node(node, lambda n: known.get(n, self._constants.get(n)))
            used = [known[n] for n in {node, *node.all_input_nodes} if n in known]
            total += sum(map(numel, used))
        return total + _OF_AN_OPERATION * (len(self._steps) + 1)

    def spread(self, *radii: torch.Tensor) -> torch.Tensor:
        """How far the value can be from its middle (1, ...), if sources can be so far.

        By interval arithmetic, operation by operation.
        """
        known = dict(zip(self._leaves, radii, strict=True))
        for node in self._steps:
            known[node] = spread_of(node, known, self._constants)
        return known[self._target]

    @cached_property
    def offset(self) -> torch.Tensor:
        """(1, ...) the value where all sources are zero."""
        return self(*self._zeros())

    def back(self, rows: torch.Tensor) -> dict[int, torch.Tensor]:
        """Linear functions of the value as linear functions of the sources.

        Args:
            rows: (m, k) slopes with respect to the value, flattened.

        Returns:
            By source, slopes (m, ...) flattened.
        """
        shaped = rows.reshape(len(rows), *self.offset.shape)
        slopes = torch.func.vmap(self._transposed)(shaped)
        return {
            source: some.reshape(len(rows), -1)
            for source, some in zip(self.sources, slopes, strict=True)
        }

    @cached_property
    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a piece of the input alone: its slopes, without most of their zeros.

        Returns:
            Slopes (outputs, k), and the features (outputs, k) of the input they are of.
        """
        parts = []
        for dense in self._dense():
            most = max(int((dense != 0).sum(dim=1).max()), 1)
            columns = (dense != 0).to(torch.int8).topk(most, dim=1).indices
            parts.append((dense.gather(1, columns), columns))
        widest = max(slopes.shape[1] for slopes, _ in parts)

        def wide(values: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(values, (0, widest - values.shape[1]))

        return (
            torch.cat([wide(slopes) for slopes, _ in parts]),
            torch.cat([wide(columns) for _, columns in parts]),
        )

    def weight(self) -> torch.Tensor:
        """(outputs, d) of a piece of one source: its slopes, with all their zeros."""
        return torch.cat(list(self._dense()))

    def _dense(self) -> Iterator[torch.Tensor]:
        """The rows (k, d) of `weight`, not too many at once."""
        outputs = self.offset.numel()
        size = max(_AT_ONCE // max(self.shapes[0].numel(), outputs), 1)
        for start in range(0, outputs, size):
            unit = torch.zeros(min(size, outputs - start), outputs, dtype=torch.float64)
            unit[torch.arange(len(unit)), torch.arange(start, start + len(unit))] = 1.0
            (dense,) = self.back(unit).values()
            yield dense

    @cached_property
    def _transposed(self) -> Function:
        transposed: Function = torch.func.vjp(self, *self._zeros())[1]
        return transposed

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros(shape, dtype=torch.float64) for shape in self.shapes]


@dataclass(frozen=True, eq=False)
class ReluGraph:
    """A network of affine pieces and ReLUs.

    Attributes:
        pieces: What goes into each ReLU, in order; the last one is the output.
    """

    pieces: tuple[Piece, ...]

    @cached_property
    def rounding(self) -> float:
        """The share of all that is added up by which rounding can change a result.

        A sum of n products is computed to n units of the last place of the sum of their
        sizes, in whatever order; so is what such sums are computed from. Twice the
        roundings there are, since sizes are rounded too.
        """
        return 2.0 * sum(piece.roundings for piece in self.pieces) * UNIT

    def values(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(1, ...) each piece at one input (1, ...), in double precision."""
        known, values = {INPUT: x.to(torch.float64)}, []
        for number, piece in enumerate(self.pieces):
            values.append(piece(*(known[source] for source in piece.sources)))
            known[number] = values[-1].relu()
        return values


def follow(model: Model, example: torch.Tensor) -> ReluGraph:
    """The network of a model.

    Args:
        model: Of any kind that torch differentiates: modules, ONNX files, with or
            without `Preprocessed`.
        example: (1, ...) an input, float32.

    Raises:
        BadInput: It is something else than affine functions and ReLUs; torch cannot
            see what it is, as where values of the input are taken out of torch; or it
            does not compute the same everywhere in its bounds.

    >>> from robustkit.models.torch import TorchModel
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(),
    ...                           torch.nn.Linear(4, 2)).eval()
    >>> graph = follow(TorchModel(net), torch.zeros(1, 3))
    >>> [piece.sources for piece in graph.pieces]
    [(-1,), (0,)]
    """
    asked = model.to_tensor(example.numpy()).raw
    if model.access < Access.GRADIENT or not isinstance(asked, torch.Tensor):
        raise BadInput(
            f"the model '{model.name}' cannot be looked into, so nothing is proven of "
            "it; give a torch module, or an ONNX file whose gradients are known"
        )
    if asked.device.type != "cpu":
        raise BadInput(
            f"the model '{model.name}' is on the device {asked.device}; certificates "
            "are computed on the CPU"
        )
    try:
        model.logits(model.to_tensor(example.numpy()))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"the model '{model.name}' cannot be followed: it fails at one input of "
            f"the shape {tuple(asked.shape[1:])} ({_reason(error)})"
        ) from error
    try:
        # Only what depends on the input is without values, constants keep theirs.
        blank = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(asked)
        with warnings.catch_warnings():
            # Of constants that gradients could flow to.
            warnings.filterwarnings("ignore", r"The \.grad attribute")
            traced = make_fx(lambda x: model.linearise(as_tensor(x))[0].raw)(blank)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"the model '{model.name}' cannot be followed operation by operation: all "
            "that depends on its input must be computed by torch, "
            f"without .numpy(), .tolist() or branches on values ({_reason(error)})"
        ) from error
    graph = _pieces(traced, tuple(asked.shape), model.name)
    shape = tuple(example.shape[1:])
    inside = np.random.default_rng(0).random((_ELSEWHERE, *shape))
    for share in (0.0, 1.0, *inside):
        point = model.bounds.lower + model.bounds.width * share
        compare(model, graph, np.broadcast_to(point, shape))
    return graph


def compare(model: Model, graph: ReluGraph, x: Array) -> tuple[Array, float]:
    """The scores of a model at one input, and how far those of its network are off.

    Args:
        model: Which was followed.
        graph: What was found.
        x: (...) the input.

    Returns:
        (classes,) the model's scores, and the largest difference.

    Raises:
        BadInput: They differ by more than rounding: the model does not compute the same
            for every input, or every time.
    """
    given = np.array(x[None], dtype=np.float32)
    said: Array = to_numpy(model.logits(model.to_tensor(given)))[0]
    followed = graph.values(torch.from_numpy(given))[-1][0].numpy()
    gap = np.abs(said - followed).max()
    if not gap <= _AGREEMENT * max(float(np.abs(said).max()), 1.0):
        raise BadInput(
            f"the model '{model.name}' does not compute the same for every input (its "
            f"scores differ by {gap:.2g} from those of the operations it was seen to "
            "do), so nothing can be proven of it"
        )
    return said, float(gap)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _pieces(traced: GraphModule, shape: Sequence[int], name: str) -> ReluGraph:
    constants: dict[Node, Any] = {}
    leaves: dict[Node, int] = {}
    shapes: dict[int, torch.Size] = {INPUT: torch.Size(shape)}
    moving: set[Node] = set()
    pieces: list[Piece] = []

    def piece(target: Node) -> Piece:
        steps, found, seen = [], set(), set()
        stack = [target]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in leaves:
                found.add(node)
            elif node in moving:
                steps.append(node)
                stack.extend(node.all_input_nodes)
        order = {node: place for place, node in enumerate(traced.graph.nodes)}
        used = sorted(found, key=leaves.__getitem__)
        return Piece(
            sources=tuple(leaves[node] for node in used),
            shapes=tuple(shapes[leaves[node]] for node in used),
            _leaves=tuple(used),
            _steps=tuple(sorted(steps, key=order.__getitem__)),
            _target=target,
            _constants=constants,
        )

    for node in traced.graph.nodes:
        if node.target in IN_PLACE and _unnoticed(node, moving | leaves.keys()):
            node.target = IN_PLACE[node.target]
        if node.op == "placeholder":
            leaves[node] = INPUT
        elif node.op == "get_attr":
            constants[node] = _double(_attribute(traced, str(node.target)))
        elif node.op == "output":
            (target,) = node.all_input_nodes or (None,)
            if target not in moving and target not in leaves:
                raise BadInput(f"the output of '{name}' does not depend on its input")
            pieces.append(piece(target))
        elif not any(n in moving or n in leaves for n in node.all_input_nodes):
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise BadInput(
                    f"the model '{name}' draws random numbers ('{node.target}'), and "
                    "what is proven of one draw says nothing about the next"
                )
            constants[node] = _double(run_node(node, constants.get))
        elif is_relu(node):
            shapes[len(pieces)] = node.meta["tensor_meta"].shape
            leaves[node] = len(pieces)
            pieces.append(piece(node.args[0]))
        else:
            check_affine(node, moving | leaves.keys(), name)
            moving.add(node)
    return ReluGraph(tuple(pieces))


def _unnoticed(node: Node, dependent: set[Node]) -> bool:
    """Whether nobody else sees the memory that an operation changes in place."""
    given = node.args[0]
    if given not in dependent:
        return False
    while isinstance(given, Node):
        # What is kept for a backward pass that never comes does not count.
        users = [u for u in given.users if u.users or u.target is not KEPT]
        if len(users) > 1:
            return False
        if given.target not in VIEWS:
            return True
        given = given.args[0]
    return False


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().to(torch.float64)
    return value


def _attribute(owner: Any, path: str) -> Any:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner
