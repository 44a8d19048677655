"""The default attack for decisions at L2: a compass needle at the boundary."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.probing import (
    Draw,
    across,
    cross,
    estimate_normal,
    follow,
    semicircle,
    steps_for,
    unit,
)
from robustkit.attacks.decision.strengths import of_frequencies, of_pixels
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import (
    ROUGH,
    approach,
    bisect,
    drawn,
    starting_point,
    unspent,
)
from robustkit.models.base import Access
from robustkit.numerics.frequencies import low_frequencies
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    choose,
    expand,
    full,
    like,
    magnitude,
    maximum,
    minimum,
    plus,
    take,
    times,
    to_numpy,
    where,
)

__all__ = ["Compass"]

# What probes are made of: the lowest frequencies, as a share of each side's; or all of
# them, each as strong as the perturbation is there (None), or all alike.
_SHARES = (0.25, 0.5, None, 1.0)
# In place of an untried kind's gain; kinds are tried first in these steps.
_UNTRIED = np.inf
_FIRST = (0, 2, 4, 12)
# The lift grows or shrinks by at most this logarithm in a step, from the least on, and
# begins anew beyond the most.
_LIFTING, _LEAST_LIFT, _MOST_LIFT = 1.0, 1e-3, 0.5
# Smooth noises to start from: the shares of their frequencies.
_SMOOTH = (0.08, 0.15, 0.25)
_SLOPE, _LEAST_SLOPE = 0.3, 1e-3
# To this share of the probes' size starts are bisected.
_FINE = 1e-2
# So often a descent is looked at; it is given up where the distance has lately fallen
# by less than this logarithm, or by less than half of what it is behind the best known.
_CHECK, _STUCK = 6, 0.005
# Perturbations to choose another start from, and where their random numbers are.
_OTHERS, _APART = 5, 2**32
# So many steps each start is tried, and one more start for so many questions.
_TRIAL, _QUESTIONS = 4, 2500


@dataclass(frozen=True)
class Descent:
    """Where one descent stands.

    Attributes:
        delta: (n, ...) adversarial, at the boundary but for the gap.
        gap: (n,) the share of its length by which it may be too long.
        lift: (n,) by which share of the perturbation beyond it probes are centred.
        slope: (n,) of the last move around the circle.
        gain: (n, kinds) of each kind of probes: how much the logarithm of the distance
            fell for each question, the last time.
        age: (n,) steps since the start.
        mark: (n,) the distance when it was last looked at whether this goes anywhere.
    """

    delta: Batch
    gap: PerSample
    lift: PerSample
    slope: PerSample
    gain: Tensor
    age: PerSample
    mark: PerSample

    def or_nearer(self, other: Self) -> Self:
        """The nearer one of each sample."""
        nearer = magnitude(self.delta, 2) <= magnitude(other.delta, 2)
        return choose(nearer, self, other)


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        now: The descent that goes on.
        ahead: Of the starts tried before it, the descent that came nearest.
        contested: (n,) whose start is noise, so that others are tried.
    """

    now: Descent
    ahead: Descent
    contested: Mask


