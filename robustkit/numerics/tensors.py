"""What eagerpy lacks or gets wrong, mended once for all four frameworks.

Everything above this layer speaks eagerpy tensors and the functions here. Attacks never
touch `.raw`, the framework's own tensor; adapters, and what is written for one
framework, do.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import eagerpy
import numpy as np
from eagerpy.astensor import astensor
from eagerpy.tensor.base import BaseTensor
from eagerpy.tensor.jax import JAXTensor
from eagerpy.tensor.numpy import NumPyTensor
from eagerpy.tensor.pytorch import PyTorchTensor
from eagerpy.tensor.tensor import Tensor

from robustkit.errors import BadInput, in_one_line

__all__ = [
    "Array",
    "Batch",
    "Mask",
    "PerSample",
    "Tensor",
    "any_nan",
    "any_true",
    "as_array",
    "as_tensor",
    "choose",
    "class_names",
    "clip",
    "cumulative_sum",
    "differentiate",
    "differs",
    "excess",
    "expand",
    "extent",
    "finite_or_zero",
    "flatten",
    "floor",
    "framework_of",
    "full",
    "highest",
    "inner_product",
    "is_symbolic",
    "just_below",
    "like",
    "magnitude",
    "matmul",
    "maximum",
    "minimum",
    "minus",
    "minus_rows",
    "native",
    "natively",
    "on_host",
    "plus",
    "plus_outer",
    "plus_times",
    "put",
    "put_rows",
    "reaches",
    "rounding",
    "section",
    "signed",
    "spread",
    "stack_columns",
    "stack_rows",
    "take",
    "times",
    "to_numpy",
    "together",
    "top",
    "total",
    "where",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Batch: TypeAlias = Tensor
"""(n, ...) floats; axis 0 is the sample axis."""
PerSample: TypeAlias = Tensor
"""(n,) floats."""
Mask: TypeAlias = Tensor
"""(n,) booleans."""

T = TypeVar("T")

# Numbers that Python goes through faster than NumPy is called.
_SMALL = 512
# Numbers that are copied in the time that Python takes to say so.
_LONG = 512
# Numbers that are written and read again without leaving a core.
_IN_CACHE = 2**16
# Numbers that NumPy's einsum sums at once.
_EINSUM_BUFFER = 8192


class _TorchTensor(PyTorchTensor):
    """eagerpy's tensor of torch, without detours on the way to `raw`.

    A step asks for it some seventy times, which is a twentieth of the time that a
    small network takes for a single sample.
    """

    __slots__ = ()
    # Where it is kept itself, in place of a property of a property.
    raw = vars(BaseTensor)["_raw"]

    def __init__(self, raw: Any) -> None:
        self._raw = raw


class _HostedTensor(NumPyTensor):
    """An array of JAX on a processor, lent to NumPy.

    JAX compiles each operation for each number of samples, a minute of it in a first
    run, and takes longer for what is compiled than NumPy does.
    """

    __slots__ = ()


def as_tensor(values: Any) -> Tensor:
    """The eagerpy tensor around a native array (or the tensor itself).

    What JAX holds on a processor is copied, and worked on by NumPy from there on;
    `native` leads back.

    Args:
        values: A torch, JAX, TensorFlow or NumPy array, or an eagerpy tensor.

    Raises:
        ValueError: `values` is none of these.
    """
    tensor: Tensor = astensor(values)
    if type(tensor) is PyTorchTensor:
        return _TorchTensor(tensor.raw)
    if type(tensor) is JAXTensor and _is_hosted(tensor.raw):
        return _HostedTensor(np.array(tensor.raw))
    return tensor


def native(x: Tensor) -> Tensor:
    """`x` as a tensor whose `.raw` is an array of its own framework.

    For functions that are written in it; the result is a copy where NumPy had it.
    """
    if type(x) is not _HostedTensor:
        return x
    import jax.numpy as jnp

    # Not asarray: it may share memory that is written to later.
    return JAXTensor(jnp.array(x.raw))


def natively(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What a function of tensors of their own framework returns."""
    return as_tensor(function(*map(native, tensors)))


