"""The power law of the adversarial error at small perturbations."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincinv

from robustkit.arguments import as_seed
from robustkit.evaluation.curve import CONFIDENCE, Interval
from robustkit.numerics.tensors import Array

__all__ = ["PowerLaw", "fit_power_law"]

_SHARE = 0.25
_FEWEST = 10
# Of the samples below the limit, so many are enough to doubt a law.
_MOST_TESTED = 2000
_DRAWS = 999


@dataclass(frozen=True)
class PowerLaw:
    """The error that an adversary adds grows as share * (epsilon / limit) ** exponent.

    Attributes:
        exponent: With its interval.
        limit: The size up to which the law was fitted, in norm units.
        share: Of all samples: those with an adversarial up to there that are not
            adversarial from the start.
        samples: How many distances the exponent rests on.
        p_value: Of these distances being from such a law.
    """

    exponent: Interval
    limit: float
    share: float
    samples: int
    p_value: float

    def error(self, epsilon: Array) -> Array:
        """The share of samples that the law gives at sizes (m,)."""
        return np.asarray(self.share * (epsilon / self.limit) ** self.exponent.estimate)


def fit_power_law(
    distance: Array, *, confidence: float = CONFIDENCE, seed: int = 0
) -> PowerLaw | None:
    """Fit a power law to the nearest quarter of the adversarials.

    Below the limit, the logarithms of limit / distance are exponential with the rate
    `exponent`; given the limit, itself the next distance, they are independent. So the
    exponent is the maximum-likelihood one (Hill, Annals of Statistics 1975), its
    interval is exact, and the test of the law is Lilliefors's for the exponential
    distribution, by simulation. The quarter is chosen before the data are seen.

    Args:
        distance: (n,) as in `Curve`.
        confidence: Of the interval.
        seed: Of the simulation.

    Returns:
        None where there are fewer than 40 adversarials that are not adversarial from
        the start, or where so many distances are alike that there is no such law, as
        with numbers of pixels.

    Source:
        The law: Cubuk, Zoph, Schoenholz, Le: Intriguing properties of adversarial
        examples, 2017.

    >>> distance = np.random.default_rng(0).random(1000) ** (1 / 2)
    >>> law = fit_power_law(distance)
    >>> law.exponent.lower < 2 < law.exponent.upper
    True
    """
    positive = np.sort(distance[np.isfinite(distance) & (distance > 0)])
    count = int(_SHARE * len(positive))
    if count < _FEWEST:
        return None
    limit, below = float(positive[count]), positive[:count]
    if len(np.unique(below)) < 0.9 * count or below[-1] == limit:
        return None
    logs = np.log(limit / below)
    total, tail = float(logs.sum()), (1 - confidence) / 2
    low, high = (float(gammaincinv(count, share)) / total for share in (tail, 1 - tail))
    return PowerLaw(
        exponent=Interval(count / total, low, high),
        limit=limit,
        share=(count + 1) / len(distance),
        samples=count,
        p_value=_exponential(logs, np.random.default_rng(as_seed(seed))),
    )


def _exponential(values: Array, rng: np.random.Generator) -> float:
    """P-value of Lilliefors's test that values (m,) are exponential."""
    if len(values) > _MOST_TESTED:
        values = rng.choice(values, _MOST_TESTED, replace=False)
    drawn = rng.exponential(size=(_DRAWS, len(values)))
    farther = int((_off(drawn) >= _off(values[None])).sum())
    return (1 + farther) / (1 + _DRAWS)


def _off(values: Array) -> Array:
    """(k,) the greatest difference of each row to the exponential of its mean."""
    count = values.shape[1]
    below = -np.expm1(-np.sort(values) / values.mean(axis=1, keepdims=True))
    steps = np.arange(count + 1) / count
    off: Array = np.maximum(steps[1:] - below, below - steps[:-1]).max(axis=1)
    return off
