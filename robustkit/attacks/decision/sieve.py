"""The default attack for decisions at L1 and L0: few features out of many."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.attacks.decision.descents import Descent, moved, start
from robustkit.attacks.decision.descents import begun as descent_begun
from robustkit.attacks.decision.probing import steps_for
from robustkit.attacks.decision.resets import (
    Rounds,
    answered,
    begun,
    begun_anew,
    changed_units,
    last_share,
    proposed,
)
from robustkit.attacks.decision.subsets import MOST, fewest, learned
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import unspent
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    flatten,
    full,
    like,
    to_numpy,
    where,
)

__all__ = ["Sieve"]

# Of the descent: the size of probes and the tolerance of moves.
_SIZE, _MOVE = 0.25, 0.2
# The first step after which few features are looked for; then those twice as far.
_EARLY = 4
# So many candidates for each unit that is needed, and at the least.
_CANDIDATES, _FEWEST = 5, 16
# Whose rounds are over waits for a step with a multiple of this number, so that many
# are asked about together.
_TURN = 16
# Learning pays where it brings more than this share, and where so many times the
# questions that it takes are left.
_PAYS, _ROOM = 1e-3, 1.3


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Units are features, or pixels where these count.

    Attributes:
        descent: In L2, which tells what matters.
        corner: (n, ...) perturbations to the bounds, each feature as the descent went.
        weight: (n, units) how much each unit is believed to bring, at its corner.
        rounds: Of resets.
        mark: (n,) the best distance when it was learned the last time, in norm units.
        halved: (n,) the best distance after changes were halved the last time.
        fine: (n,) for whom the present rounds halve changes.
    """

    descent: Descent
    corner: Batch
    weight: Tensor
    rounds: Rounds
    mark: PerSample
    halved: PerSample
    fine: Mask


