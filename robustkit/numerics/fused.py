"""Arithmetic between two questions, compiled on request.

Plainly run, each operation is a call of some microseconds, reads what it works on from
memory and writes its result there. Compiled together they are one call and one pass
over the batch.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

from robustkit.numerics.padding import Padding, filled, first_rows
from robustkit.numerics.tensors import class_names

__all__ = ["compiler_missing", "compiles", "compiling", "fused", "is_building"]

P = ParamSpec("P")
R = TypeVar("R")

_Native: TypeAlias = Callable[..., Any]
"""From native arrays to a tuple of them."""

# Of one function: a run needs a few, so that many more are a mistake, and take minutes.
_MOST_PROGRAMS = 32
# In place of an argument that is data, and of a program that was never asked for.
_DATA = object()
_NOT_YET: Any = object()

# Compilers of torch hold tables for the whole process.
_BUILDING = threading.Lock()

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

    By torch's compiler or, on devices, `jax.jit`; other tensors are worked on plainly,
    and so is everything where the compiler fails, with a warning. The result is the
    same but for rounding. The first call for inputs of a shape takes seconds; then the
    number of samples may change. JAX compiles for few numbers (`Padding`), to which
    batches are filled up; a single sample of torch on a GPU is worked on plainly, since
    that is faster.

    Args:
        function: Takes its arguments by position. Tensors (n, ...), of whose rows i
            alone the rows i of the result are made; floats, which are data as well; and
            settings that can be hashed, such as norms, each of which is compiled for
            anew. Returns a tensor (n, ...), or a tuple of these. What its Python does
            must depend neither on what the tensors hold nor on how many samples there
            are, and it must write into none of its arguments but those that its callers
            give away.

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
        # Every step comes by here several times, with nothing of it at hand in the
        # cache, so that each call of Python's shows.
        data: list[Any] = []
        key: list[Hashable] = []
        example: Any = None
        for arg in args:
            kind = _KINDS.get(type(arg).__name__)
            if kind is not None:
                example, raw = arg, arg.raw
                data.append(raw)
                key.append(kind.layout(raw))
            elif isinstance(arg, float):
                data.append(arg)
                key.append(_DATA)
            else:
                # One and True are equal.
                key.append((type(arg), arg))
        if example is None or not _KINDS[type(example).__name__].pays(example.raw):
            return self._function(*args)
        known = tuple(key)
        try:
            program = self._programs.get(known, _NOT_YET)
            if program is _NOT_YET:
                program = self._built(known, args, data, type(example))
            if program is not None:
                return program(*data)
        except Exception as error:
            # Whatever a compiler stumbles over: the function itself still works, or
            # says what is wrong.
            self._programs[known] = None
            warnings.warn(
                f"'{self._function.__name__}' cannot be compiled and runs as it is, "
                f"which is slower ({_in_short(error)})",
                stacklevel=3,
            )
        return self._function(*args)

    def _built(
        self,
        key: Hashable,
        args: Sequence[Any],
        data: list[Any],
        wrap: Callable[[Any], Any],
    ) -> _Native | None:
        names = _KINDS.keys()
        # Not the data itself, which would be kept for as long as the program is.
        settings = [
            _DATA if type(arg).__name__ in names or isinstance(arg, float) else arg
            for arg in args
        ]
        alone = False

        def native(*raws: Any) -> tuple[Any, ...]:
            nonlocal alone
            values = iter(raws)
            given = [wrap(next(values)) if s is _DATA else s for s in settings]
            # What it calls is compiled as a part of it.
            with compiling(False):
                out = self._function(*given)
            alone = not isinstance(out, tuple)
            return tuple(part.raw for part in ((out,) if alone else out))

        with _BUILDING:
            if key in self._programs:
                # Another thread was faster.
                return self._programs[key]
            if len(self._programs) >= _MOST_PROGRAMS:
                raise RuntimeError(f"it was compiled {_MOST_PROGRAMS} times already")
            with _quiet():
                program = _KINDS[wrap.__name__].build(native, data)

            def wrapped(*values: Any) -> Any:
                out = program(*values)
                return wrap(out[0]) if alone else tuple(map(wrap, out))

            self._programs[key] = wrapped
            return wrapped


def _torch_layout(raw: Any) -> Hashable:
    last = not raw.is_contiguous() and _channels_last(raw)
    return raw.dtype, raw.device, raw.ndim, raw.shape[1:], last


class _Varies(Exception):
    """A program would be right for some numbers of samples only."""


def _torch_program(native: _Native, data: Sequence[Any]) -> _Native:
    if not all(isinstance(value, float) or value.is_cpu for value in data):
        return _guarded(native, data)
    try:
        return _unguarded(native, data)
    except _Varies:
        raise
    except Exception:
        # The insides of torch are others in other versions. What is wrong with the
        # function or the compiler comes out again, in the context of this error.
        return _guarded(native, data)


def _unguarded(native: _Native, data: Sequence[Any]) -> _Native:
    """A program that is called at once.

    What `torch.compile` returns looks at its arguments first, which `_Unit` has done
    already, and takes four times as long to call, some 0.2 ms between two passes of a
    network.
    """
    import torch
    from torch._dynamo.source import ConstantSource
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    examples = _examples(data)
    places = []
    for place, value in enumerate(examples):
        # Numbers of samples, which are one and the same, may change; nothing else.
        sizes = [DimDynamic.STATIC] * value.ndim
        if sizes:
            sizes[0] = DimDynamic.DUCK
        context: Any = StatelessSymbolicContext(
            dynamic_sizes=sizes,
            dynamic_strides=[DimDynamic.INFER_STRIDE] * value.ndim,
            constraint_sizes=[None] * value.ndim,
        )
        source = ConstantSource(f"argument_{place}")
        symbol = mode.from_tensor(value, symbolic_context=context, source=source)
        places.append(symbol)
    with torch.no_grad(), mode:
        # Followed by what its Python does, not by its source, which torch.compile reads
        # and which has too much in it that torch does not know.
        graph = make_fx(native)(*places)
        pure = torch.func.functionalize(graph)
        graph = make_fx(pure, decomposition_table=select_decomp_table())(*places)
        compiled: Any = compile_fx_inner(graph, places)
    # Not a matter of one sample or several, which torch takes for different anyway.
    if shapes.guards:
        raise _Varies("it does something else for other numbers of samples")
    compiled(examples)
    # What it does at its first call only is done; this is what is left, if known.
    call: Any = getattr(compiled, "current_callable", None) or compiled

    def program(*values: Any) -> Any:
        plain = [
            v
            if type(v) is torch.Tensor and v.is_contiguous() and not v.requires_grad
            else _laid_out(v)
            for v in values
        ]
        return call(plain)

    return program


def _guarded(native: _Native, data: Sequence[Any]) -> _Native:
    """A program of `torch.compile`."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = _examples(data)
    for example in examples:
        if example.ndim:
            torch._dynamo.mark_dynamic(example, 0)
    graph = make_fx(native, tracing_mode="symbolic")(*examples)
    compiled = torch.compile(graph, fullgraph=True)
    compiled(*examples)
    # Views, since torch would compile anew for a tensor that is given twice.
    return lambda *values: compiled(*(_laid_out(value).detach() for value in values))


