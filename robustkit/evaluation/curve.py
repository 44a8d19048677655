"""Minimum-perturbation curves, and how sure we may be of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from robustkit.arguments import as_number
from robustkit.engine.attack import edge
from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["CONFIDENCE", "Curve", "Interval", "proportion"]

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    lower: float
    upper: float


def proportion(successes: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """A share with its exact interval (Clopper and Pearson, Biometrika 1934).

    >>> proportion(10, 10).estimate
    1.0
    >>> round(proportion(10, 10).lower, 3)
    0.692
    """
    if total == 0:
        return Interval(math.nan, 0.0, 1.0)
    tail = (1 - confidence) / 2
    misses = total - successes
    lower = betaincinv(successes, misses + 1, tail) if successes else 0.0
    upper = betaincinv(successes + 1, misses, 1 - tail) if misses else 1.0
    return Interval(successes / total, float(lower), float(upper))


@dataclass(frozen=True)
class Curve:
    """Robust accuracy as a function of the perturbation size.

    Args:
        distance: (n,) the smallest adversarial perturbation of each sample, in norm
            units: 0 where the sample is adversarial from the start, infinite where
            none was found, NaN where that could not be settled. The last are counted
            as not robust at any size, so that no robustness is claimed for them.
    """

    distance: Array

    @classmethod
    def of_attack(cls, distance: Array) -> "Curve":
        """The curve of one attack's distances (n,), as above.

        An attack is credited with no adversarial where it ended in an error, so what
        is unknown is infinite here.

        >>> Curve.of_attack(np.array([0.1, np.nan, np.nan])).quantile(0.5)
        inf
        """
        return cls(np.nan_to_num(distance, nan=np.inf, posinf=np.inf))

    def robust_accuracy(self, epsilon: float) -> Interval:
        """The share of samples without an adversarial of size at most `epsilon`.

        With its exact (Clopper-Pearson) interval, which holds at this one size. A point
        on the edge of the ball in single precision counts as inside (`edge`).

        Args:
            epsilon: In norm units, not negative.
        """
        limit = edge(as_number(epsilon, "epsilon", least=0))
        return proportion(int((self.distance > limit).sum()), len(self.distance))

    def steps(self) -> tuple[Array, Array]:
        """The curve's corners: sizes ascending from 0, and the accuracy from each on.

        Returns:
            sizes (m,), in norm units, and accuracies (m,).
        """
        finite = self.distance[np.isfinite(self.distance)]
        sizes = np.unique(np.concatenate([np.zeros(1), finite]))
        ordered = np.sort(np.nan_to_num(self.distance, nan=-1.0, posinf=np.inf))
        above = len(ordered) - np.searchsorted(ordered, sizes, side="right")
        return sizes, above / max(len(ordered), 1)

    def band(self, confidence: float = CONFIDENCE) -> float:
        """Half the height of the band that holds the whole true curve at once.

        Dvoretzky-Kiefer-Wolfowitz with Massart's constant (Annals of Probability
        1990): sqrt(log(2 / (1 - confidence)) / 2n).
        """
        return math.sqrt(
            math.log(2 / (1 - confidence)) / (2 * max(len(self.distance), 1))
        )

    def quantile(self, share: float) -> float:
        """The distance that a `share` of all samples does not pass; may be infinite.

        Args:
            share: Between 0 and 1.
        """
        if not 0 <= as_number(share, "the share") <= 1:
            raise BadInput(f"the share must be between 0 and 1; got {share}")
        if len(self.distance) == 0:
            return math.nan
        ordered = np.sort(np.nan_to_num(self.distance, nan=0.0, posinf=np.inf))
        place = max(math.ceil(share * len(ordered)) - 1, 0)
        return float(ordered[place])
