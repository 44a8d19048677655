"""Sparse-RS within a given number of features or pixels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.attacks.score.random_search import (
    Schedule,
    State,
    check_share,
    searched,
)
from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    differs,
    flatten,
    full,
    like,
    maximum,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import largest

__all__ = ["SparseRS"]

# How the share to exchange falls.
_SCHEDULE = Schedule(
    after=(0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000),
    divisors=(1, 2, 4, 5, 6, 8, 10, 12, 15, 20),
)


@dataclass(frozen=True)
class SparseRS(FixedBudget[State]):
    """Exchange a few changed features for others, and keep what lowers the margin.

    Changed features stand at a bound. Each step puts some of them back, changes as many
    others, and keeps the result where the margin falls; fewer and fewer are exchanged.

    Args:
        epsilon: How many features (or pixels) may change; at least one does.
        steps: How many; 1 question each.
        share: Of the changed features, that the first exchanges replace; the schedule
            halves it after the first question and ends at a twentieth of it.
        rescale: The share falls with the share of the steps taken. Else as in a search
            of 10,000 questions, however many there are.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        Croce, Andriushchenko, Singh, Flammarion, Hein: Sparse-RS: a versatile framework
        for query-efficient sparse black-box adversarial attacks, AAAI 2022.

    Differences from the paper:
        - Each sample exchanges features of its own, not the same places for all.
        - A feature that stands at a bound already is moved to the other one, since a
          change that changes nothing is a question for nothing.
        - Where an adversarial is known, as inside `Minimise`, the search starts from
          as many of its features as are allowed.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(4, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0.5]]))
    >>> x, y = torch.tensor([[0.8, 0.4, 0.4, 0.4]]), torch.tensor([0])
    >>> result = rk.run(SparseRS(epsilon=1, steps=50), model, x, y, norm="l0")
    >>> float(result.distance[0])
    1.0
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Croce et al., AAAI 2022"

    epsilon: float
    steps: int = 5000
    share: float = 0.8
    rescale: bool = True
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        epsilon = maximum(epsilon, 1.0)
        known = where(p.ledger.found, p.ledger.best - p.x, 0.0 * p.x)
        known = p.norm.project_box(known, epsilon, p.low, p.high)
        # Those known come first, and chance fills up what is left.
        chosen = differs(_units(p, known.abs()), 0.0)
        keys = chosen + rng.uniform(chosen.shape[1:])
        chosen = largest(flatten(keys), epsilon).reshape(chosen.shape)
        delta = where(known == 0, chosen * _corners(p, rng), known)
        return State(delta, full(p.x, math.inf), delta, epsilon)

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        return searched(self, p, s, progress, rng)

    def propose(
        self,
        p: Problem,
        delta: Batch,
        epsilon: PerSample,
        progress: PerSample,
        rng: Rng,
    ) -> Batch:
        """With some units exchanged; see `RandomSearch`.

        A unit is what the norm counts: a feature, or a pixel with all its channels.
        Where fewer are changed than may be, more are changed than put back.
        """
        chosen = differs(_units(p, delta.abs()), 0.0)
        most = to_numpy(epsilon)
        share = _SCHEDULE.share(self, to_numpy(progress), self.rescale)
        count = np.floor(share * most)
        proposed = _exchanged(chosen, np.maximum(count, 1), most, rng)
        fresh = proposed * (1 - chosen) * _corners(p, rng)
        proposal = delta * proposed * chosen + fresh
        # Where all may be changed there is nothing to exchange, but other bounds.
        turned = _turned(chosen, proposed, np.maximum(count, 1), rng)
        return where(turned, _corners(p, rng), proposal)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.epsilon) if self.stop else None

    def check(self, p: Problem) -> None:
        super().check(p)
        check_share(self)


def _units(p: Problem, values: Batch) -> Tensor:
    assert isinstance(p.norm, L0)
    return p.norm.summed(values)


def _corners(p: Problem, rng: Rng) -> Batch:
    """(n, ...) from each feature to a random bound, none of its units unchanged."""
    upper = rng.uniform(p.x.shape[1:]) < 0.5
    there, back = where(upper, p.high, p.low), where(upper, p.low, p.high)
    return where(_units(p, there.abs()) == 0, back, there)


def _exchanged(chosen: Tensor, count: Array, most: Array, rng: Rng) -> Tensor:
    """Of each row, `count` (n,) random units put back, and others chosen up to `most`.

    As many others, where `most` (n,) are chosen already.
    """
    flat = to_numpy(flatten(chosen))
    keys = to_numpy(flatten(rng.uniform(chosen.shape[1:])))
    inside = flat.sum(axis=1)
    outside = flat.shape[1] - inside
    count = np.minimum(count, np.minimum(inside, outside))
    more = np.minimum(count + np.maximum(np.floor(most) - inside, 0), outside)
    # The lowest ranks are of those chosen, the highest of the others.
    rank = np.argsort(np.argsort(keys - flat, axis=1), axis=1)
    leaving = rank < count[:, None]
    joining = rank >= flat.shape[1] - more[:, None]
    return like(chosen, flat - leaving + joining).reshape(chosen.shape)


def _turned(chosen: Tensor, proposed: Tensor, count: Array, rng: Rng) -> Mask:
    """(n, ...) `count` (n,) random chosen units, where none was to be exchanged."""
    flat = to_numpy(flatten(chosen))
    stuck = (to_numpy(flatten(proposed)) == flat).all(axis=1)
    keys = to_numpy(flatten(rng.uniform(chosen.shape[1:])))
    rank = np.argsort(np.argsort(keys - flat, axis=1), axis=1)
    turned = (rank < count[:, None]) & (flat > 0) & stuck[:, None]
    return like(chosen, turned).reshape(chosen.shape)
