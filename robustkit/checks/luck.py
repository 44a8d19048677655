"""What chance alone may do, with so few samples."""

from scipy.special import bdtrc, betaincinv

from robustkit.numerics.tensors import Array

__all__ = ["LUCK", "at_least", "by_luck"]

LUCK = 0.01
"""Of McNemar's test: what is not called chance any more."""

_CONFIDENCE = 0.95


def by_luck(one: Array, other: Array) -> float:
    """McNemar's exact test: how likely chance favours `one` over `other` like this."""
    favour, against = int((one & ~other).sum()), int((other & ~one).sum())
    if favour == 0:
        return 1.0
    return float(bdtrc(favour - 1, favour + against, 0.5))


def at_least(count: int, total: int) -> float:
    """The lower end of a proportion's exact one-sided interval."""
    if count == 0:
        return 0.0
    return float(betaincinv(count, total - count + 1, 1 - _CONFIDENCE))