@dataclass(frozen=True)
class Compass(Attack[State]):
    """Turn the perturbation towards the boundary's normal, as far as decisions show it.

    At the nearest point of the boundary the perturbation is the normal. Elsewhere what
    is missing is the normal's part across the perturbation, so probes are across it
    too: their answers then tell of that part only, however small it is beside the rest.
    Their sum, in which what several have in common counts once, spans a plane with the
    perturbation, and in it the boundary is followed around the circle on which it would
    be nearest if it were flat, from the move of the step before on, to a share of the
    move.

    Probes are smooth or not, whichever kind has brought a sample more per question. All
    are stronger where the perturbation is, because the model looks there. Of those that
    have every frequency, one kind gives each the perturbation's own strength, so the
    number of directions worth asking about shrinks while the search goes on; the other
    gives all the same, since late in the search the fine parts are what is missing.

    Where the boundary bends, probes from a point on it see one side only, and tell
    little. So they are centred beyond it, where about half of them are adversarial: the
    share of the step before says whether that is further out or nearer.

    Which start leads to a near point is not told by how near it is, but by the first
    steps from there: so two are tried for four steps each, and the nearer one goes on.
    Where that goes no further, or cannot catch up with the nearest adversarial known,
    it begins anew from another start, of the pool or smooth noise.

    Args:
        steps: How many; each costs the probes and about 6 questions on the circle.
        tries: How many starting points of each kind to try (see `starting_point`).
            Without a pool or starts of the problem, as many smooth noises, which cost
            one question each where they are no nearer than what is known.
        probes: In the first step; the square root of the step's number times as many
            later.
        size: Of the probes, as a share of the distance. Large, so that they see what
            the boundary is like on the scale of the next move.
        tolerance: Of the move around the circle, as a share of it.
        rivals: How many other starts are tried before one goes on; with `within` at
            most one for each 2,500 questions. None where there is a pool, or starts of
            the problem, or something was known before: those are better than noise.

    Source:
        The circle: Reza, Rahmati, Wu, Dai: CGBA, ICCV 2023. The probes: ours.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.Compass(steps=5), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    cost: ClassVar[str] = "20 forwards and more"
    source: ClassVar[str] = "ours, with the circle of Reza et al., ICCV 2023"
    positive: ClassVar[tuple[str, ...]] = ("probes", "size")

    steps: int = 60
    tries: int = 20
    probes: int = 12
    size: float = 0.25
    tolerance: float = 0.2
    rivals: int = 1

    def init(self, p: Problem) -> State:
        alone = p.starts is None and p.pool is None
        contested = like(p.x, alone & ~to_numpy(p.ledger.found))
        start, found = starting_point(p, p.rng(-1), self.tries)
        if alone:
            rng = p.rng(-1)
            for number in range(self.tries):
                approach(p, p.x + _smooth_noise(p, rng, number), tolerance=2 * ROUGH)
            start, found = p.ledger.best * 1.0, p.ledger.found
        first = self._begun(p, start - p.x, found)
        return State(first, first, contested)

    def step(self, p: Problem, s: State, t: int) -> State:
        now, ahead = s.now, s.ahead
        trial, place = divmod(t, _TRIAL)
        if place == 0 and 0 < trial <= self.rivals + 1:
            # Without a rival, what is behind may be a descent that was given up.
            now = ahead = choose(s.contested, now.or_nearer(ahead), now)
            if trial <= self.rivals:
                now = self._anew(p, now, s.contested, t, self.tries)
        now = self._renewed(p, now, t)
        return State(self._moved(p, now, t), ahead, s.contested)

    def _moved(self, p: Problem, s: Descent, t: int) -> Descent:
        gains, rows = to_numpy(s.gain).copy(), np.arange(p.size)
        ages = to_numpy(s.age)
        kinds = _chosen(gains, ages)
        asked = p.ledger.forwards.copy()
        distance = magnitude(s.delta, 2)
        normal = estimate_normal(
            p,
            p.clip(p.x + s.delta * expand(1 - s.gap / 2 + s.lift, s.delta)),
            distance * self.size,
            (self.probes * np.sqrt(ages + 1)).astype(np.int64),
            p.rng(t),
            _shaped(p, s, kinds),
            kinds,
            decorrelated=True,
        )
        path = semicircle(p, s.delta, normal.direction)
        old = to_numpy(s.slope)
        slope = follow(p, path, old, self.tolerance)
        moved = slope > 0
        delta = where(like(p.x, moved), path(rows, slope) - p.x, s.delta)
        # How much shorter the first point of the circle known not to be adversarial is.
        beyond = (1 + slope**2) / (1 + (slope * (1 + self.tolerance)) ** 2)
        gap = np.maximum(1 - np.sqrt(beyond), 1e-4)

        shorter = to_numpy((distance / magnitude(delta, 2)).log())
        gains[rows, kinds] = shorter / np.maximum(p.ledger.forwards - asked, 1)
        return Descent(
            delta,
            like(p.x, np.where(moved, gap, to_numpy(s.gap))),
            _lifted(s.lift, normal.share),
            like(p.x, np.where(moved, slope, np.maximum(old / 4, _LEAST_SLOPE))),
            like(p.x, gains),
            s.age + 1,
            s.mark,
        )

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        # Where it begins anew, steps cost no more than at first.
        steps = steps_for(budget, lambda _: self.probes)
        rivals = min(self.rivals, budget // _QUESTIONS)
        return dataclasses.replace(self, steps=steps, rivals=rivals)

    def _begun(self, p: Problem, delta: Batch, found: Mask) -> Descent:
        """Descents at their starts, which are known to `ROUGH`."""
        delta = _refined(p, delta, found, self.size)
        return Descent(
            delta,
            full(p.x, self.size * _FINE),
            full(p.x, 0.0),
            full(p.x, _SLOPE),
            like(p.x, np.full((p.size, len(_SHARES)), _UNTRIED)),
            full(p.x, 0.0),
            magnitude(delta, 2),
        )

    def _anew(self, p: Problem, s: Descent, asked: Mask, t: int, tries: int) -> Descent:
        """From another start where that is asked for and there is one."""
        if not bool(asked.any()):
            return s
        delta, found = _another_start(p, asked, t, tries)
        return choose(found, self._begun(p, delta, found), s)

    def _renewed(self, p: Problem, s: Descent, t: int) -> Descent:
        """Another one where no more is to be hoped of it."""
        age = to_numpy(s.age)
        distance = magnitude(s.delta, 2)
        gain = to_numpy((s.mark / distance).log())
        behind = to_numpy((distance / p.ledger.distance).log())
        due = (age > 0) & (age % _CHECK == 0)
        slow = due & (gain < np.maximum(_STUCK, behind / 2))
        mark = where(like(p.x, due), distance, s.mark)
        s = dataclasses.replace(s, mark=mark)
        return self._anew(p, s, like(p.x, slow), t, _OTHERS)


def _chosen(gains: Array, ages: Array) -> Array:
    """(n,) the kind of probes that has brought most, each being tried in its turn.

    What a kind brought long ago is more than it would bring now, since all gains fall,
    so no kind is forgotten.
    """
    due = np.asarray(_FIRST) <= ages[:, None]
    return np.asarray(np.where(due, gains, -np.inf).argmax(axis=1))


def _lifted(lift: PerSample, share: PerSample) -> PerSample:
    """More where few probes were adversarial, less where many were.

    None where more did not help: there the other end of what is adversarial was passed.
    """
    lift = where(share < 0.5, maximum(lift, _LEAST_LIFT), lift)
    lift = lift * ((1 - 2 * share) * _LIFTING).exp()
    return where(lift > _MOST_LIFT, 0.0, lift)


def _refined(p: Problem, delta: Batch, found: Mask, size: float) -> Batch:
    """Perturbations known to `ROUGH` brought so near to the boundary as probes need."""

    def path(rows: Array, share: Array) -> Batch:
        shorter = take(delta, rows) * expand(like(p.x, share), delta)
        return p.clip(plus(shorter, take(p.x, rows), reuse=True))

    one = to_numpy(full(p.x, 1.0))
    near = one * (1 - 2 * ROUGH)
    share = cross(p, path, one, near, to_numpy(found), size * _FINE)
    return delta * expand(like(p.x, share), delta)


def _another_start(p: Problem, asked: Mask, t: int, tries: int) -> tuple[Batch, Mask]:
    """The nearest of some perturbations chosen at random, and who has one."""
    rng = p.rng(t + _APART)
    delta, radius, found = p.x.zeros_like(), full(p.x, math.inf), full(p.x, 1.0) < 0
    for number in range(tries):
        if p.pool is None or not p.pool.shape[0]:
            far = p.bounds.clip(p.x + _smooth_noise(p, rng, number)) - p.x
        else:
            far = drawn(p, p.pool, rng) - p.x
        reach = minimum(radius * (1 - 2 * ROUGH), p.norm(far))
        point = p.bounds.clip(p.x + p.norm.project(far, reach))
        moved = p.norm(point - p.x) > 0
        passed = p.decide(point, asked.logical_and(moved).logical_and(unspent(p)))
        nearer = bisect(p, point, passed, ROUGH) - p.x
        delta = where(passed, nearer, delta)
        radius = where(passed, p.norm(nearer), radius)
        found = found.logical_or(passed)
    return delta, found


def _smooth_noise(p: Problem, rng: Rng, number: int) -> Batch:
    """(n, ...) of few frequencies, and of two values in every other turn."""
    space = low_frequencies(tuple(p.x.shape[1:]), _SMOOTH[number % len(_SMOOTH)])
    noise = space.images(rng.normal(space.inner))
    if number % 2:
        two: Batch = noise.sign() * (p.bounds.width / 2)
        return two
    length = 0.3 * p.bounds.width * math.sqrt(math.prod(p.x.shape[1:]))
    return unit(noise) * length


def _shaped(p: Problem, s: Descent, kinds: Array) -> Draw:
    """Probes of each sample's kind, across its perturbation."""
    shape = tuple(p.x.shape[1:])
    pixels, along = like(p.x, of_pixels(s.delta)), unit(s.delta)

    def draw(rng: Rng, number: int, rows: Array) -> Tensor:
        share = _SHARES[kinds[rows[0]]]
        space = low_frequencies(shape, share or 1.0)
        drawn = rng.signs((number, *space.inner))
        if share is None:
            strengths = like(p.x, of_frequencies(take(s.delta, rows)))
            drawn = times(drawn, strengths, reuse=True)
        probes = times(space.images(drawn), take(pixels, rows), reuse=True)
        return across(probes, take(along, rows))

    return draw
