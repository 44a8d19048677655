"""Which units bring a perturbation over the boundary, asked by subsets of them."""

import math

import numpy as np

from robustkit.attacks.decision.probing import regressed_on
from robustkit.attacks.decision.resets import changed_units
from robustkit.engine.problem import Problem
from robustkit.numerics.norms import L0
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    flatten,
    like,
    take,
    to_numpy,
)

__all__ = ["MOST", "fewest", "learned"]

MOST = 1024
"""Candidates of a sample to learn about at once, whose Gram matrix is solved."""

# How many numbers the subsets that are asked about at once may hold.
_AT_ONCE = 2**22
# So many subsets are asked about at a time, at first, and at the most later.
_FEW, _MANY = 16, 128
# To this share of a unit the fewest are found where sizes count.
_PART = 1 / 8
# What is learned counts as much as what was believed before.
_NEW = 0.5
# The share of candidates in a subset, at the least and the most.
_SMALL, _LARGE = 0.05, 0.95


def fewest(
    p: Problem, corner: Batch, weight: Array, rows: Array, first: Array, most: Array
) -> tuple[Batch, Mask]:
    """As few units at the corner as will do, those of the largest weights.

    Their number is doubled until they are adversarial, then bisected. From few on,
    since many at the bounds need not be adversarial where few are. In L1 the last unit
    goes only part of its way, to an eighth of it.

    Args:
        p: The problem.
        corner: (n, ...) perturbations.
        weight: (n, units) of all samples.
        rows: (m,) whom to ask about.
        first: (m,) how many to try first.
        most: (m,) how many to try at most.

    Returns:
        (n, ...) perturbations, and (n,) who has one.
    """
    order = np.argsort(-weight[rows], axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    part = 1.0 if isinstance(p.norm, L0) else _PART
    below, enough = np.zeros(len(rows)), np.full(len(rows), math.inf)
    count = np.maximum(first, 1.0).clip(max=most)
    while True:
        open_ended = (enough - below > part) & (below < most) & ~p.ledger.spent()[rows]
        asked = np.flatnonzero(open_ended)
        if len(asked) == 0:
            break
        moved = (count[:, None] - rank)[asked].clip(0, 1)
        points = take(p.x, rows[asked]) + _moves(p, corner, rows[asked], moved)
        passed = to_numpy(p.decide(points, rows=rows[asked]))
        enough[asked] = np.where(passed, count[asked], enough[asked])
        below[asked] = np.where(passed, below[asked], count[asked])
        middle = (below + enough) / 2
        # Whole units first.
        middle = np.where(enough - below > 1, np.floor(middle), middle)
        count = np.where(enough < math.inf, middle, np.minimum(2 * below, most))
    found = np.zeros(p.size, dtype=bool)
    found[rows] = enough < math.inf
    moved = np.zeros(weight.shape)
    moved[rows] = (np.where(found[rows], enough, 0)[:, None] - rank).clip(0, 1)
    return _moves(p, corner, np.arange(p.size), moved), like(p.x, found)


def learned(
    p: Problem, corner: Batch, weight: Array, rows: Array, number: Array, t: int
) -> Array:
    """What units bring, as random subsets of candidates tell.

    Candidates are what the nearest adversarial known needs, and those of the largest
    weights. As many subsets as there are candidates are asked about, and the answers
    regressed on who was in. Each holds about half of the candidates, or as many as it
    takes for about half of the subsets to be adversarial.

    Args:
        p: The problem.
        corner: (n, ...) perturbations.
        weight: (n, units) what each unit is believed to bring at its corner.
        rows: (m,) whom to ask about.
        number: (m,) how many candidates, at most `MOST`.
        t: The number of the step, for its random numbers.

    Returns:
        (n, units) the mean of what was believed and what the answers say of those who
        were candidates, in the same units of weight; never below zero.
    """
    weight = weight.copy()
    room = _AT_ONCE // math.prod(p.x.shape[1:])
    largest = max(min(room, _MANY), _FEW)
    together = max(room // largest, 1)
    for some in range(0, len(rows), together):
        part = rows[some : some + together]
        needed = to_numpy(flatten(changed_units(p, p.ledger.best - p.x)))[part] > 0
        ahead = np.where(needed, math.inf, weight[part])
        order = np.argsort(-ahead, axis=1, kind="stable")
        candidates = [
            places[:count]
            for places, count in zip(order, number[some : some + together], strict=True)
        ]
        told = _told(p, corner, part, candidates, largest, t)
        for row, places, (subsets, answers) in zip(part, candidates, told, strict=True):
            if answers.any() and not answers.all():
                before = weight[row, places]
                brings = _brings(subsets, answers, float(np.linalg.norm(before)))
                mixed = (1 - _NEW) * before + _NEW * brings
                weight[row, places] = np.maximum(mixed, 0)
    return weight


def _told(
    p: Problem,
    corner: Batch,
    rows: Array,
    candidates: list[Array],
    largest: int,
    t: int,
) -> list[tuple[Array, Array]]:
    """For each of the samples (m,): subsets (k, candidates), and the answers (k,)."""
    rng, units = p.rng(t).of(rows), _unit_shape(p)
    number = np.array([len(places) for places in candidates])
    share = np.full(len(rows), 0.5)
    told = [(np.zeros((0, count), bool), np.zeros(0, bool)) for count in number]
    begin, size = 0, _FEW
    while begin < number.max():
        # As many for everyone, so that none depend on the company.
        chance = to_numpy(rng.uniform((size, min(MOST, math.prod(units)))))
        left = np.minimum(number - begin, p.ledger.left()[rows])
        asked = np.arange(size) < left[:, None]
        inside = np.zeros((len(rows), size, math.prod(units)), dtype=bool)
        for place, some in enumerate(candidates):
            inside[place][:, some] = chance[place, :, : len(some)] < share[place]
        moves = like(p.x, inside).astype(p.x.dtype).reshape((len(rows), size, *units))
        points = take(corner, rows).expand_dims(1) * moves
        points = points + take(p.x, rows).expand_dims(1)
        passed = to_numpy(p.probe(points, like(p.x, asked), rows))
        for place in np.flatnonzero(left > 0).tolist():
            new = asked[place]
            said = passed[place, new]
            subsets, answers = told[place]
            told[place] = (
                np.concatenate([subsets, inside[place][new][:, candidates[place]]]),
                np.concatenate([answers, said]),
            )
            share[place] *= math.exp(0.5 - said.mean())
        share = share.clip(_SMALL, _LARGE)
        begin, size = begin + size, min(2 * size, largest)
    return told


def _brings(subsets: Array, answers: Array, length: float) -> Array:
    """(candidates,) of that length: how far each speaks for an answer of yes."""
    inside, said = subsets.astype(np.float64), answers.astype(np.float64)
    slopes = regressed_on((inside @ inside.T)[None], said[None])[0] @ inside
    return np.asarray(slopes * (length / max(float(np.linalg.norm(slopes)), 1e-30)))


def _unit_shape(p: Problem) -> tuple[int, ...]:
    """Of one sample's units, which broadcasts against its features."""
    return tuple(changed_units(p, p.low).shape[1:])


def _moves(p: Problem, corner: Batch, rows: Array, moved: Array) -> Batch:
    """Perturbations (m, ...) of samples (m,), whose units (m, units) move so far."""
    shares = like(p.x, moved).astype(p.x.dtype)
    return take(corner, rows) * shares.reshape((len(rows), *_unit_shape(p)))