def _examples(data: Sequence[Any]) -> list[Any]:
    """Tensors like the arguments; of several samples, since one is a special case."""
    import torch

    examples = []
    for value in map(_laid_out, data):
        rows = [max(16, count) for count in value.shape[:1]]
        example = value.new_zeros((*rows, *value.shape[1:]))
        last = not value.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        examples.append(example.contiguous(memory_format=layout))
    return examples


def _laid_out(value: Any) -> Any:
    """An argument as a tensor, in one of the two layouts that programs are made for."""
    import torch

    if isinstance(value, float):
        # Four times faster than torch's own.
        return torch.from_numpy(np.array(value))
    if value.requires_grad:
        value = value.detach()
    if value.is_contiguous() or _channels_last(value):
        return value
    return value.contiguous()


def _channels_last(value: Any) -> bool:
    import torch

    layout = torch.channels_last
    return bool(value.ndim == 4 and value.is_contiguous(memory_format=layout))


def _jax_layout(_: Any) -> Hashable:
    # JAX tells them apart itself.
    return _DATA


def _jax_program(native: _Native, data: Sequence[Any]) -> _Native:
    import jax

    compiled, padding = jax.jit(native), Padding()

    def program(*values: Any) -> Any:
        count = next(v.shape[0] for v in values if not isinstance(v, float))
        size = padding.size(count)
        out = compiled(
            *(v if isinstance(v, float) else filled(v, size) for v in values)
        )
        return tuple(first_rows(part, count) for part in out)

    return program


@dataclass(frozen=True)
class _Kind:
    """How one framework compiles.

    Attributes:
        layout: Of an array, what a program is made for.
        build: From a function of native arrays, and an example of these, its program.
        pays: Whether it does for so many samples, of which one tensor is given.
    """

    layout: Callable[[Any], Hashable]
    build: Callable[[_Native, Sequence[Any]], _Native]
    pays: Callable[[Any], bool]


# To find a guarded program takes longer than the calls that one sample saves.
_TORCH = _Kind(_torch_layout, _torch_program, lambda x: x.is_cpu or x.shape[:1] != (1,))
_JAX = _Kind(_jax_layout, _jax_program, lambda _: True)
_KINDS = {
    **dict.fromkeys(class_names("torch"), _TORCH),
    **dict.fromkeys(class_names("jax"), _JAX),
}
"""By the names of tensors' classes."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what compilers warn of, which is about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'it does not say why'}"
