"""The nearest adversarial of each sample over all attacks, and whose it is."""

from dataclasses import dataclass

import numpy as np

from robustkit.engine.attack import edge
from robustkit.evaluation.curve import Curve
from robustkit.evaluation.results import Results
from robustkit.numerics.tensors import Array

__all__ = ["Contribution", "Envelope", "envelope"]


@dataclass(frozen=True)
class Contribution:
    """What one attack adds to the others.

    Attributes:
        attack: Its name.
        nearest: At how many samples no attack is nearer; ties count for all.
        alone: At how many of them all others are farther.
        without: The median distance of the samples attacked, were it left out, in norm
            units; infinite where most would then have no adversarial.
    """

    attack: str
    nearest: int
    alone: int
    without: float


@dataclass(frozen=True)
class Envelope:
    """The distances of all attacks on the samples that they attacked.

    Attributes:
        nearest: (m,) the least of each sample, ascending; infinite where there is none.
        distance: By attack: (m,) its own, infinite where it found nothing.
        contributions: One for each attack.
        median: Of `nearest`.
    """

    nearest: Array
    distance: dict[str, Array]
    contributions: tuple[Contribution, ...]
    median: float


def envelope(results: Results, norm: str) -> Envelope:
    """The attacks of a run held against each other, sample by sample.

    Distances that differ by rounding only are alike. Samples that are adversarial from
    the start are left out, and those that an interrupted run has not finished;
    unknown distances count as infinite here, since no attack is credited with them.

    >>> import robustkit as rk
    >>> run = rk.evaluate("digits", "digits", samples=5, attacks=["fmn", "ddn"],
    ...                   norm="l2")
    >>> found = envelope(run, "l2")
    >>> sum(c.alone for c in found.contributions) <= len(found.nearest) <= 5
    True
    """
    names = results.attacks(norm)
    every = np.full((len(names), len(results.index)), np.inf)
    for place, name in enumerate(names):
        every[place] = np.nan_to_num(
            results.distances(norm, name), nan=np.inf, posinf=np.inf
        )
    every = every[:, results.finished(norm) & (results.distances(norm) != 0)]
    nearest = every.min(axis=0, initial=np.inf)
    order = np.argsort(nearest, kind="stable")
    every, nearest = every[:, order], nearest[order]
    contributions = []
    for place, name in enumerate(names):
        others = np.delete(every, place, axis=0).min(axis=0, initial=np.inf)
        own = every[place]
        found = np.isfinite(own)
        contributions.append(
            Contribution(
                attack=name,
                nearest=int((found & (own <= edge(others))).sum()),
                alone=int((found & (edge(own) < others)).sum()),
                without=Curve(others).quantile(0.5),
            )
        )
    return Envelope(
        nearest=nearest,
        distance=dict(zip(names, every, strict=True)),
        contributions=tuple(contributions),
        median=Curve(nearest).quantile(0.5),
    )
