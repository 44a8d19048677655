"""Rounds of resets: which of the changed units a perturbation can do without."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from robustkit.engine.problem import Problem
from robustkit.numerics.norms import L0
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    choose,
    cumulative_sum,
    differs,
    expand,
    flatten,
    full,
    like,
    maximum,
    minimum,
    put,
    to_numpy,
    where,
)

__all__ = [
    "Proposal",
    "Rounds",
    "answered",
    "begun",
    "begun_anew",
    "changed_units",
    "last_share",
    "proposed",
]


@dataclass(frozen=True)
class Rounds:
    """What is left of a perturbation, and which units are reset next.

    A unit is a feature, or a pixel where pixels are counted.

    Attributes:
        delta: (n, ...) adversarial perturbation, in input units.
        order: (n, units) the units in the order of this round.
        rank: (n, units) the place of each unit in that order.
        place: (n,) units before this one were tried in this round.
        size: (n,) how many units to reset at once.
        kept: (n,) the share of its change that a unit keeps when it is reset.
        gained: (n,) whether a question of this round was answered well.
    """

    delta: Batch
    order: Tensor
    rank: Tensor
    place: PerSample
    size: PerSample
    kept: PerSample
    gained: Mask


@dataclass(frozen=True)
class Proposal:
    """What to ask about next.

    Attributes:
        trial: (n, ...) the perturbation without a group of its units.
        group: 1 for those units, else 0; broadcasts against the perturbation.
        after: (n,) the place after the group in the order of the round.
    """

    trial: Batch
    group: Batch
    after: PerSample


def begun(p: Problem, delta: Batch, t: int, group: float) -> Rounds:
    """The first round, in an order that is random by the step `t`.

    Args:
        p: The problem.
        delta: (n, ...) adversarial perturbations.
        t: The number of the step.
        group: How many units to reset at first, as a share of those changed.
    """
    order, rank = _shuffled(p, t, np.arange(p.size))
    return _first(p, delta, like(p.x, order), like(p.x, rank), group)


def begun_anew(
    p: Problem, s: Rounds, who: Mask, delta: Batch, t: int, group: float
) -> Rounds:
    """The first round of some others for those (n,) of the samples, else `s`."""
    rows = np.flatnonzero(to_numpy(who))
    if len(rows) == 0:
        return s
    # Sorting takes longer than all the rest.
    order, rank = (like(p.x, part) for part in _shuffled(p, t, rows))
    order, rank = put(s.order, rows, order), put(s.rank, rows, rank)
    return choose(who, _first(p, delta, order, rank, group), s)


def _first(
    p: Problem, delta: Batch, order: Tensor, rank: Tensor, group: float
) -> Rounds:
    """A round of which nothing was asked yet."""
    zero = full(p.x, 0.0)
    size = maximum(flatten(changed_units(p, delta)).sum(axis=1) * group, 1.0)
    return Rounds(delta, order, rank, zero, size, zero, zero > 0)


def proposed(p: Problem, s: Rounds) -> Proposal:
    """The next group of each round."""
    group, after = _next_group(p, s)
    return Proposal(s.delta * (1 - group * expand(1 - s.kept, group)), group, after)


def answered(
    p: Problem,
    s: Rounds,
    asked: Proposal,
    passed: Mask,
    going: Mask,
    t: int,
    group: float,
) -> Rounds:
    """The rounds after the answers to what was proposed.

    A round ends where all its units were tried: if none could be reset, the next one
    halves their changes, then quarters them, and so on.

    Args:
        p: The problem.
        s: Before.
        asked: What was proposed.
        passed: (n,) the answers.
        going: (n,) for whom another round may begin.
        t: The number of the step.
        group: As for `begun`.
    """
    count = flatten(asked.group).sum(axis=1)
    # A unit that was reset leaves the round, one that was halved is passed by.
    passed_by = where(passed, s.kept, 2 - count) > 0
    state = Rounds(
        delta=where(passed, asked.trial, s.delta),
        order=s.order,
        rank=s.rank,
        place=where(passed_by, asked.after, s.place),
        size=where(passed, 2 * count, maximum(count / 2, 1.0)),
        kept=s.kept,
        gained=s.gained.logical_or(passed),
    )
    over = (_waiting(p, state).sum(axis=1) == 0).logical_and(going)
    if not bool(over.any()):
        return state
    fresh = begun_anew(p, state, over, state.delta, t, group)
    kept = where(state.gained, state.kept, (1 + state.kept) / 2)
    size = where(state.gained, state.size, fresh.size)
    return dataclasses.replace(
        fresh, kept=where(over, kept, state.kept), size=where(over, size, state.size)
    )


def last_share(p: Problem, finest: float) -> float:
    """What units keep in the last rounds; moving them less does not matter."""
    return 0.0 if isinstance(p.norm, L0) else 1 - finest


def changed_units(p: Problem, delta: Batch) -> Batch:
    """1 for units that differ from the original, else 0; broadcasts against delta."""
    changed = differs(delta, 0.0)
    if isinstance(p.norm, L0):
        changed = minimum(p.norm.summed(changed), 1.0)
    return changed


def _waiting(p: Problem, s: Rounds) -> Tensor:
    """(n, units), in the order of the round: 1 where changed and not passed by yet."""
    changed = flatten(changed_units(p, s.delta)).take_along_axis(s.order, axis=1)
    return changed * (_places(changed) >= s.place.expand_dims(1)).astype(p.x.dtype)


def _next_group(p: Problem, s: Rounds) -> tuple[Batch, PerSample]:
    """1 for the units to reset, which broadcasts against delta, and the place after."""
    waiting = _waiting(p, s)
    size = maximum(s.size, 1.0).expand_dims(1)
    group = waiting * (cumulative_sum(waiting) <= size).astype(p.x.dtype)
    after = (group * (_places(group) + 1)).max(axis=1)
    shape = changed_units(p, p.low).shape
    return group.take_along_axis(s.rank, axis=1).reshape(shape), after


def _places(units: Tensor) -> Tensor:
    """(n, units) the numbers 0, 1, ... in each row."""
    places = like(units, np.arange(units.shape[1])).astype(units.dtype)
    return units.zeros_like() + places.expand_dims(0)


def _shuffled(p: Problem, t: int, rows: Array) -> tuple[Array, Array]:
    """(m, units) random orders of samples (m,), and the place of each unit in them."""
    shape = changed_units(p, p.low).shape[1:]
    # Those that were added in this step come last, so that older ones may go.
    order = np.argsort(-to_numpy(flatten(p.rng(t).of(rows).uniform(shape))), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
    return order, rank
