"""JAX functions."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from robustkit.arguments import as_function
from robustkit.errors import BadInput, MissingPackage, in_one_line
from robustkit.models.base import Access, Model, NoGradient, PullBack, native_name
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.padding import Padding, filled, first_rows
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, native

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise MissingPackage("jax", "jax", "a JAX model") from error

__all__ = ["JaxModel"]

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)

# What JAX says of callbacks, of loops of unknown length, and of other operations.
_NO_DERIVATIVE = re.compile(
    "do not support JVP|Reverse-mode differentiation does not work|"
    "Differentiation rule for .* not implemented"
)

# In what JAX writes of a program.
_ADDRESS = re.compile("0x[0-9a-f]+")


class JaxModel(Model):
    """A function from a JAX batch to logits, compiled.

    Batches are filled up, by repeating their last row, to the largest batch seen or to
    a quarter, a sixteenth or a 64th of it, so that samples leaving the batch compile it
    four times at most; growing batches compile it for powers of two. A function that
    cannot be compiled, because its Python depends on values, runs as it is, with a
    warning; so does one whose Python is random or remembers something, as compiled it
    would answer as it did the first time for good. Whether it is, tracing it twice
    tells.

    Args:
        function: (n, ...) to logits (n, classes), or to an object with such `.logits`;
            row i must depend on row i of its input only.
        bounds: Of valid inputs, in input units.
        name: For people.

    Raises:
        BadInput: It is no function.

    >>> model = JaxModel(lambda x: x @ jnp.ones((4, 3)))
    >>> model.logits(model.to_tensor(np.zeros((2, 4), np.float32))).shape
    (2, 3)
    """

    access = Access.GRADIENT

    def __init__(
        self,
        function: Callable[..., Any],
        bounds: BoundsLike | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.bounds = as_bounds(bounds)
        self.name = name or native_name(function)
        self._function = as_function(function, "the model")
        self._compiles, self._traced = True, False
        self._padding = Padding()
        self._compiled_scores = jax.jit(self._scores)
        self._compiled_linearisation = jax.jit(self._linearisation)

    def logits(self, x: Batch) -> Tensor:
        out = self._ask(self._compiled_scores, self._scores, self._point(x))
        return as_tensor(first_rows(out, x.shape[0]))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        point = self._point(x)
        try:
            # The way back is data to JAX: one compiled function returns it and
            # another one takes it, without tracing the model again.
            with self._differentiating():
                logits, way_back = self._ask(
                    self._compiled_linearisation, self._linearisation, point
                )
        except jax.errors.TracerArrayConversionError as error:
            raise NoGradient(
                f"the model '{self.name}' leaves JAX on the way (it converts its input "
                "to NumPy), so it has no gradients; use a score- or decision-based "
                "attack"
            ) from error
        apply = _compiled_pull_back if self._compiles else _pull_back

        def pull_back(slopes: Tensor) -> Batch:
            with self._differentiating():
                gradient = apply(way_back, _filled(slopes, point.shape[0]))
            return as_tensor(first_rows(gradient, x.shape[0]))

        return as_tensor(first_rows(logits, x.shape[0])), pull_back

    def to_tensor(self, x: Array) -> Batch:
        # Not asarray: it may share memory that the caller writes to later.
        return as_tensor(jnp.array(x))

    def program(self, x: Array) -> Any:
        """The operations (a jaxpr) that answer inputs (n, ...) of this shape."""
        return jax.make_jaxpr(self._call)(jnp.asarray(x)).jaxpr

    def _call(self, x: jax.Array) -> jax.Array:
        out = self._function(x)
        out = getattr(out, "logits", out)
        if not isinstance(out, jax.Array | np.ndarray):
            raise BadInput(
                f"the model '{self.name}' returned a {type(out).__name__}; expected a "
                "JAX array of logits (n, classes)"
            )
        if out.dtype.kind == "c":
            raise BadInput(
                f"the model '{self.name}' returned values of dtype {out.dtype}; "
                "expected numbers, one per class"
            )
        if out.shape[:1] != x.shape[:1]:
            raise BadInput(
                f"the model '{self.name}' returned the shape {out.shape} for inputs of "
                f"shape {x.shape}; expected one row of logits for each input"
            )
        return jnp.asarray(out)

    def _scores(self, x: jax.Array) -> jax.Array:
        return self._call(x).astype(x.dtype)

    def _linearisation(self, x: jax.Array) -> Any:
        return jax.vjp(self._differentiable_scores, x)

    def _differentiable_scores(self, x: jax.Array) -> jax.Array:
        out = self._call(x)
        if not jnp.issubdtype(out.dtype, jnp.inexact):
            raise NoGradient(
                f"the model '{self.name}' returns {out.dtype}, which has no gradients; "
                "use a score- or decision-based attack"
            )
        return out.astype(x.dtype)

    def _ask(
        self, compiled: Callable[..., Any], plain: Callable[..., Any], x: jax.Array
    ) -> Any:
        if self._compiles:
            try:
                if self._traced or self._is_fixed(x):
                    self._traced = True
                    return compiled(x)
                trouble = (
                    "must not be compiled by JAX, since it is another one each time "
                    "that its Python runs,"
                )
                hint = "randomness of jax.random, from a key, can be compiled"
            except _UNTRACEABLE as error:
                trouble = f"cannot be compiled by JAX ({type(error).__name__})"
                hint = "jax.jit(model) shows where its Python depends on values"
            self._compiles = False
            warnings.warn(
                f"the model '{self.name}' {trouble} and runs uncompiled, which is "
                f"slow; {hint}",
                stacklevel=4,
            )
        return plain(x)

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, NotImplementedError) as error:
            if not _NO_DERIVATIVE.search(str(error)):
                raise
            raise NoGradient(
                f"JAX cannot differentiate the model '{self.name}' "
                f"({in_one_line(error)}); use a score- or decision-based attack"
            ) from error

    def _is_fixed(self, x: jax.Array) -> bool:
        """Whether the function comes to the same operations and constants twice."""
        # New functions, since JAX would know an old one again.
        one, other = (jax.make_jaxpr(lambda x: self._call(x))(x) for _ in range(2))
        texts = (_ADDRESS.sub("", str(program)) for program in (one, other))
        return next(texts) == next(texts) and all(map(_same, one.consts, other.consts))

    def _point(self, x: Batch) -> jax.Array:
        count = x.shape[0]
        filling = self._compiles and count > 0
        return _filled(x, self._padding.size(count) if filling else count)


def _filled(x: Tensor, size: int) -> jax.Array:
    raw: jax.Array = native(x).raw if x.shape[0] == size else filled(x.raw, size)
    return raw


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def _pull_back(way_back: Callable[..., Any], slopes: jax.Array) -> jax.Array:
    gradient: jax.Array = way_back(slopes)[0]
    return gradient


_compiled_pull_back = jax.jit(_pull_back)
