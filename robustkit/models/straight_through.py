"""Ways back through torch operations that have none."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Operations", "inside_module", "through"]

_ACTIVE: ContextVar["Operations | None"] = ContextVar("operations", default=None)

_ROUNDING = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "bernoulli"}
_ROUNDING_IN_PLACE = {f"{name}_" for name in _ROUNDING}
_DIVISION = {"floor_divide", "__floordiv__"}
_ABOVE = {"gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"}
_BELOW = {"lt", "le", "less", "less_equal", "__lt__", "__le__"}
_CONVERSION = {
    *("to", "type", "type_as", "float", "double", "half", "bfloat16"),
    *("int", "long", "short", "byte", "char", "bool"),
}
_LEAVING = {"numpy", "__array__", "tolist", "item", "__float__", "__int__", "__bool__"}


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

    Integers and booleans carry no gradient. For those made of floats it is remembered
    what they were made of, until they are turned into floats again.
    """

    def __init__(self, replaced: set[str]) -> None:
        super().__init__()
        self._replaced = replaced
        # By the identity of a tensor, which is held so that it stays the only one.
        self._made_of: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

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
        x = args[0] if args else None
        if not isinstance(x, torch.Tensor):
            return func(*args, **kwargs)
        if name in _CONVERSION:
            return self._converted(name, x, func(*args, **kwargs))
        if not x.requires_grad:
            return func(*args, **kwargs)
        return self._differentiable(name, func, x, args, kwargs)

    def _differentiable(
        self,
        name: str,
        func: Callable[..., Any],
        x: torch.Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The call, where its first argument has a gradient."""
        if name == "detach" or func is torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            self._replaced.add("detach")
            return x.view_as(x)
        if name == "requires_grad_" and not x.is_leaf:
            return x
        if name in _LEAVING:
            return func(x.detach(), *args[1:], **kwargs)
        if name in _ROUNDING:
            self._replaced.add(name)
            return through(func(*args, **kwargs), x)
        if name in _ROUNDING_IN_PLACE and not x.is_leaf:
            # The values change, and the way back stays what it was.
            self._replaced.add(name)
            func(x.data, *args[1:], **kwargs)
            return x
        other: Any = args[1] if len(args) > 1 else kwargs.get("other")
        if name in _DIVISION or kwargs.get("rounding_mode") is not None:
            self._replaced.add(name)
            return through(func(*args, **kwargs), torch.true_divide(x, other))
        out = func(*args, **kwargs)
        if name in _ABOVE | _BELOW and isinstance(out, torch.Tensor):
            over = x - other if name in _ABOVE else other - x
            width = over.detach().abs().mean() + 1e-12
            self._remember(out, torch.sigmoid(over / width))
        return out

    def _converted(self, name: str, x: torch.Tensor, out: Any) -> Any:
        source = self._made_of.get(id(x), (None, None))[1]
        if source is None and x.requires_grad:
            source = x
        if source is None or out is x or out.requires_grad:
            return out
        if not out.is_floating_point():
            self._remember(out, source)
            return out
        self._replaced.add(name)
        return through(out, source)

    def _remember(self, out: torch.Tensor, source: torch.Tensor) -> None:
        self._made_of[id(out)] = (out, source)
