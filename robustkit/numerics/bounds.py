"""The box of valid inputs."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Batch, clip

__all__ = ["Bounds", "BoundsLike", "as_bounds"]


@dataclass(frozen=True)
class Bounds:
    """The lowest and highest value a valid input may hold, in input units.

    Raises:
        BadInput: Not finite, or the lower bound is not below the upper one.

    >>> Bounds(0, 255).width
    255.0
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        try:
            lower, upper = float(self.lower), float(self.upper)
        except (TypeError, ValueError):
            lower = upper = math.nan
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise BadInput(
                f"bounds must be two finite numbers, lower < upper; got "
                f"({self.lower!r}, {self.upper!r})"
            )
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @property
    def width(self) -> float:
        """Upper minus lower bound, in input units."""
        return self.upper - self.lower

    def rounded_to(self, dtype: Any) -> "Bounds":
        """The box of inputs of a float dtype, whose ends are numbers of it.

        Single precision has another number for 0.1, a larger one, and inputs that are
        clipped to 0.1 hold that.

        Args:
            dtype: As NumPy takes it; for integers the bounds stay as they are.

        Raises:
            BadInput: Both ends are the same number of that dtype.

        >>> Bounds(0, 0.1).rounded_to("float32").upper
        0.10000000149011612
        """
        if np.dtype(dtype).kind != "f":
            return self
        ends = np.array([self.lower, self.upper]).astype(dtype)
        return Bounds(*ends.astype(np.float64).tolist())

    def clip(self, x: Batch, *, reuse: bool = False) -> Batch:
        """`x` with every value moved to the nearest valid one.

        With `reuse`, the memory of `x` may be taken for the result.
        """
        return clip(x, self.lower, self.upper, reuse=reuse)


BoundsLike: TypeAlias = Bounds | tuple[float, float]
"""What is read as bounds: them, or the lowest and highest value."""


def as_bounds(bounds: BoundsLike | None) -> Bounds:
    """Bounds, or a pair of numbers as bounds; None: (0, 1).

    Raises:
        BadInput: They are something else.

    >>> as_bounds((0, 255)).width
    255.0
    """
    if bounds is None:
        return Bounds()
    if isinstance(bounds, Bounds):
        return bounds
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        return Bounds(*bounds)
    raise BadInput(f"bounds must be two numbers (lower, upper); got {bounds!r}")
