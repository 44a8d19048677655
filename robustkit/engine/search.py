"""What decision-based attacks share: bisection to the boundary and starting points.

Every question is put through `Problem.decide`, so it is billed, and the nearest
adversarial of each sample stays in the ledger. Samples whose budget is spent are asked
nothing more.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from robustkit.engine.problem import Problem
from robustkit.numerics.norms import Norm
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    like,
    plus,
    put_rows,
    take,
    to_numpy,
    where,
)

__all__ = [
    "ROUGH",
    "approach",
    "before_noise",
    "bisect",
    "candidates",
    "drawn",
    "noises",
    "ranked",
    "starting_point",
    "unspent",
]

# So near the original, floating point has nothing in between.
_HALVINGS = 64
ROUGH = 1e-2
"""Tolerance for starts, which are only walked on from."""

_GREYS = (1.0, 0.0, 0.5, 0.25, 0.75)
# After the first noises who has no start has nothing else to ask about, so many times
# as many of them are tried, for at most this share of the budget.
_PATIENCE, _SHARE = 10, 0.2
# Noise around the original comes in so many sizes.
_SIZES = 6


def bisect(
    p: Problem,
    far: Batch,
    asked: Mask | None = None,
    tolerance: float = 1e-3,
    norm: Norm | None = None,
) -> Batch:
    """The adversarial side of the boundary between the originals and `far`.

    The points in between are `Norm.towards`. Costs about log2(1 / tolerance) questions
    for each sample asked, and none for a sample that is within the tolerance already.

    Args:
        p: The problem; its originals are taken not to be adversarial.
        far: (n, ...) adversarial points within the bounds.
        asked: (n,) which samples to work on; None: all.
        tolerance: Stop where a point nearer by this share of the distance is known not
            to be adversarial (for L0: where one feature less is).
        norm: In which it is walked; None: the problem's.

    Returns:
        (n, ...) adversarial points; `far` itself for samples not asked.
    """
    active = ~p.ledger.spent() if asked is None else to_numpy(asked).copy()
    if not active.any():
        return far
    norm = norm or p.norm
    delta, best = far - p.x, far
    size = np.array(to_numpy(norm(delta)))
    near = np.zeros_like(size)
    for _ in range(_HALVINGS):
        active &= (size - near > tolerance * size) & ~p.ledger.spent()
        rows = np.flatnonzero(active)
        if len(rows) == 0:
            break
        middle, origin = (near[rows] + size[rows]) / 2, take(p.x, rows)
        moved = norm.project(take(delta, rows), like(p.x, middle))
        point = p.clip(plus(moved, origin, reuse=True))
        reached = to_numpy(norm(point - origin))
        # Rounding, or whole features, may leave nothing between the two ends.
        between = (near[rows] < reached) & (reached < size[rows])
        active[rows] = between
        if not between.all():
            kept = np.flatnonzero(between)
            rows, point, reached = rows[kept], take(point, kept), reached[kept]
        passed = to_numpy(p.decide(point, rows=rows))
        which = np.flatnonzero(passed)
        best = put_rows(best, rows[which], point, which, reuse=best is not far)
        size[rows] = np.where(passed, reached, size[rows])
        near[rows] = np.where(passed, near[rows], reached)
    return best


def approach(
    p: Problem, far: Batch, asked: Mask | None = None, tolerance: float = 1e-3
) -> None:
    """Look for a nearer adversarial on the way to `far`.

    Asks about the point just below the best distance known, and bisects from there only
    where that passes: one question where it does not. The ledger keeps what is found.

    Args:
        p: The problem.
        far: (n, ...) any points.
        asked: (n,) which samples to work on; None: all.
        tolerance: Of the bisection, and of what counts as nearer.
    """
    radius = p.norm.scale_down(p.ledger.distance, 1 - tolerance)
    far = p.bounds.clip(far)
    point = p.bounds.clip(p.x + p.norm.project(far - p.x, radius))
    moved = p.norm(point - p.x) > 0
    active = unspent(p).logical_and(moved)
    active = active if asked is None else active.logical_and(asked)
    bisect(p, point, p.decide(point, active), tolerance)


def starting_point(p: Problem, rng: Rng, tries: int = 20) -> tuple[Batch, Mask]:
    """An adversarial point of each sample, by as few questions as it takes.

    In turn: what the ledger knows, the problem's `starts`, and some inputs of its
    `pool` (`candidates`); each is followed up only if it is nearer than what is known
    (`approach`), so several starts cost little more than one. Samples without a start
    go on with noise of several kinds, since many classifiers see all noise of one kind
    as one class, then with the rest of the pool, and then with more noise; aimed at a
    class, all of the pool comes before noise (`before_noise`).

    Args:
        p: The problem.
        rng: Random numbers for the noise. Use none of it afterwards: how many numbers
            are drawn depends on the whole batch.
        tries: How many inputs of the pool to try for those who have a start, and how
            many noises for those who have none, before the rest of the pool (`noises`).

    Returns:
        (n, ...) the nearest adversarial points, and (n,) who has one; without one, the
        point is the original.
    """
    if p.starts is not None:
        approach(p, p.starts, tolerance=ROUGH)
    others = candidates(p, tries)
    for far, asked in itertools.islice(others, before_noise(p, tries)):
        approach(p, far, asked, ROUGH)
    noise = noises(p, rng, tries)
    for far, asked in itertools.chain(itertools.islice(noise, tries), others, noise):
        approach(p, far, asked, ROUGH)
    # A copy, since the ledger may write over what it holds.
    return p.ledger.best * 1.0, p.ledger.found


def candidates(
    p: Problem, tries: int, asked: Mask | None = None
) -> Iterator[tuple[Batch, Mask]]:
    """Inputs (n, ...) of the pool, one of each sample's after the other (`ranked`).

    And for whom (n,) they are: the first `tries` for all that are `asked` about
    (everyone), those after them for whom no adversarial is known by then.
    """
    if p.pool is None or not p.pool.shape[0]:
        return
    order = None
    for place in range(p.pool.shape[0]):
        wanted = unspent(p) if asked is None else unspent(p).logical_and(asked)
        if place >= tries:
            wanted = wanted.logical_and(p.ledger.found.logical_not())
        if not bool(wanted.any()):
            return
        # Of large pools it takes long, so not before it is asked for.
        order = ranked(p, p.pool) if order is None else order
        yield take(p.pool, order[:, place]), wanted


def noises(p: Problem, rng: Rng, tries: int) -> Iterator[tuple[Batch, Mask]]:
    """Noise (n, ...) of several kinds, one after the other, and for whom (n,) it is.

    For those for whom no adversarial is known: `tries` times, and then ten times as
    often, or for a fifth of what is left of the budget if that is less.
    """
    more = np.minimum(_PATIENCE * tries, (_SHARE * p.ledger.left()).astype(np.int64))
    for attempt in itertools.count():
        searching = p.ledger.found.logical_not().logical_and(unspent(p))
        searching = searching.logical_and(like(p.x, attempt < tries + more))
        if not bool(searching.any()):
            return
        yield _noise(p, rng, attempt), searching


def before_noise(p: Problem, tries: int) -> int | None:
    """How many inputs of the pool to try before noise; None: all.

    Noise is seldom of a class that is aimed at. But it may be all that leads away from
    a class that all inputs of a large pool are of.
    """
    return None if p.criterion.aims else tries


def ranked(p: Problem, pool: Batch) -> Array:
    """The places (n, m) of a pool's inputs (m, ...) in the order to try them in.

    The nearest first; but those whose class meets the criterion before the others, if
    classes are known. Inputs equal to the sample come last, or last of their class.
    """
    columns = []
    for place in range(pool.shape[0]):
        distance = to_numpy(p.norm(take(pool, np.array([place])) - p.x))
        columns.append(np.where(distance > 0, distance, np.inf))
    return np.lexsort((np.stack(columns, axis=1), ~_suits(p, pool)))


def drawn(p: Problem, pool: Batch, rng: Rng) -> Batch:
    """One of a pool's inputs (m, ...) for each sample at random (n, ...).

    Of those only whose class meets the criterion, if classes are known and any does.
    """
    suits = _suits(p, pool)
    count = suits.sum(axis=1)
    first = np.argsort(~suits, axis=1, kind="stable")
    some = np.where(count > 0, count, pool.shape[0])
    places = to_numpy(rng.integers(pool.shape[0])) % some
    return take(pool, first[np.arange(p.size), places])


def _suits(p: Problem, pool: Batch) -> Array:
    """(n, m) whether a pool's input may meet the criterion, as far as is known."""
    classes = p.pool_classes
    suits = None if classes is None else p.criterion.suits(classes)
    return np.ones((p.size, pool.shape[0]), bool) if suits is None else suits


