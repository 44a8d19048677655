"""What numbers that a caller gives must be."""

import math
import operator
from typing import Any

from robustkit.errors import BadInput

__all__ = ["as_number", "as_seed", "as_whole"]


def as_number(value: Any, what: str, least: float | None = None) -> float:
    """A number; infinity is one.

    Args:
        value: Of any type that is one.
        what: It is, for the message.
        least: What it must be at least; None: it may be any.

    Raises:
        BadInput: It is something else, or less.

    >>> as_number(0.5, "the share", least=0)
    0.5
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise BadInput(f"{what} must be a number; got {value!r}")
    if least is not None and number < least:
        raise BadInput(f"{what} must be at least {least}; got {number:g}")
    return number


def as_whole(value: Any, what: str, least: int | None = None) -> int:
    """A whole number.

    Args:
        value: Of any type that is one.
        what: It is, for the message.
        least: What it must be at least; None: it may be any.

    Raises:
        BadInput: It is something else, or less.

    >>> as_whole(3, "the number of samples", least=1)
    3
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BadInput(f"{what} must be a whole number; got {value!r}")
    number = operator.index(value)
    if least is not None and number < least:
        raise BadInput(f"{what} must be at least {least}; got {number}")
    return number


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
