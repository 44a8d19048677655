"""The default attack for decisions at L2: a compass needle at the boundary."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.descents import (
    Descent,
    begun,
    moved,
    smooth_noise,
    start,
)
from robustkit.attacks.decision.probing import steps_for
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import (
    ROUGH,
    bisect,
    drawn,
    unspent,
)
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    choose,
    full,
    like,
    magnitude,
    minimum,
    to_numpy,
    where,
)

__all__ = ["Compass"]

# So often a descent is looked at; it is given up where the distance has lately fallen
# by less than this logarithm, or by less than half of what it is behind the best known.
_CHECK, _STUCK = 6, 0.005
# Perturbations to choose another start from, and where their random numbers are.
_OTHERS, _APART = 5, 2**32
# So many steps each start is tried, and one more start for so many questions.
_TRIAL, _QUESTIONS = 4, 2500


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
        near, found = start(p, self.tries)
        first = begun(p, near - p.x, found, self.size)
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
        now = moved(
            p,
            now,
            t,
            probes=self.probes,
            size=self.size,
            tolerance=self.tolerance,
        )
        return State(now, ahead, s.contested)

    def finished(self, p: Problem, s: State) -> Mask:
        return p.ledger.found.logical_not()

    def within(self, budget: int) -> Self:
        # Where it begins anew, steps cost no more than at first.
        steps = steps_for(budget, lambda _: self.probes)
        rivals = min(self.rivals, budget // _QUESTIONS)
        return dataclasses.replace(self, steps=steps, rivals=rivals)

    def _anew(self, p: Problem, s: Descent, asked: Mask, t: int, tries: int) -> Descent:
        """From another start where that is asked for and there is one."""
        if not bool(asked.any()):
            return s
        delta, found = _another_start(p, asked, t, tries)
        return choose(found, begun(p, delta, found, self.size), s)

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


def _another_start(p: Problem, asked: Mask, t: int, tries: int) -> tuple[Batch, Mask]:
    """The nearest of some perturbations chosen at random, and who has one."""
    rng = p.rng(t + _APART)
    delta, radius, found = p.x.zeros_like(), full(p.x, math.inf), full(p.x, 1.0) < 0
    for number in range(tries):
        if p.pool is None or not p.pool.shape[0]:
            far = p.bounds.clip(p.x + smooth_noise(p, rng, number)) - p.x
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
