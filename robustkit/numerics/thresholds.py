"""Levels and thresholds: the one-dimensional problems behind the projections.

Each is solved for every row of a batch at once, without a pass of any model.
"""

import math
from collections.abc import Callable

import numpy as np

from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    Tensor,
    cumulative_sum,
    excess,
    expand,
    flatten,
    full,
    highest,
    like,
    magnitude,
    maximum,
    put,
    reaches,
    rounding,
    spread,
    stack_columns,
    take,
    to_numpy,
    together,
    top,
    total,
    where,
)

__all__ = [
    "capped_threshold",
    "fill",
    "greedy_shares",
    "largest",
    "meet",
    "nonzero",
    "secular_root",
    "shrink_by_root",
    "soft_threshold",
    "weighted_threshold",
]

# Twice as many halvings as double precision has bits.
_MOST_STEPS = 128


def nonzero(values: Tensor) -> Tensor:
    """`values` with 1 in place of 0, to divide by."""
    return where(values == 0, 1.0, values)


def fill(capacity: Batch, slope: Batch, target: PerSample) -> PerSample:
    """The level q with sum(min(capacity, q * slope)) = target; infinite if too high.

    The sum is concave, increasing and piecewise linear in q, so Newton's method from
    the left never passes the root and is exact once the set of filled entries stands.
    """
    capacity, slope = flatten(capacity), flatten(slope)
    target = maximum(target, 0.0)
    level = target / nonzero(slope.sum(axis=1))
    for _ in range(capacity.shape[1] + 1):
        filled = reaches(slope * level.expand_dims(1), capacity)
        rest = target - (capacity * filled).sum(axis=1)
        steepness = (slope - slope * filled).sum(axis=1)
        higher = rest / nonzero(steepness)
        higher = where(steepness == 0, level, higher)
        if not bool((higher > level).any()):
            break
        level = maximum(level, higher)
    # A rest that is only rounding is none: everything filled is just enough.
    short = (steepness == 0).logical_and(rest > 1e-6 * target)
    return where(short, math.inf, level)


