"""Levels and thresholds: the one-dimensional problems behind the projections.

Each is solved for every row of a batch at once, without a pass of any model.
"""

import math

import numpy as np

from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    Tensor,
    cumulative_sum,
    flatten,
    full,
    like,
    maximum,
    minimum,
    rounding,
    stack_columns,
    where,
)

__all__ = [
    "capped_threshold",
    "fill",
    "greedy_shares",
    "largest",
    "nonzero",
    "soft_threshold",
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
        # Numbers, because products are many times faster than choices by a mask.
        filled = (capacity <= slope * level.expand_dims(1)).astype(slope.dtype)
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

    Newton's method on a convex, decreasing, piecewise linear function (Michelot 1986).
    """
    excess = size.sum(axis=1) - radius
    threshold = maximum(excess, 0.0) / max(size.shape[1], 1)
    for _ in range(size.shape[1] + 1):
        above = size > threshold.expand_dims(1)
        count = above.astype(size.dtype).sum(axis=1)
        higher = (where(above, size, 0.0).sum(axis=1) - radius) / nonzero(count)
        higher = where(count == 0, threshold, higher)
        if not bool((higher > threshold).any()):
            break
        threshold = maximum(threshold, higher)
    return threshold


def capped_threshold(size: Tensor, room: Tensor, radius: PerSample) -> PerSample:
    """The t >= 0 with sum(min(room, max(size - t, 0))) = radius; 0 if smaller.

    The sum is decreasing and piecewise linear in t: Newton's method, kept between two
    thresholds known to lie on either side, ends once the pieces around the root stand.
    """
    if size.shape[1] == 0:
        return radius * 0
    low, high = full(size, 0.0), size.max(axis=1)
    threshold, precision = low, 8 * rounding(size)
    for _ in range(_MOST_STEPS):
        over = size - threshold.expand_dims(1)
        excess = minimum(room, maximum(over, 0.0)).sum(axis=1) - radius
        moving = (over > 0).logical_and(over < room)
        slope = moving.astype(size.dtype).sum(axis=1)
        low = where(excess >= 0, threshold, low)
        high = where(excess <= 0, threshold, high)
        after = threshold + excess / nonzero(slope)
        inside = (after > low).logical_and(after < high)
        after = where(inside.logical_and(slope > 0), after, (low + high) / 2)
        close = excess.abs() <= precision * radius
        if bool(close.logical_or(high - low <= precision * high).all()):
            break
        threshold = where(close, threshold, after)
    enough = minimum(size, room).sum(axis=1) > radius
    return where(enough, threshold, 0.0)


def greedy_shares(rank: Tensor, gain: Tensor, target: PerSample) -> Tensor:
    """Shares in [0, 1] of each gain, taken in descending rank until target is met."""
    order = (-rank).argsort(axis=1)
    sorted_gain = gain.take_along_axis(order, axis=1)
    before = cumulative_sum(sorted_gain)[:, :-1]
    before = stack_columns([sorted_gain[:, :1] * 0, before])
    rest = maximum(target, 0.0).expand_dims(1) - before
    share = where(sorted_gain > 0, rest / nonzero(sorted_gain), 0.0).clip(0.0, 1.0)
    return share.take_along_axis(order.argsort(axis=1), axis=1)


def largest(values: Tensor, count: PerSample) -> Tensor:
    """True at the floor(count) largest values of each row, ties by position."""
    size = values.shape[1]
    counts = np.floor(np.nan_to_num(count.numpy(), posinf=size)).clip(0, size)
    most = int(counts.max(initial=0))
    if most == 0:
        return values != values
    top = values.topk(most, sorted=True)[0]
    place = np.maximum(counts - 1, 0).astype(np.int64)[:, None]
    least = top.take_along_axis(like(values, place), axis=1)
    least = where(like(values, counts == 0), math.inf, least.squeeze(axis=1))
    above = values > least.expand_dims(1)
    tied = values == least.expand_dims(1)
    free = like(values, counts).astype(values.dtype) - above.astype(values.dtype).sum(
        axis=1
    )
    place_among_tied = cumulative_sum(tied.astype(values.dtype))
    return above.logical_or(tied.logical_and(place_among_tied <= free.expand_dims(1)))
