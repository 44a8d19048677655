"""Whether a model differentiates something by itself while it answers."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from robustkit.models.base import Model
from robustkit.numerics.tensors import Array

__all__ = ["differentiations", "inner_gradients"]


@contextlib.contextmanager
def inner_gradients() -> Iterator[list[int]]:
    """Counts how often torch differentiates something in the block.

    Whoever calls it: a torch module, or a function of arrays that uses torch inside.
    """
    count = [0]
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield count
        return
    # What torch.autograd.grad, Tensor.backward and torch.func.grad all end in, so that
    # a name which a model imported before is counted as well.
    holder: Any = torch.autograd
    names: tuple[str, ...] = ("_engine_run_backward",)
    if not hasattr(holder, names[0]):
        names = ("grad", "backward")
    originals = {name: getattr(holder, name) for name in names}

    def counting(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            return original(*arguments, **options)

        return call

    for name, original in originals.items():
        setattr(holder, name, counting(original))
    try:
        yield count
    finally:
        for name, original in originals.items():
            setattr(holder, name, original)


def differentiations(model: Model, x: Array) -> int:
    """How often the program of a JAX model differentiates something.

    The function is traced, not run: JAX names each operation of a derivative after the
    transformation it comes from, also of one that was made long before.

    Args:
        model: Of any framework, and in any wrapper.
        x: (n, ...) inputs.

    Returns:
        The number of such transformations; 0 for other models, and for functions that
        cannot be traced.
    """
    while model.wraps is not None:
        model = model.wraps
    jax: Any = sys.modules.get("jax")
    if jax is None or not hasattr(model, "program"):
        return 0
    try:
        program = model.program(x[:1])
    except Exception:
        # A function whose Python depends on values; it is told of elsewhere.
        return 0
    return len({stack for stack in _stacks(program) if "transpose(" in stack})


def _stacks(program: Any) -> Iterator[str]:
    """By which transformations each operation came about, all the way in."""
    for operation in program.eqns:
        yield str(operation.source_info.name_stack)
        for value in operation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _stacks(inner)