def as_array(values: Any, name: str) -> Array:
    """Values of any framework, or nested lists, as one NumPy array.

    Those in bfloat16, which NumPy does not know, become float32.

    Args:
        values: What to convert.
        name: Of the values, for the message.

    Raises:
        BadInput: They have no common shape, or are no dense numbers.

    >>> as_array([[1, 2], [3, 4]], "x").shape
    (2, 2)
    """
    try:
        tensor = as_tensor(values)
    except ValueError:
        try:
            return np.asarray(values)
        except ValueError as error:
            raise BadInput(f"expected '{name}' as one array: {error}") from error
    known = not str(tensor.dtype).endswith("bfloat16")
    try:
        return to_numpy(tensor if known else tensor.float32())
    # Tensors of torch that are sparse, or hold no values.
    except (RuntimeError, TypeError) as error:
        raise BadInput(
            f"expected '{name}' as one array: {in_one_line(error)}"
        ) from error


def to_numpy(x: Tensor) -> Array:
    """A NumPy copy or view of `x`, detached, on the host."""
    if framework_of(x) == "torch":
        raw = x.raw.detach() if x.raw.requires_grad else x.raw
        return np.asarray(raw.numpy() if raw.is_cpu else raw.cpu().numpy())
    return np.asarray(x.numpy())


def together(*parts: PerSample) -> list[Array]:
    """As `to_numpy` of each, in one transfer where they lie on a device.

    Args:
        parts: (n,) each, of one dtype.
    """
    if framework_of(parts[0]) == "torch" and not on_host(parts[0]):
        import torch

        return list(to_numpy(as_tensor(torch.stack([part.raw for part in parts]))))
    return [to_numpy(part) for part in parts]


def like(reference: Tensor, values: Array) -> Tensor:
    """`values` in the framework and on the device of `reference`, dtype unchanged."""
    if on_host(reference):
        import torch

        # Many times faster than what eagerpy calls.
        return type(reference)(torch.from_numpy(np.ascontiguousarray(values)))
    return reference.from_numpy(np.ascontiguousarray(values))


def any_true(mask: Array) -> bool:
    """Whether any entry (n,) is true.

    Here and below small arrays are lists: they are asked in every step, and NumPy's own
    code for it takes longer to come from memory than Python to count.
    """
    return True in mask.tolist() if mask.size <= _SMALL else bool(mask.any())


def any_nan(values: Array) -> bool:
    """Whether any entry (n,) is no number."""
    if values.size <= _SMALL:
        return any(map(math.isnan, values.tolist()))
    return bool(np.isnan(values).any())


def extent(values: Array) -> tuple[float, float]:
    """The least and the largest entry (n,); infinity and minus infinity of none."""
    if values.size <= _SMALL:
        numbers = values.tolist()
        return min(numbers, default=math.inf), max(numbers, default=-math.inf)
    return float(values.min()), float(values.max())


def full(reference: Batch, value: float) -> PerSample:
    """One `value` per sample of `reference`, in its dtype."""
    return eagerpy.full(reference, (reference.shape[0],), value).astype(reference.dtype)


def flatten(x: Batch) -> Batch:
    """(n, ...) to (n, features); also right for n = 0."""
    if x.ndim == 2:
        return x
    count, *rest = x.shape
    return x.reshape((count, math.prod(rest)))


def expand(values: PerSample, x: Batch) -> Batch:
    """(n,) to (n, 1, ...), so that it broadcasts against `x`."""
    return values.reshape((-1,) + (1,) * (x.ndim - 1))