def soft_threshold(size: Tensor, radius: PerSample) -> PerSample:
    """The t >= 0 with sum(max(size - t, 0)) = radius; 0 if the sum is smaller.

    The sum of any entries less the radius, over their number, is at most t, and it is t
    for the entries above t (Held, Wolfe, Crowder 1974).
    """
    if size.shape[1] == 0:
        return radius * 0
    # Few entries are above it as a rule, so the rest is not looked at if need not be.
    few = top(size, max(size.shape[1] // 8, 1))
    threshold = _soft_threshold_of(few, radius)
    more = np.flatnonzero(to_numpy(threshold < few[:, -1]))
    if len(more) == 0:
        return threshold
    ordered = top(take(size, more), size.shape[1])
    return put(threshold, more, _soft_threshold_of(ordered, take(radius, more)))


def _soft_threshold_of(ordered: Tensor, radius: PerSample) -> PerSample:
    number = like(ordered, np.arange(1, ordered.shape[1] + 1)).astype(ordered.dtype)
    means = (cumulative_sum(ordered) - radius.expand_dims(1)) / number
    threshold = maximum(means.max(axis=1), 0.0)
    # The sums are rounded; what is above the threshold has less to lose.
    over, count = excess(ordered, threshold)
    return maximum(threshold + (over - radius) / nonzero(count), 0.0)


def capped_threshold(size: Tensor, outside: Tensor, radius: PerSample) -> PerSample:
    """The t >= 0 with sum(max(size - t, 0) - max(outside - t, 0)) = radius.

    Each entry of a box is shrunk by t and then cut to its room, where `outside` is what
    is cut off for t = 0. Zero if the sum is smaller than the radius at t = 0.

    The sum is decreasing and piecewise linear in t: Newton's method, kept between two
    thresholds known to lie on either side, ends once the pieces around the root stand.
    """
    # Without the box more is left, so this is not below the root.
    threshold = soft_threshold(size, radius)
    rows = np.flatnonzero(to_numpy(magnitude(outside, math.inf) > threshold))
    if len(rows) == 0:
        return threshold
    lower = _between(*(take(v, rows) for v in (size, outside, radius, threshold)))
    return put(threshold, rows, lower)


def _between(
    size: Tensor, outside: Tensor, radius: PerSample, limit: PerSample
) -> PerSample:
    """The same, known to be at most `limit`."""
    # One value per sample: NumPy is several times faster than any framework.
    goal, high = (v.astype(np.float64) for v in together(radius, limit))
    whole = to_numpy(size.sum(axis=1) - outside.sum(axis=1))
    high = np.where(whole > goal, high, 0.0)
    threshold, low, precision = high, 0 * high, 8 * rounding(size)
    for _ in range(_MOST_STEPS):
        level = like(size, threshold).astype(size.dtype)
        left, moving = excess(size, level)
        cut, capped = excess(outside, level)
        rest, slope = together(left - cut - radius, moving - capped)
        low = np.where(rest >= 0, threshold, low)
        high = np.where(rest <= 0, threshold, high)
        after = threshold + rest / np.where(slope > 0, slope, 1.0)
        newton = (slope > 0) & (after > low) & (after < high)
        close = (np.abs(rest) <= precision * goal) | (high - low <= precision * high)
        if close.all():
            break
        after = np.where(newton, after, (low + high) / 2)
        threshold = np.where(close, threshold, after)
    return like(size, threshold).astype(size.dtype)


def meet(
    move: Callable[[PerSample], tuple[Batch, PerSample]],
    target: PerSample,
    level: PerSample,
    most: float,
) -> Batch:
    """The point of a path from zero whose worth meets the target.

    The worth is a concave, increasing and piecewise linear function of the level, so
    the secant method from the left never passes the root, and is exact once two levels
    lie on its piece.

    Args:
        move: From levels (n,) to points (n, ...) and what they are worth (n,).
        target: (n,) of the worth, not negative.
        level: (n,) a first guess, not above the root.
        most: The highest level, whose point it is where the target is out of reach.
    """
    # One value per sample: NumPy is several times faster than any framework.
    precision = 8 * rounding(target)
    goal, here = (v.astype(np.float64) for v in together(target, level))
    here = np.minimum(here, most)
    before, value_before = 0 * here, 0 * here
    for _ in range(_MOST_STEPS):
        point, worth = move(like(target, here).astype(target.dtype))
        value = to_numpy(worth).astype(np.float64)
        gained = value - value_before
        # Where hardly anything was gained, little that lacks is rounding.
        tolerance = np.where(gained > precision * value, precision, 1e-4) * goal
        short = (goal - value > tolerance) & (here < most)
        if not short.any():
            break
        lacking = np.where(short, goal - value, 0.0)
        step = lacking * (here - before) / np.where(gained > 0, gained, 1.0)
        after = np.minimum(np.where(gained > 0, here + step, most), most)
        before, value_before = here, value
        here = np.where(short, after, here)
    return point


def greedy_shares(rank: Tensor, gain: Tensor, target: PerSample) -> Tensor:
    """Shares in [0, 1] of each gain, taken in descending rank until target is met."""
    size = rank.shape[1]
    # Few are taken as a rule, and to find these is many times faster than to sort all.
    count = min(64, size)
    while True:
        ranks, places = highest(rank, count)
        gains = gain.take_along_axis(places, axis=1)
        before = cumulative_sum(gains)[:, :-1]
        before = stack_columns([gains[:, :1] * 0, before])
        rest = maximum(target, 0.0).expand_dims(1) - before
        short = (rest > gains).logical_and(ranks > 0)
        if count == size or not bool(short[:, -1:].any()):
            break
        count = min(8 * count, size)
    share = where(gains > 0, rest / nonzero(gains), 0.0).clip(0.0, 1.0)
    return spread(share, places, size)


def largest(values: Tensor, count: PerSample) -> Tensor:
    """1 at the floor(count) largest values of each row, ties by position, else 0."""
    size = values.shape[1]
    counts = np.floor(np.nan_to_num(to_numpy(count), posinf=size)).clip(0, size)
    most = int(counts.max(initial=0))
    if most == 0:
        return values * 0
    place = np.maximum(counts - 1, 0).astype(np.int64)[:, None]
    least = top(values, most).take_along_axis(like(values, place), axis=1)
    least = where(like(values, counts == 0), math.inf, least.squeeze(axis=1))
    kept = reaches(values, least.expand_dims(1))
    if not (to_numpy(kept.sum(axis=1)) > counts).any():
        return kept
    tied = (values == least.expand_dims(1)).astype(values.dtype)
    free = like(values, counts).astype(values.dtype) - (kept - tied).sum(axis=1)
    allowed = (cumulative_sum(tied) <= free.expand_dims(1)).astype(values.dtype)
    return kept - tied + tied * allowed


def weighted_threshold(size: Tensor, weight: Tensor, target: PerSample) -> PerSample:
    """The t >= 0 with sum(weight * max(size - t, 0)) = target; 0 if smaller.

    As `soft_threshold`, for positive weights.
    """
    threshold = full(size, 0.0)
    for _ in range(size.shape[1] + 1):
        above = (size > threshold.expand_dims(1)).astype(size.dtype) * weight
        steepness = above.sum(axis=1)
        higher = ((above * size).sum(axis=1) - target) / nonzero(steepness)
        higher = where(steepness == 0, threshold, higher)
        if not bool((higher > threshold).any()):
            break
        threshold = maximum(threshold, higher)
    return threshold


def secular_root(drag: Batch, delta: Batch) -> PerSample:
    """The s >= 0 with sum((delta / (s + drag))^2) = 1; 0 if there is none.

    Newton's method on one over the root of the sum, which is concave and increasing
    and nearly a straight line, so it never passes the root and takes few steps (More,
    Sorensen 1983).
    """
    size, precision = full(delta, 0.0), 8 * rounding(delta)
    for _ in range(_MOST_STEPS):
        grown = drag + expand(size, delta)
        share = delta / nonzero(grown)
        square = total(share.square())
        slope = total(share.square() / nonzero(grown))
        higher = size + (square.sqrt() - 1) * square / nonzero(slope)
        rising = higher > size * (1 + precision)
        if not bool(rising.any()):
            break
        # The others stand: nobody's root may depend on how long another's takes.
        size = where(rising, higher, size)
    return size


def shrink_by_root(size: Tensor, weight: Tensor) -> Tensor:
    """The z >= 0 with the least (z - size)^2 / 2 + weight z^(2/3), entry by entry.

    Args:
        size: Not negative.
        weight: Of the shape of `size`, positive.

    Source:
        Cao, Sun, Xu: Fast image deconvolution using closed-form thresholding formulas
        of Lq (q = 1/2, 2/3) regularization, J. Vis. Commun. Image R. 2013, theorem 1.
    """
    # By roots, since torch rounds other powers differently at the end of its memory,
    # and a sample's result would depend on its place in the batch.
    double = 2 * weight
    half = double.sqrt()
    quarter = half.sqrt()
    # Zero is a minimum too, and below this size the lower one.
    kept = size > 2 / 3 * 3**0.25 * half * quarter
    steep = maximum(27 / 16 * size.square() / (double * half), 1.0)
    root = ((steep + ((steep - 1).sqrt() * (steep + 1).sqrt())).log() / 3).exp()
    shift = 2 / 3**0.5 * quarter * ((root + 1 / root) / 2).sqrt()
    rest = maximum(2 * size / shift - shift.square(), 0.0).sqrt()
    return where(kept, ((shift + rest) / 2) ** 3, 0.0)
