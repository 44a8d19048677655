"""Ways back through torch operations that have none."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Operations", "inside_module", "through"]

_ACTIVE: ContextVar["Operations | None"] = ContextVar("operations", default=None)

_ROUNDING = {
    *("round", "special_round", "floor", "ceil", "trunc", "fix"),
    *("sign", "sgn", "bernoulli"),
}
_ROUNDING_IN_PLACE = {f"{name}_" for name in _ROUNDING}
_DIVISION = {"floor_divide", "__floordiv__", "__rfloordiv__"}
_ABOVE = {"gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"}
_BELOW = {"lt", "le", "less", "less_equal", "__lt__", "__le__"}
_CONVERSION = {
    *("to", "type", "type_as", "float", "double", "half", "bfloat16"),
    *("int", "long", "short", "byte", "char", "bool"),
}
_LEAVING = {"numpy", "__array__", "tolist", "item", "__float__", "__int__", "__bool__"}


# Never the same object twice, but equal.
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class _Through(torch.autograd.Function):
    """A value, whose slopes go to something else."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
        context.dtype = way.dtype
        return value.clone()

    @staticmethod
    def backward(context: Any, *slopes: torch.Tensor) -> Any:
        return None, slopes[0].to(context.dtype)


def through(value: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
    """`value`, differentiated as if it were `way`, of the same shape.

    >>> x = torch.tensor([0.7], requires_grad=True)
    >>> torch.autograd.grad(through(x.round(), 3 * x), x)
    (tensor([3.]),)
    """
    out: torch.Tensor = _Through.apply(value.detach(), way)  # type: ignore[no-untyped-call]
    return out


class Operations:
    """Replaces the way back of every torch operation that cuts gradients.

    Attributes:
        replaced: Names of the operations that were met where a gradient was.
    """

    def __init__(self) -> None:
        self.replaced: set[str] = set()

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """While open, what torch modules compute has the other ways back."""
        before = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(before)


def inside_module() -> AbstractContextManager[Any]:
    """Held open while a module answers: there, and nowhere else, ways are replaced."""
    active = _ACTIVE.get()
    return nullcontext() if active is None else _Mode(active.replaced)


class _Mode(TorchFunctionMode):
    """Sees every call of a torch function.

    Integers and booleans carry no gradient. For those made of floats a stand-in with
    one is remembered; what is computed of them is computed of the stand-ins too, until
    it is turned into floats again.
    """

    def __init__(self, replaced: set[str]) -> None:
        super().__init__()
        self._replaced = replaced
        # By the identity of a tensor, which is held so that it stays the only one.
        self._stand_ins: dict[int, _StandIn] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled":
            if args and args[0] is False:
                self._replaced.add("no_grad")
                return None
            return func(*args, **kwargs)
        given = list(_tensors((*args, *kwargs.values())))
        made = [self._stand_ins[id(t)] for t in given if id(t) in self._stand_ins]
        if any(tensor.requires_grad for tensor in given):
            out = self._differentiable(name, func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        if not made or not isinstance(out, torch.Tensor) or out.requires_grad:
            return out
        if id(out) in map(id, given) and id(out) not in self._stand_ins:
            # Done in place to what has no stand-in: again would be twice.
            return out
        return self._followed(name, func, args, kwargs, out, made[0].cut)

    def _differentiable(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The call, where one of its arguments has a gradient."""
        x: Any = args[0] if args else kwargs.get("input")
        other: Any = args[1] if len(args) > 1 else kwargs.get("other")
        if name in {"detach", "detach_"} or func == _DATA:
            self._replaced.add("detach")
            return x if name == "detach_" else x.view_as(x)
        if name == "requires_grad_" and not x.is_leaf:
            return x
        if name in _LEAVING:
            return func(x.detach(), *args[1:], **kwargs)
        if name in _ROUNDING:
            return self._through(name, func(*args, **kwargs), x)
        if name in _ROUNDING_IN_PLACE and not x.is_leaf:
            # The values change, and the way back stays what it was.
            self._replaced.add(name)
            func(x.data, *args[1:], **kwargs)
            return x
        if name in _DIVISION or kwargs.get("rounding_mode") is not None:
            over, under = (other, x) if name == "__rfloordiv__" else (x, other)
            out = func(*args, **kwargs)
            return self._through(name, out, torch.true_divide(over, under))
        if name == "heaviside":
            values = args[1] if len(args) > 1 else kwargs["values"]
            out = torch.heaviside(x.detach(), values.detach())
            return self._through(name, out, _soft(x).expand_as(out))
        out = func(*args, **kwargs)
        if not isinstance(out, torch.Tensor) or out.requires_grad:
            return out
        if name in _ABOVE | _BELOW:
            self._remember(name, out, _soft(x - other if name in _ABOVE else other - x))
        if name in _CONVERSION and x.requires_grad:
            if out.is_floating_point():
                return self._through(name, out, x)
            self._remember(name, out, x)
        return out

    def _followed(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: torch.Tensor,
        cut: str,
    ) -> torch.Tensor:
        """What came of a call with tensors that have stand-ins, with a way back.

        Args:
            name: Of the function.
            func: That was called.
            args: Likewise.
            kwargs: Likewise.
            out: What it returned.
            cut: The operation that had cut the gradient.
        """

        def instead(value: Any) -> Any:
            if type(value) in (list, tuple):
                return type(value)(map(instead, value))
            known = self._stand_ins.get(id(value))
            if known is None:
                return value
            # What works in place must not change what others are computed of.
            return known.way.clone() if value is out else known.way

        others = tuple(map(instead, args))
        named = {key: instead(value) for key, value in kwargs.items()}
        try:
            if name in _OF_TRUTHS:
                way = _OF_TRUTHS[name](*others, **named)
            else:
                way = self.__torch_function__(func, (), others, named)
        except (RuntimeError, TypeError, ValueError, IndexError):
            # Such as looking up in a table: there is no way back through that.
            return out
        if isinstance(way, torch.Tensor) and id(way) in self._stand_ins:
            way = self._stand_ins[id(way)].way
        if not isinstance(way, torch.Tensor) or not way.requires_grad:
            return out
        if way.shape != out.shape:
            return out
        if out.is_floating_point():
            return self._through(cut, out, way)
        self._remember(cut, out, way)
        return out

    def _through(self, name: str, out: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
        self._replaced.add(name)
        return through(out, way)

    def _remember(self, name: str, out: torch.Tensor, way: torch.Tensor) -> None:
        # Slopes depend on values. But truths stay between 0 and 1: "and" has none where
        # both are 0.
        if out.dtype != torch.bool:
            way = through(out.to(way.dtype), way)
        self._stand_ins[id(out)] = _StandIn(out, way, name)


@dataclass(frozen=True, eq=False)
class _StandIn:
    """What has a gradient in place of a tensor that has none.

    Attributes:
        of: That tensor.
        way: Floats of the same shape and, but for truths, the same values.
        cut: The operation that cut the gradient.
    """

    of: torch.Tensor
    way: torch.Tensor
    cut: str


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from _tensors(value)


def _soft(over: torch.Tensor) -> torch.Tensor:
    """A sigmoid in place of `over > 0`, as wide as the mean distance from there."""
    return torch.sigmoid(over / (over.detach().abs().mean() + 1e-12))


def _not(input: torch.Tensor) -> torch.Tensor:
    return 1 - input


def _and(input: Any, other: Any) -> Any:
    return input * other


def _or(input: Any, other: Any) -> Any:
    return input + other - input * other


def _where(condition: torch.Tensor, input: Any, other: Any) -> Any:
    return other + condition * (input - other)


_OF_TRUTHS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("logical_not", "bitwise_not", "__invert__"), _not),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__", "__rand__"), _and),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__", "__ror__"), _or),
    "where": _where,
}
"""What stands for operations on booleans, of floats between 0 and 1."""