def where(mask: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    """`yes` where `mask` holds, else `no`; a (n,) mask spreads over the sample axes."""
    choices = [choice for choice in (yes, no) if not isinstance(choice, (int, float))]
    for choice in choices:
        if choice.ndim > mask.ndim:
            mask = expand(mask, choice)
    if choices and framework_of(mask) == "torch":
        # eagerpy would fill a tensor with the number first.
        import torch

        return type(mask)(torch.where(mask.raw, _raw(yes), _raw(no)))
    return eagerpy.where(mask, yes, no)


def minimum(x: Tensor, y: Tensor | float) -> Tensor:
    """The smaller of the two, element by element."""
    if framework_of(x) == "torch":
        if isinstance(y, (int, float)):
            return type(x)(x.raw.clamp(max=y))
        return type(x)(x.raw.minimum(y.raw))
    return eagerpy.minimum(x, y)


def maximum(x: Tensor, y: Tensor | float) -> Tensor:
    """The larger of the two, element by element."""
    if framework_of(x) == "torch":
        if isinstance(y, (int, float)):
            return type(x)(x.raw.clamp(min=y))
        return type(x)(x.raw.maximum(y.raw))
    return eagerpy.maximum(x, y)


def clip(
    x: Tensor, lower: Tensor | float, upper: Tensor | float, *, reuse: bool = False
) -> Tensor:
    """`x` limited to [lower, upper], whose shapes broadcast against it.

    With `reuse`, here and below, the memory of `x` may be taken for the result: new
    memory costs as much as the work on it.
    """
    if isinstance(lower, (int, float)) and isinstance(upper, (int, float)):
        if reuse and _reusable(x):
            return type(x)(x.raw.clamp_(lower, upper))
        return x.clip(lower, upper)
    tensors = isinstance(lower, Tensor) and isinstance(upper, Tensor)
    if tensors and framework_of(x) == "torch":
        import torch

        least, most = _raw(lower), _raw(upper)
        memory = x.raw if reuse and _reusable(x) else None
        if least.shape == most.shape == x.raw.shape:
            return type(x)(torch.clamp(x.raw, least, most, out=memory))
        # Twice as fast as one clamp where bounds broadcast.
        out = torch.maximum(x.raw, least, out=memory)
        return type(x)(torch.minimum(out, most, out=out if _reusable(x) else None))
    return minimum(maximum(x, lower), upper)


def plus(x: Tensor, y: Tensor, *, reuse: bool = False) -> Tensor:
    """The sum, in the shape of `x`."""
    if reuse and _reusable(x):
        return type(x)(x.raw.add_(y.raw))
    return x + y


def plus_times(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """The sum of `x` and `factor` times `y`, which may be infinite."""
    if framework_of(x) == "torch":
        return type(x)(x.raw.add(y.raw, alpha=factor))
    with np.errstate(over="ignore"):
        return x + y * factor


def minus(x: Tensor, y: Tensor, *, reuse: bool = False) -> Tensor:
    """The difference, in the shape of both; `reuse` takes the memory of `y`."""
    if reuse and _reusable(x):
        import torch

        return type(x)(torch.sub(x.raw, y.raw, out=y.raw))
    return x - y


def times(x: Tensor, y: Tensor | float, *, reuse: bool = False) -> Tensor:
    """The product, in the shape of `x`."""
    if reuse and _reusable(x):
        return type(x)(x.raw.mul_(_raw(y)))
    return x * y


def signed(x: Tensor, size: PerSample) -> Tensor:
    """A number of each sample's `size` with the sign of `x`; zero where that is."""
    size = expand(size, x)
    if framework_of(x) == "torch" and is_symbolic(x):
        import torch

        # Compiled, this takes half as long as a sign.
        lower = torch.where(x.raw < 0, -size.raw, 0.0)
        return type(x)(torch.where(x.raw > 0, size.raw, lower))
    return times(x.sign(), size, reuse=True)


def differs(x: Tensor, y: Tensor | float, *, reuse: bool = False) -> Tensor:
    """1 where the two differ, else 0, in the dtype of `x`.

    Numbers, here and below, because products are many times faster than choices by a
    mask.
    """
    if framework_of(x) == "torch":
        if is_symbolic(x):
            return type(x)((x.raw != _raw(y)).to(x.raw.dtype))
        import torch

        out = x.raw if reuse else torch.empty_like(x.raw)
        return type(x)(torch.ne(x.raw, _raw(y), out=out))
    return (x != y).astype(x.dtype)


def reaches(x: Tensor, y: Tensor | float) -> Tensor:
    """1 where x >= y, else 0, in the shape and dtype of `x`."""
    if framework_of(x) == "torch":
        if is_symbolic(x):
            return type(x)((x.raw >= _raw(y)).to(x.raw.dtype))
        import torch

        return type(x)(torch.ge(x.raw, _raw(y), out=torch.empty_like(x.raw)))
    return (x >= y).astype(x.dtype)


def excess(x: Tensor, level: PerSample) -> tuple[PerSample, PerSample]:
    """What of a matrix (n, m) lies above each row's level: its sum, and of how many."""
    if framework_of(x) == "torch":
        over = (x.raw - level.raw[:, None]).relu_()
        return type(x)(over.sum(dim=1)), type(x)(over.sign_().sum(dim=1))
    over = maximum(x - level.expand_dims(1), 0.0)
    return over.sum(axis=1), (over > 0).astype(x.dtype).sum(axis=1)


def total(x: Batch) -> PerSample:
    """The sum over all axes but the first."""
    return flatten(x).sum(axis=1)


def floor(x: Tensor) -> Tensor:
    """The largest integers that are not above the values."""
    if framework_of(x) == "torch":
        return type(x)(x.raw.floor())
    if framework_of(x) == "jax":
        import jax.numpy as jnp

        return type(x)(jnp.floor(x.raw))
    return like(x, np.floor(to_numpy(x)))


def inner_product(x: Batch, y: Batch) -> PerSample:
    """The inner product of each sample of `x` with that of `y`."""
    if framework_of(x) == "numpy" or on_host(x):
        # Twice as fast as a product and its sum.
        one, other = (to_numpy(flatten(part)) for part in (x, y))
        if one.shape[1] <= _EINSUM_BUFFER:
            return like(x, np.einsum("ij,ij->i", one, other))
        # Longer rows NumPy sums in parts that begin where the row before ended, so
        # that a row's rounding would depend on its place in the batch.
        rows = [np.einsum("j,j->", *pair) for pair in zip(one, other, strict=True)]
        return like(x, np.array(rows, dtype=np.result_type(one, other)))
    return total(x * y)


def magnitude(x: Batch, order: float) -> PerSample:
    """The vector norm of each sample of order 1, 2 or infinity."""
    flat = flatten(x)
    if flat.shape[1] == 0:
        return flat.sum(axis=1)
    if framework_of(x) == "torch":
        return type(x)(_torch_magnitude(flat, order))
    if order == 1:
        return flat.abs().sum(axis=1)
    if order == 2:
        return flat.square().sum(axis=1).sqrt()
    return flat.abs().max(axis=1)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """The products (n, a, c) of matrices (n, a, b) with others (n, b, c).

    Either may be one for all, (a, b) or (b, c). Each product by itself, so that no
    rounding depends on how many there are.
    """
    framework = framework_of(x)
    if framework == "torch":
        import torch

        count = x.shape[0] if x.ndim == 3 else y.shape[0]
        pair = (part.raw.expand(count, *part.shape[-2:]) for part in (x, y))
        return type(x)(torch.bmm(*pair))
    if framework == "tensorflow":
        import tensorflow as tf

        return type(x)(tf.matmul(x.raw, y.raw))
    # JAX would take another order of summation for another number.
    return like(x, to_numpy(x) @ to_numpy(y))


def plus_outer(
    x: Tensor, column: Tensor, row: Tensor, *, reuse: bool = False
) -> Tensor:
    """Matrices (n, a, b) plus the outer products of vectors (n, a) and (n, b)."""
    if reuse and _reusable(x):
        return type(x)(x.raw.addcmul_(column.raw[:, :, None], row.raw[:, None]))
    return x + column.expand_dims(2) * row.expand_dims(1)


def cumulative_sum(x: Tensor) -> Tensor:
    """The running sum along the last axis."""
    return x.cumsum(axis=-1)


def finite_or_zero(x: Tensor) -> Tensor:
    """`x` with every NaN and infinity replaced by zero."""
    if framework_of(x) == "torch" and not is_symbolic(x):
        # One broken value makes the sum no number, and a sum is cheap, except that a
        # device would have to be waited for.
        if on_host(x) and math.isfinite(x.raw.sum().item()):
            return x
        return type(x)(x.raw.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    return where(x.abs() < math.inf, x, 0.0)


def is_symbolic(x: Tensor) -> bool:
    """Whether `x` holds no numbers, but stands for those of later calls.

    Such are what `numerics.fused` compiles with: nothing can be decided by them.
    """
    if framework_of(x) == "jax":
        import jax

        return isinstance(x.raw, jax.core.Tracer)
    return hasattr(x.raw, "fake_mode")


def rounding(x: Tensor) -> float:
    """The gap between 1 and the next number that the dtype of `x` can hold."""
    return float(_limits(x).eps)


def just_below(x: Tensor) -> Tensor:
    """Numbers that are less than those of `x` by no more than rounding.

    Only minus infinity, and what is no number, stay.
    """
    limits = _limits(x)
    finite = minimum(x, float(limits.max))
    # Frameworks may take numbers below the least normal one for zero.
    size = maximum(finite.abs(), float(limits.tiny / limits.eps))
    return plus_times(finite, size, -float(limits.eps))


def top(x: Tensor, count: int) -> Tensor:
    """The `count` highest entries of each row of a matrix, descending."""
    if framework_of(x) == "numpy" or on_host(x):
        # Faster than torch's own selection, and eagerpy's is wrong for wide rows.
        rows, start = to_numpy(x), x.shape[1] - count
        if 4 * count < x.shape[1]:
            rows, start = np.partition(rows, start, axis=1)[:, start:], 0
        return like(x, np.sort(rows, axis=1)[:, start:][:, ::-1].copy())
    return highest(x, count)[0]


def highest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest entries of each row of a matrix, descending, and places."""
    wide = x.shape[1] > 256 and 4 * count < x.shape[1]
    if wide and on_host(x):
        # Several times faster than torch's own.
        start = x.shape[1] - count
        candidates = like(x, np.argpartition(to_numpy(x), start, axis=1)[:, start:])
        values = x.take_along_axis(candidates, axis=1)
        values, order = values.topk(count, sorted=True)
        return values, candidates.take_along_axis(order, axis=1)
    if framework_of(x) == "numpy":
        # eagerpy's own is wrong for wide rows.
        places = np.argsort(-x.raw, axis=1, kind="stable")[:, :count]
        return type(x)(np.take_along_axis(x.raw, places, axis=1)), type(x)(places)
    values, order = x.topk(count, sorted=True)
    return values, order


def spread(values: Tensor, places: Tensor, size: int) -> Tensor:
    """(n, size) zeros with the values (n, m) at their places (n, m), all different."""
    framework = framework_of(values)
    if framework == "torch":
        raw = values.raw.new_zeros((values.shape[0], size))
        return type(values)(raw.scatter_(1, places.raw, values.raw))
    rows = np.arange(values.shape[0])[:, None]
    if framework == "jax":
        import jax.numpy as jnp

        raw = jnp.zeros((values.shape[0], size), values.dtype)
        return type(values)(raw.at[rows, places.raw].set(values.raw))
    if framework == "tensorflow":
        import tensorflow as tf

        at = tf.cast(places.raw, tf.int64)
        row = tf.broadcast_to(tf.constant(rows, tf.int64), tf.shape(at))
        shape = tf.constant([values.shape[0], size], tf.int64)
        return type(values)(tf.scatter_nd(tf.stack([row, at], -1), values.raw, shape))
    raw = np.zeros((values.shape[0], size), values.dtype)
    raw[rows, places.raw] = values.raw
    return type(values)(raw)


def differentiate(
    function: Callable[..., PerSample], at: Tensor, *data: Tensor
) -> tuple[PerSample, Tensor]:
    """The values (n,) of a row-wise function of a matrix (n, m), and its slopes (n, m).

    By the tensor's own framework; on NumPy by central differences in double precision,
    which calls the function 2 m times more.

    Args:
        function: Of the matrix and the data, in their own framework.
        at: Where.
        data: What else it needs.
    """
    if type(at) is _HostedTensor:
        found = differentiate(function, *map(native, (at, *data)))
        return as_tensor(found[0]), as_tensor(found[1])
    if framework_of(at) == "torch":
        import torch

        with torch.enable_grad():
            raw = at.raw.detach().requires_grad_()
            values = function(type(at)(raw), *data)
            slopes = None
            if values.raw.requires_grad:
                whole = values.raw.sum()
                (slopes,) = torch.autograd.grad(whole, raw, allow_unused=True)
        slopes = torch.zeros_like(raw) if slopes is None else slopes
        return type(at)(values.raw.detach()), type(at)(slopes)
    if framework_of(at) == "jax":
        import jax

        values, back = jax.vjp(lambda raw: function(type(at)(raw), *data).raw, at.raw)
        return type(at)(values), type(at)(back(values * 0 + 1)[0])
    if framework_of(at) == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(at.raw)
            values = function(at, *data)
        slopes = tape.gradient(values.raw, at.raw, unconnected_gradients="zero")
        return values, type(at)(slopes)
    middle = at.raw.astype(np.float64)
    slopes = np.zeros_like(middle)
    # What is infinite, such as the score of a class that is ruled out, stays so.
    size = np.where(np.isfinite(middle), np.maximum(1.0, np.abs(middle)), 0.0)
    for column in range(middle.shape[1]):
        shift = np.zeros_like(middle)
        shift[:, column] = 1e-6 * size[:, column]
        above, below = as_tensor(middle + shift), as_tensor(middle - shift)
        with np.errstate(invalid="ignore"):
            rise = function(above, *data) - function(below, *data)
        run = 2 * shift[:, column]
        np.divide(rise.raw, run, out=slopes[:, column], where=run > 0)
    return function(at, *data), as_tensor(slopes.astype(at.dtype))


def stack_rows(parts: list[Tensor]) -> Tensor:
    """Batches one after the other, along the sample axis."""
    return parts[0] if len(parts) == 1 else eagerpy.concatenate(parts, axis=0)


def stack_columns(parts: list[Tensor]) -> Tensor:
    """Matrices (n, ...) side by side, along axis 1."""
    return eagerpy.concatenate(parts, axis=1)


def take(tree: T, rows: Array) -> T:
    """The given rows of every tensor in `tree`, a tensor or a dataclass holding some.

    Fields that hold no tensors are kept as they are, so a state or a criterion can
    carry settings beside its per-sample tensors.

    Args:
        tree: A tensor, a NumPy array, a tuple or a dataclass of these.
        rows: Indices along the sample axis.
    """
    if isinstance(tree, Tensor):
        return _take_rows(tree, rows)  # type: ignore[return-value]
    if isinstance(tree, np.ndarray):
        return tree[rows]  # type: ignore[return-value]
    if isinstance(tree, tuple):
        return type(tree)(take(part, rows) for part in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changes = {
            field.name: take(getattr(tree, field.name), rows)
            for field in dataclasses.fields(tree)
            if field.init
        }
        return dataclasses.replace(tree, **changes)
    return tree


def choose(mask: Mask, yes: T, no: T) -> T:
    """Each sample's row of one dataclass of tensors or of the other.

    Fields that hold no tensors are those of `yes`.
    """
    if isinstance(yes, Tensor) and isinstance(no, Tensor):
        return where(mask, yes, no)  # type: ignore[return-value]
    if dataclasses.is_dataclass(yes) and not isinstance(yes, type):
        changes = {
            field.name: choose(mask, getattr(yes, field.name), getattr(no, field.name))
            for field in dataclasses.fields(yes)
            if field.init
        }
        return dataclasses.replace(yes, **changes)
    return yes


def section(x: Batch, start: int, stop: int) -> Batch:
    """The rows from `start` to before `stop`, not copied where that can be."""
    if framework_of(x) == "jax":
        return take(x, np.arange(start, stop))
    return x[start:stop]


def put(x: Batch, rows: Array, values: Batch, *, reuse: bool = False) -> Batch:
    """`x` with the given rows replaced by `values`.

    With `reuse`, the memory of `x` may be taken for the result; else it is a copy.
    """
    if framework_of(x) == "torch":
        out = x if reuse else type(x)(x.raw.clone())
        if on_host(x):
            # Twice as fast as torch's own.
            to_numpy(out)[rows] = to_numpy(values)
        else:
            out.raw.index_copy_(0, _index(x, rows), values.raw)
        return out
    if framework_of(x) == "jax":
        return type(x)(x.raw.at[rows].set(values.raw))
    if framework_of(x) == "tensorflow":
        import tensorflow as tf

        return type(x)(tf.tensor_scatter_nd_update(x.raw, rows[:, None], values.raw))
    raw = x.raw if reuse else x.raw.copy()
    raw[rows] = values.raw
    return type(x)(raw)


def put_rows(
    x: Batch, rows: Array, values: Batch, which: Array, *, reuse: bool = False
) -> Batch:
    """`x` with the given rows replaced by those of `values` that `which` names.

    With `reuse`, the memory of `x` may be taken for the result; else it is a copy.
    """
    if not _rows_are_long(x):
        return put(x, rows, take(values, which), reuse=reuse)
    out = x if reuse else 1.0 * x
    # One by one they are copied once, and not gathered first.
    into, source = _memory(out), _memory(values)
    for row, place in zip(rows.tolist(), which.tolist(), strict=True):
        into[row] = source[place]
    return out


def minus_rows(x: Batch, rows: Array, y: Batch, others: Array) -> Batch:
    """Of the given rows (m,) of `x`, the difference from those (m,) of `y`."""
    if framework_of(x) == "jax":
        # Which would compile anew for every number of rows.
        return like(x, to_numpy(x)[rows] - to_numpy(y)[others])
    if not _rows_are_long(x):
        return minus(take(x, rows), take(y, others), reuse=True)
    one, other = _memory(x), _memory(y)
    out = np.empty((len(rows), *one.shape[1:]), one.dtype)
    for place, pair in enumerate(zip(rows.tolist(), others.tolist(), strict=True)):
        np.subtract(one[pair[0]], other[pair[1]], out=out[place])
    return like(x, out)


def _limits(x: Tensor) -> Any:
    return np.finfo(np.float64 if "64" in str(x.dtype) else np.float32)


def _memory(x: Tensor) -> Array:
    """Of a tensor of NumPy, or of torch on the host; written there, it is in `x`."""
    return np.asarray(x.raw) if framework_of(x) == "numpy" else to_numpy(x)


def _rows_are_long(x: Batch) -> bool:
    """Whether rows are handled faster one by one, while they are at hand in the cache.

    In memory that NumPy may look at and write to.
    """
    if framework_of(x) == "numpy":
        return bool(x.raw.size >= _LONG * x.shape[0])
    return on_host(x) and x.raw.numel() >= _LONG * x.shape[0]


def _torch_magnitude(x: Tensor, order: float) -> Any:
    """Each the fastest there is in torch, by a factor of 1.5 to 10."""
    import torch

    flat = x.raw
    if order == 1:
        return flat.abs().sum(dim=1)
    if order == 2:
        return torch.linalg.vector_norm(flat, dim=1)
    # What is compiled must not depend on how many samples there are.
    if is_symbolic(x) or flat.numel() <= _IN_CACHE:
        return flat.abs().amax(dim=1)
    return torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))


def _take_rows(x: Tensor, rows: Array) -> Tensor:
    framework = framework_of(x)
    if framework == "tensorflow":
        import tensorflow as tf

        return type(x)(tf.gather(x.raw, rows))
    if framework == "torch":
        return type(x)(x.raw.index_select(0, _index(x, rows)))
    if framework == "jax" and not is_symbolic(x):
        # Which would compile anew for every number of rows.
        return like(x, to_numpy(x)[rows])
    return type(x)(x.raw[rows])


def _index(x: Tensor, rows: Array) -> Any:
    """`rows` as something the framework of `x` accepts as an index."""
    if framework_of(x) != "torch":
        return rows
    import torch

    index = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
    raw = x.raw
    return index if raw.is_cpu else index.to(raw.device)


def _is_hosted(raw: Any) -> bool:
    """Whether an array of JAX holds numbers, on processors only."""
    import jax

    if isinstance(raw, jax.core.Tracer):
        return False
    return all(device.platform == "cpu" for device in raw.devices())


def _reusable(x: Tensor) -> bool:
    # What is compiled plans its memory itself.
    return framework_of(x) == "torch" and not is_symbolic(x)


def on_host(x: Tensor) -> bool:
    """Whether NumPy can look at a tensor of torch where it lies.

    Not where torch notes what becomes of it, since it would lose sight of that.
    """
    if framework_of(x) != "torch" or not x.raw.is_cpu or x.raw.requires_grad:
        return False
    return not is_symbolic(x)


def _raw(x: Tensor | float) -> Any:
    # Here and above not isinstance of Tensor, an abstract class, which is slow.
    return x if isinstance(x, (int, float)) else x.raw


def framework_of(x: Tensor) -> str:
    """By what `x` is worked on: "torch", "jax", "tensorflow" or "numpy"."""
    return _FRAMEWORKS[type(x).__name__]


def class_names(framework: str) -> list[str]:
    """Those of the classes of a framework's tensors."""
    return [name for name, whose in _FRAMEWORKS.items() if whose == framework]


_FRAMEWORKS = {
    "PyTorchTensor": "torch",
    "_TorchTensor": "torch",
    "JAXTensor": "jax",
    "TensorFlowTensor": "tensorflow",
    "NumPyTensor": "numpy",
    "_HostedTensor": "numpy",
}
