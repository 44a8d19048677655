"""How a step size or a rate changes over an attack."""

import math

__all__ = ["cosine", "geometric"]


def cosine(progress: float, first: float, last: float) -> float:
    """From `first` at progress 0 to `last` at progress 1 along half a cosine.

    >>> cosine(0.0, 1.0, 0.1), cosine(1.0, 1.0, 0.1)
    (1.0, 0.1)
    """
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def geometric(progress: float, first: float, last: float) -> float:
    """From `first` at progress 0 to `last` at progress 1 by a constant ratio."""
    return first * math.pow(last / first, progress)
