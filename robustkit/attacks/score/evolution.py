"""A separable evolution strategy that walks down the radius."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.frequencies import Subspace, low_frequencies
from robustkit.numerics.tensors import (
    Array,
    PerSample,
    Tensor,
    expand,
    like,
    maximum,
    minimum,
    stack_columns,
    take,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Evolution"]

# By this share of itself the radius falls at least after a success, or else grows.
_CHANGE = 0.05


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        mean: (n, ...) of the distribution, coefficients in units of the radius.
        spread: (n, ...) its standard deviations.
        radius: (n,) of the ball that points are drawn into, in norm units.
        margin: (n,) of the original.
    """

    mean: Tensor
    spread: Tensor
    radius: PerSample
    margin: PerSample


@dataclass(frozen=True)
class Evolution(Attack[State]):
    """Draw perturbations, go towards those with the lowest margin, shrink the ball.

    A normal distribution with a mean and one standard deviation per coefficient, each
    sample its own, follows the natural gradient of the ranks of the margins. Drawn
    perturbations are projected on a ball. It shrinks below every adversarial found, to
    where the margins say that the boundary is, and grows again while there is none. All
    of a step's questions are asked at once.

    Args:
        steps: How many; `population` questions each, and 1 about the original.
        population: How many perturbations are drawn per step; in pairs of opposites.
        frequencies: The share of each side's that are searched; 1: all.
        spread: First standard deviation, as a share of what a perturbation of the size
            of the ball has.
        rate: Learning rate of the mean.

    Source:
        The strategy: Schaul, Glasmachers, Schmidhuber: High Dimensions and Heavy Tails
        for Natural Evolution Strategies, GECCO 2011 (separable NES). As an attack this
        project's, kin to Ilyas, Engstrom, Athalye, Lin, ICML 2018.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", norm="l2", samples=4,
    ...     attacks={"evolution": Evolution(steps=30)})
    >>> bool((results.distance < 3).all())
    True
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "population forwards"
    source: ClassVar[str] = "Schaul et al., GECCO 2011; as an attack this project's"
    positive: ClassVar[tuple[str, ...]] = (
        "spread",
        "rate",
    )

    steps: int = 250
    population: int = 20
    frequencies: float = 0.25
    spread: float = 0.5
    rate: float = 1.0

    def init(self, p: Problem) -> State:
        space = self._space(p)
        zero = like(p.x, np.zeros((p.size, *space.inner))).astype(p.x.dtype)
        radius = where(p.ledger.found, p.ledger.distance, p.largest / 4)
        return State(zero, zero + self.spread, radius, p.score(p.x).margin)

    def step(self, p: Problem, s: State, t: int) -> State:
        space, half = self._space(p), self.population // 2
        draw = p.rng(t).normal((half, *space.inner))
        draws = stack_columns([draw, -draw])
        spread, mean = s.spread.expand_dims(1), s.mean.expand_dims(1)
        points = self._points(p, mean + spread * draws, s.radius)
        before = p.ledger.distance
        margin = p.probe_scores(points)
        weight = like(p.x, _utilities(to_numpy(margin))).astype(p.x.dtype)
        weight = weight.reshape((*weight.shape, *(1,) * len(space.inner)))
        mean = s.mean + self.rate * s.spread * (weight * draws).sum(axis=1)
        rate = (3 + math.log(space.size)) / (5 * math.sqrt(space.size))
        growth = (weight * (draws.square() - 1)).sum(axis=1)
        spread = s.spread * (rate / 2 * growth).exp()
        best = p.ledger.distance
        # Where a straight line from the original to the lowest margin crosses zero.
        lowest = margin.min(axis=1)
        known = maximum(s.margin, lowest) < math.inf
        here, lowest = where(known, s.margin, 0.0), where(known, lowest, 0.0)
        crossing = s.radius * here / nonzero(here - lowest)
        shrunk = minimum(best, s.radius) * (1 - _CHANGE)
        shrunk = minimum(maximum(crossing, shrunk / 4), shrunk)
        grown = minimum(s.radius * (1 + _CHANGE), minimum(best, p.largest))
        grown = where(p.ledger.found, grown, minimum(2 * s.radius, p.largest))
        radius = where(best < before, shrunk, grown)
        return State(mean, spread, radius, s.margin)

    def within(self, budget: int) -> Self:
        """As many whole populations as there is room for beside the first question."""
        population = min(self.population, max((budget - 1) // 2 * 2, 2))
        steps = max((budget - 1) // population, 1)
        return replace(self, population=population, steps=steps)

    def check(self, p: Problem) -> None:
        super().check(p)
        if self.population < 2 or self.population % 2:
            raise BadInput(f"Evolution needs an even population; got {self.population}")
        self._space(p)

    def _space(self, p: Problem) -> Subspace:
        return low_frequencies(tuple(p.x.shape[1:]), self.frequencies)

    def _points(self, p: Problem, coefficients: Tensor, radius: PerSample) -> Tensor:
        """(n, population, ...) on the ball, of (n, population, *inner) coefficients."""
        rows = np.repeat(np.arange(p.size), self.population)
        x, radius = take(p.x, rows), take(radius, rows)
        images = self._space(p).images(coefficients).reshape(x.shape)
        # So large that the projection, not their length, decides on their size.
        delta = images * expand(4 * radius / nonzero(p.norm(images)), images)
        delta = p.norm.project_box(delta, radius, take(p.low, rows), take(p.high, rows))
        return (x + delta).reshape((p.size, self.population, *p.x.shape[1:]))


def _utilities(margin: Array) -> Array:
    """(n, k) weights by rank, the lowest margin's the highest; each row sums to 0.

    Equal margins share theirs, so that a plateau leads nowhere.
    """
    count = margin.shape[1]
    rank = np.argsort(np.argsort(margin, axis=1, kind="stable"), axis=1)
    raw = np.maximum(0.0, math.log(count / 2 + 1) - np.log(rank + 1.0))
    weights = raw / raw.sum(axis=1, keepdims=True) - 1 / count
    ordered = np.sort(margin, axis=1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        group = np.unique(margin[row], return_inverse=True)[1]
        shared = np.bincount(group, weights[row]) / np.bincount(group)
        weights[row] = shared[group]
    return np.asarray(weights)