def unspent(p: Problem) -> Mask:
    """(n,) for whom another answer would count."""
    return like(p.x, ~p.ledger.spent())


def _noise(p: Problem, rng: Rng, attempt: int) -> Batch:
    """One of five kinds of noise in turn; the later rounds of each are different."""
    kind, turn = attempt % 5, attempt // 5
    lower, upper, width = p.bounds.lower, p.bounds.upper, p.bounds.width
    shape = p.x.shape[1:]
    if kind == 0:
        return rng.uniform(shape, lower, upper)
    if kind == 1:
        if turn < len(_GREYS):
            return p.x.zeros_like() + (lower + width * _GREYS[turn])
        level = rng.uniform((*shape[:1], *(1 for _ in shape[1:])), lower, upper)
        return p.x.zeros_like() + level
    if kind == 2:
        inverted = lower + upper - p.x
        return inverted if turn == 0 else inverted + rng.normal(shape) * (width / 4)
    if kind == 3:
        black = p.x.zeros_like() + lower
        extreme = where(rng.uniform(shape) < 0.5, black, upper)
        kept = rng.uniform(shape) < 1 - 1 / (1 + turn % _SIZES)
        return where(kept, p.x, extreme)
    return p.x + rng.normal(shape) * (width * 2.0 ** (1 - turn % _SIZES))
