"""Arithmetic between two questions, compiled on request.

Plainly run, each operation is a call of some microseconds, reads what it works on from
memory and writes its result there. Compiled together they are one call and one pass
over the batch.
"""

import functools
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from robustkit.numerics.padding import Padding, filled, first_rows
from robustkit.numerics.tensors import Tensor, framework_of

__all__ = ["compiler_missing", "compiles", "compiling", "fused", "is_building"]

P = ParamSpec("P")
R = TypeVar("R")

_Native: TypeAlias = Callable[..., Any]
"""From native arrays to one, or to a tuple of them."""

# Of one function: a run needs a few, so that many more are a mistake, and take minutes.
_MOST_PROGRAMS = 32
# In place of an argument that is data.
_DATA = object()

_COMPILING: ContextVar[bool] = ContextVar("robustkit_compiling", default=False)


@contextmanager
def compiling(wanted: bool = True) -> Iterator[None]:
    """Whether `fused` functions are compiled in the block; outside they are not."""
    token = _COMPILING.set(wanted)
    try:
        yield
    finally:
        _COMPILING.reset(token)


def compiles() -> bool:
    """Whether `fused` functions are compiled here."""
    return _COMPILING.get()


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """A function of tensors, compiled where `compiling` says so.

    By `torch.compile` or `jax.jit`; tensors of other frameworks are worked on plainly,
    and so is everything where the compiler fails, with a warning. The result is the
    same but for rounding. The first call for inputs of a shape takes seconds; then the
    number of samples may change. JAX compiles for few numbers (`Padding`), to which
    batches are filled up; a single sample of torch is worked on plainly, since that is
    faster.

    Args:
        function: Takes its arguments by position. Tensors (n, ...), of whose rows i
            alone the rows i of the result are made; floats, which are data as well; and
            settings that can be hashed, such as norms, each of which is compiled for
            anew. Returns a tensor (n, ...), or a tuple of these. What its Python does
            must not depend on what the tensors hold, and it must write into none of
            its arguments but those that its callers give away.

    >>> import numpy as np
    >>> from robustkit.numerics.tensors import as_tensor
    >>> @fused
    ... def half(x):
    ...     return x * 0.5
    >>> with compiling():
    ...     half(as_tensor(np.array([[3.0]]))).item()
    1.5
    """
    unit = _Unit(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs or not _COMPILING.get():
            return function(*args, **kwargs)
        return cast(R, unit(*args))

    return call


@functools.cache
def compiler_missing() -> str | None:
    """Why torch cannot compile on this machine; None: it can.

    Found out by trying, which takes seconds the first time.
    """
    import torch

    def probe(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    try:
        with _quiet():
            torch.compile(probe, dynamic=True)(torch.zeros(2))
    except Exception as error:
        return _in_short(error)
    return None


def is_building(code: object) -> bool:
    """Whether the code of a frame compiles something, and should not be cut off."""
    return code in (_Unit.__call__.__code__, compiler_missing.__wrapped__.__code__)


class _Unit:
    """A function, and what it was compiled to for which kinds of arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        # None where that failed.
        self._programs: dict[Hashable, _Native | None] = {}

    def __call__(self, *args: Any) -> Any:
        data: list[Any] = []
        settings: list[Any] = []
        example: Tensor | None = None
        for arg in args:
            if isinstance(arg, Tensor):
                example = arg if example is None else example
                data.append(arg.raw)
                settings.append(_DATA)
            elif isinstance(arg, float):
                data.append(arg)
                settings.append(_DATA)
            else:
                settings.append(arg)
        kind = None if example is None else _KINDS.get(framework_of(example))
        if example is None or kind is None or example.shape[0] < kind.least:
            return self._function(*args)
        key = (*settings, *kind.shapes(data))
        wrap = type(example)
        try:
            if key not in self._programs:
                self._programs[key] = self._built(kind.build, wrap, settings, data)
            program = self._programs[key]
            if program is not None:
                out = program(*data)
                return tuple(map(wrap, out)) if isinstance(out, tuple) else wrap(out)
        except Exception as error:
            # Whatever a compiler stumbles over: the function itself still works, or
            # says what is wrong.
            self._programs[key] = None
            warnings.warn(
                f"'{self._function.__name__}' cannot be compiled and runs as it is, "
                f"which is slower ({_in_short(error)})",
                stacklevel=3,
            )
        return self._function(*args)

    def _built(
        self,
        build: Callable[[_Native, Sequence[Any]], _Native],
        wrap: Callable[[Any], Any],
        settings: Sequence[Any],
        data: list[Any],
    ) -> _Native:
        if len(self._programs) >= _MOST_PROGRAMS:
            raise RuntimeError(f"it was compiled {_MOST_PROGRAMS} times already")

        def native(*raws: Any) -> Any:
            values = iter(raws)
            args = [wrap(next(values)) if s is _DATA else s for s in settings]
            # What it calls is compiled as a part of it.
            with compiling(False):
                out = self._function(*args)
            return tuple(o.raw for o in out) if isinstance(out, tuple) else out.raw

        with _quiet():
            return build(native, data)


def _torch_shapes(data: Sequence[Any]) -> list[Hashable]:
    shapes: list[Hashable] = []
    for value in data:
        if not isinstance(value, float):
            shapes += (value.dtype, value.device, value.shape[1:])
    return shapes


def _torch_program(native: _Native, data: Sequence[Any]) -> _Native:
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    def tensors(values: Sequence[Any]) -> list[torch.Tensor]:
        # Views: torch would compile anew for a tensor that is given twice, or whose
        # gradient is asked for.
        return [
            torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v.detach()
            for v in values
        ]

    examples = tensors(data)
    for example in examples:
        if example.ndim:
            torch._dynamo.mark_dynamic(example, 0)
    # Followed by what its Python does, not by its source, which torch.compile reads
    # and which has too much in it that torch does not know.
    graph = make_fx(native, tracing_mode="symbolic")(*examples)
    compiled = torch.compile(graph, fullgraph=True)
    compiled(*examples)
    return lambda *values: compiled(*tensors(values))


def _jax_shapes(data: Sequence[Any]) -> list[Hashable]:
    # JAX tells shapes apart itself.
    return []


def _jax_program(native: _Native, data: Sequence[Any]) -> _Native:
    import jax

    compiled, padding = jax.jit(native), Padding()

    def program(*values: Any) -> Any:
        count = next(v.shape[0] for v in values if not isinstance(v, float))
        size = padding.size(count)
        out = compiled(
            *(v if isinstance(v, float) else filled(v, size) for v in values)
        )
        if isinstance(out, tuple):
            return tuple(first_rows(part, count) for part in out)
        return first_rows(out, count)

    return program


@dataclass(frozen=True)
class _Kind:
    """How one framework compiles.

    Attributes:
        shapes: Of data, what a program is for.
        build: From a function of native arrays, and an example of these, its program.
        least: Samples for which that pays.
    """

    shapes: Callable[[Sequence[Any]], list[Hashable]]
    build: Callable[[_Native, Sequence[Any]], _Native]
    least: int


_KINDS = {
    # To find the program takes longer than the calls that a single sample saves.
    "torch": _Kind(_torch_shapes, _torch_program, least=2),
    "jax": _Kind(_jax_shapes, _jax_program, least=1),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what compilers warn of, which is about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'it does not say why'}"
