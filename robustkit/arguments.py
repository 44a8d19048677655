"""What numbers and functions that a caller gives must be."""

import math
import operator
from numbers import Real
from typing import Any, TypeVar

from robustkit.errors import BadInput

__all__ = ["as_flag", "as_function", "as_number", "as_seconds", "as_seed", "as_whole"]

F = TypeVar("F")


def as_flag(value: Any, what: str) -> bool:
    """True or False, also as NumPy has them.

    Args:
        value: One of them.
        what: It is, for the message.

    Raises:
        BadInput: It is something else, which Python would take for one.

    >>> as_flag(True, "stop")
    True
    """
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise BadInput(f"{what} must be True or False; got {value!r}")
    return plain


def as_function(value: F, what: str) -> F:
    """What can be called.

    Args:
        value: A function, or any other object that can be called.
        what: It is, for the message.

    Raises:
        BadInput: It cannot be called.

    >>> as_function(len, "the model")
    <built-in function len>
    """
    if not callable(value):
        raise BadInput(f"{what} must be a function; got {value!r}")
    return value


def as_whole(value: Any, what: str, least: int | None = None) -> int:
    """A whole number.

    Args:
        value: Of any type that is one, also an array that holds nothing else.
        what: It is, for the message.
        least: What it must be at least; None: it may be any.

    Raises:
        BadInput: It is something else, or less.

    >>> as_whole(3, "the number of samples", least=1)
    3
    """
    try:
        plain = _plain(value)
        if isinstance(plain, bool):
            raise TypeError
        number = operator.index(plain)
    except TypeError:
        # Arrays and fractions in tensors seem to be indices until they are asked.
        raise BadInput(f"{what} must be a whole number; got {value!r}") from None
    if least is not None and number < least:
        raise BadInput(f"{what} must be at least {least}; got {number}")
    return number


def as_number(
    value: Any, what: str, *, least: float | None = None, above: float | None = None
) -> float:
    """A finite number.

    Args:
        value: Of any type that is one, also an array that holds nothing else.
        what: It is, for the message.
        least: What it must be at least; None: it may be any.
        above: What it must be more than; None: it may be any.

    Raises:
        BadInput: It is something else, or less.

    >>> as_number(0.5, "epsilon", above=0)
    0.5
    """
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadInput(f"{what} must be a number; got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise BadInput(f"{what} must be a finite number; got {value!r}")
    if above is not None and number <= above:
        raise BadInput(f"{what} must be more than {above:g}; got {number:g}")
    if least is not None and number < least:
        raise BadInput(f"{what} must be at least {least:g}; got {number:g}")
    return number


def as_seconds(value: Any, what: str) -> float:
    """A time above zero; infinite: it never ends.

    Args:
        value: Of any type that is a number.
        what: It is, for the message.

    Raises:
        BadInput: It is something else.

    >>> as_seconds(60, "the timeout")
    60.0
    """
    if isinstance(value, float) and value == math.inf:
        return value
    return as_number(value, what, above=0)


def as_seed(value: Any) -> int:
    """A whole number that randomness can be a function of.

    Raises:
        BadInput: It is none.

    >>> as_seed(7)
    7
    """
    seed = as_whole(value, "the seed")
    if not 0 <= seed < 2**63:
        raise BadInput(f"the seed must be between 0 and 2**63 - 1; got {seed}")
    return seed


def _plain(value: Any) -> Any:
    """What an array holds that holds nothing else; else the value."""
    alone = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if alone else value