@dataclass(frozen=True)
class Sieve(Attack[State]):
    """Learn which features matter, and keep as few of them as will do.

    First a descent in L2 (that of `Compass`): near the boundary its perturbation is the
    normal, so what it moves most is what matters most. Then the features that matter
    most go to their bounds, as few as are enough, and groups of them are reset where
    that stays adversarial (`Pointwise`).

    A few features moved far are another place of the boundary than many moved a little.
    So what they bring is learned there. Five times as many as needed are candidates; as
    many random halves of these are asked about, and the answers regressed on who was
    in. The largest means of old and new weights make the next few, and so on. There are
    at most 1,024 candidates; where more are needed nothing is learned. Where that
    brings no more, or for the last questions, in L1 changes are halved, then quartered.

    Args:
        steps: How many; those of the descent cost the probes and about 6 questions
            each, all others one, and where it is learned five for each feature needed.
        scouting: How many of the steps are the descent's.
        tries: How many starting points of each kind to try (see `starting_point`), and
            without a pool or starts of the problem how many smooth noises.
        probes: In the descent's first step; the square root of the step's number times
            as many later.
        group: How many features to reset at first, as a share of those changed.
        finest: For L1, the least share of its change that a feature is moved by.
        share: Of a budget, for the descent (`within`).
        longest: The most questions for it, of any budget.

    Source:
        Ours; resets as in Schott, Rauber, Bethge, Brendel, ICLR 2019.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(3, 2).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    >>> _ = model.bias.data.copy_(torch.tensor([0.0, 0.6]))
    >>> x, y = torch.tensor([[0.9, 0.1, 0.1]]), torch.tensor([0])
    >>> result = rk.run(rk.Sieve(steps=100), model, x, y, norm="l0")
    >>> float(result.distance[0])
    1.0
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1"})
    cost: ClassVar[str] = "1 forward, 20 and more in the first steps"
    source: ClassVar[str] = "ours, with resets of Schott et al., ICLR 2019"
    positive: ClassVar[tuple[str, ...]] = ("probes",)

    steps: int = 2000
    scouting: int = 12
    tries: int = 20
    probes: int = 12
    group: float = 0.1
    finest: float = 0.01
    share: float = 0.45
    longest: int = 700

    def within(self, budget: int) -> Self:
        part = max(min(int(self.share * budget), self.longest), 1)
        scouting = steps_for(part, lambda t: self.probes * math.sqrt(t + 1) + 6)
        return dataclasses.replace(self, steps=budget, scouting=scouting)

    def init(self, p: Problem) -> State:
        near, found = start(p, self.tries)
        descent = descent_begun(p, near - p.x, found, _SIZE)
        none = full(p.x, math.inf)
        corner, weight, delta = _sifted(p, descent)
        rounds = begun(p, delta, -1, self.group)
        return State(descent, corner, weight, rounds, none, none, none < 0)

    def step(self, p: Problem, s: State, t: int) -> State:
        if t < self.scouting:
            return self._scouted(p, s, t)
        if t == self.scouting:
            corner, weight, delta = _sifted(p, s.descent)
            s = dataclasses.replace(
                s,
                corner=corner,
                weight=weight,
                rounds=begun(p, delta, t, self.group),
            )
        over = self._over(p, s)
        if t % _TURN == 0 and over.any():
            s, over = self._refreshed(p, s, over, t), np.zeros_like(over)
        going = like(p.x, ~over)
        # What was just learned may have taken the last question.
        who = going.logical_and(unspent(p))
        if not bool(who.any()):
            return s
        asked = proposed(p, s.rounds)
        passed = p.decide(p.x + asked.trial, who)
        rounds = answered(p, s.rounds, asked, passed, going, t, self.group)
        return dataclasses.replace(s, rounds=rounds)

    def finished(self, p: Problem, s: State) -> Mask:
        lost = p.ledger.found.logical_not()
        if not isinstance(p.norm, L0):
            return lost
        # One unit is the fewest.
        return lost.logical_or(p.ledger.distance <= 1)

    def _scouted(self, p: Problem, s: State, t: int) -> State:
        """One step of the descent further."""
        descent = moved(
            p, s.descent, t, probes=self.probes, size=_SIZE, tolerance=_MOVE
        )
        # Now and then, so that it is not only at the end that few are known.
        if _EARLY <= t + 1 < self.scouting and (t + 1).bit_count() == 1:
            _sifted(p, descent)
        return dataclasses.replace(s, descent=descent)

    def _over(self, p: Problem, s: State) -> Array:
        """(n,) booleans: whose rounds are over."""
        kept, last = to_numpy(s.rounds.kept), last_share(p, self.finest)
        return np.asarray(np.where(to_numpy(s.fine), kept > last, kept > 0))

    def _refreshed(self, p: Problem, s: State, over: Array, t: int) -> State:
        """With finer rounds for those (n,), or some from what is learned anew."""
        fine = to_numpy(s.fine)
        changed = flatten(changed_units(p, p.ledger.best - p.x))
        needed = to_numpy(changed.sum(axis=1)).astype(np.int64)
        number = (_CANDIDATES * needed).clip(_FEWEST, MOST).clip(max=changed.shape[1])
        # Subsets of fewer candidates than are needed are adversarial for nobody.
        number[needed >= MOST] = 0

        distance = to_numpy(p.ledger.distance)
        vain = distance >= (1 - _PAYS) * to_numpy(s.mark)
        vain |= (number == 0) | (_ROOM * number > p.ledger.left())
        finer = over & ~fine & vain & (distance < to_numpy(s.halved))
        finer &= not isinstance(p.norm, L0)
        halved = np.where(over & fine, distance, to_numpy(s.halved))
        s = dataclasses.replace(
            s,
            halved=like(p.x, halved),
            fine=like(p.x, np.where(over, finer, fine)),
        )
        s = self._made_finer(p, s, like(p.x, finer), t)
        return self._learned(p, s, np.flatnonzero(over & ~finer), needed, number, t)

    def _made_finer(self, p: Problem, s: State, who: Mask, t: int) -> State:
        """With rounds from the best known that halve its changes, for those (n,)."""
        best = p.ledger.best - p.x
        rounds = begun_anew(p, s.rounds, who, best, t, self.group)
        rounds = dataclasses.replace(rounds, kept=where(who, 0.5, rounds.kept))
        return dataclasses.replace(s, rounds=rounds)

    def _learned(
        self, p: Problem, s: State, rows: Array, needed: Array, number: Array, t: int
    ) -> State:
        """With new weights of the samples (m,), and rounds from the fewest by them."""
        if len(rows) == 0:
            return s
        again = like(p.x, np.isin(np.arange(p.size), rows))
        mark = where(again, p.ledger.distance, s.mark)
        weight = learned(p, s.corner, to_numpy(s.weight), rows, number[rows], t)
        first, most = needed[rows] // 2, 2 * needed[rows] + 2
        few, found = fewest(p, s.corner, weight, rows, first, most)
        few = where(found, few, p.ledger.best - p.x)
        rounds = begun_anew(p, s.rounds, again, few, t, self.group)
        return dataclasses.replace(
            s, weight=like(p.x, weight), rounds=rounds, mark=mark
        )


def _sifted(p: Problem, descent: Descent) -> tuple[Batch, Tensor, Batch]:
    """The corner and the weights that a descent tells, and the fewest units by them."""
    corner, weight = _corner(p, descent.delta)
    everyone, one = np.arange(p.size), np.ones(p.size, dtype=np.int64)
    units = to_numpy((weight > 0).astype(p.x.dtype).sum(axis=1)).astype(np.int64)
    delta, found = fewest(p, corner, to_numpy(weight), everyone, one, units)
    return corner, weight, where(found, delta, p.ledger.best - p.x)


def _corner(p: Problem, delta: Batch) -> tuple[Batch, Tensor]:
    """The corner (n, ...) that perturbations point to; what each unit brings there."""
    corner = where(delta > 0, p.high, p.low)
    weight = delta.abs()
    if isinstance(p.norm, L0):
        # Units cost the same however far they move.
        weight = p.norm.summed(weight * corner.abs())
    return corner, flatten(weight)
