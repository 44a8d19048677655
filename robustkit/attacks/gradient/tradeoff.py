"""How much the margin weighs against the distance, found by several rounds."""

import math
from dataclasses import dataclass

import numpy as np

from robustkit.engine.problem import GradientAnswer
from robustkit.numerics.norms import L2
from robustkit.numerics.tensors import (
    Mask,
    PerSample,
    full,
    maximum,
    minimum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Tradeoff", "round_length"]


def round_length(steps: int, rounds: int) -> int:
    """Steps of each round; two at least, since the first asks about the original.

    >>> round_length(900, 9), round_length(9, 9)
    (100, 2)
    """
    return max(-(-steps // rounds), 2)


@dataclass(frozen=True)
class Tradeoff:
    """The weight of the present round, between one that failed and one that won.

    Attributes:
        weight: (n,) of the margin, per unit of the squared distance.
        lower: (n,) the largest that failed; zero before one did.
        upper: (n,) the least that won; infinite before one did.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE
        Symposium on Security and Privacy 2017, section VI-A.
    """

    weight: PerSample
    lower: PerSample
    upper: PerSample

    @classmethod
    def guess(cls, answer: GradientAnswer, width: float) -> "Tradeoff":
        """The weight which would bring a linear model to the boundary.

        Args:
            answer: About the originals, with the margin's gradient.
            width: Of the bounds; distances are measured in it.
        """
        steep = nonzero(L2().dual(answer.gradient) * width)
        with np.errstate(over="ignore"):
            weight = 2 * answer.margin / steep / steep
        weight = where(weight > 0, minimum(weight, 1e10), 1.0)
        return cls(weight, full(weight, 0.0), full(weight, math.inf))

    def after(self, won: Mask) -> "Tradeoff":
        """The middle of the two ends; ten times more before a weight has won."""
        upper = where(won, minimum(self.upper, self.weight), self.upper)
        lower = where(won, self.lower, maximum(self.lower, self.weight))
        middle = (lower + minimum(upper, 1e10)) / 2
        weight = where(upper < math.inf, middle, minimum(10 * self.weight, 1e10))
        return Tradeoff(weight, lower, upper)
