"""A step along a linear boundary in L2: nearly the best one, found in few looks.

`trust_region.smallest_near` looks for the smallest perturbation in ball, box and
half-space as for something new each time. Without a box that has a closed form. How
much more the perturbation has to shrink for the box's sake changes little from one step
of a walk to the next, so the step before tells it, and what the step turns out to be
long corrects that for the step after. A few looks then find the boundary.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from robustkit.numerics.fused import fused
from robustkit.numerics.norms import tamed
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    clip,
    differs,
    expand,
    full,
    inner_product,
    is_symbolic,
    magnitude,
    maximum,
    minimum,
    minus,
    put,
    take,
    times,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["glide"]

# How far beyond the plane to aim, and how near to there is near enough, as shares of
# the way.
_OVERSHOOT, _TOLERANCE = 0.1, 0.05
# By what factor the price may change from step to step, and what it stays below: where
# nothing is left to be shrunk, it would grow for ever.
_PRICE, _HIGHEST = 1.5, 1e3
# By what factor the force may grow from look to look.
_FORCE = 4.0
# How many looks, at most.
_TURNS = 3
# Farther than any step leads, and its square is a number.
_FAR = 1e9


@fused
def glide(
    before: Batch,
    price: PerSample,
    delta: Batch,
    margin: PerSample,
    gradient: Batch,
    momentum: PerSample,
    radius: PerSample,
    low: Batch,
    high: Batch,
) -> tuple[Batch, Batch, PerSample]:
    """A step of a walk along the boundary.

    To about the smallest perturbation beyond the plane, inside the box and not much
    further away than the trust radius; where the plane is further, to where the way
    straight towards it is as long as that.

    Args:
        before: (n, ...) average of the boundary's normals so far.
        price: (n,) how much the perturbation shrinks, of what the trust radius would
            allow without a box; 1 at the start of a walk.
        delta: (n, ...) where the walk stands, inside the box.
        margin: (n,) there.
        gradient: (n, ...) of the margin there.
        momentum: (n,) weight of the past in the average of the normals.
        radius: (n,) of the trust region, an L2 length; infinite: as far as the
            shortest way to the plane takes, and a half more.
        low: (n, ...) the least that delta may be; at most zero.
        high: (n, ...) the most that it may be; at least zero.

    Returns:
        (n, ...) the perturbation, and for the next step the average of the normals and
        the price.
    """
    gradient, slope, unit = tamed(gradient)
    slope = nonzero(slope)
    # Where an answer was no number, the margin is infinite.
    height = maximum(minimum(margin / unit / slope, _FAR), -_FAR)
    normal = times(before, expand(momentum, before))
    normal = normal + times(gradient, expand((1 - momentum) / slope, gradient))
    length = nonzero(magnitude(normal, 2))
    radius = where(radius < math.inf, radius, 1.5 * height.abs())
    along = inner_product(normal, delta) / length
    # No further than the ball allows.
    way = minimum((height + _OVERSHOOT * height.abs()) / length, 0.99 * radius)
    direction = times(normal, expand(1 / length, normal))
    s = _started(delta, direction, along, way, radius, price, low, high)
    s = _reached(s.seen(), _TURNS)

    step, push = magnitude(s.delta - delta, 2), way.abs()
    ratio = _leg(radius, push) / nonzero(_leg(step, push))
    bounded = maximum(minimum(ratio, _PRICE), 1 / _PRICE)
    ratio = where(step > push, bounded, _PRICE)
    # What did not come near the boundary says little of the price, but where it went
    # too far.
    tells = (s.excess.abs() <= 0.5 * push).logical_or(step > radius)
    after = maximum(minimum(price * ratio, _HIGHEST), 1 / _HIGHEST)
    return s.delta, normal, where(tells, after, price)


def _leg(longest: PerSample, other: PerSample) -> PerSample:
    """The third side of a right-angled triangle."""
    return maximum(longest.square() - other.square(), 0.0).sqrt()


def _started(
    delta: Batch,
    gradient: Batch,
    along: PerSample,
    way: PerSample,
    radius: PerSample,
    price: PerSample,
    low: Batch,
    high: Batch,
) -> "_Search":
    """The search, with the point where it looks first."""
    # Without a box, what is at a right angle to the gradient is shrunk, unless to
    # shrink it all does not lead to this side of the plane.
    level, room, length = along - way, _leg(radius, way), magnitude(delta, 2)
    share = room / nonzero(_leg(length, along))
    free = minimum(radius / nonzero(length), 1.0)
    share = where((1 - free) * along <= level, free, share)
    share = minimum(price * share, 1.0)
    base = times(delta, expand(1 - share, delta))
    return _Search(
        base=base,
        gradient=gradient,
        level=level,
        low=low,
        high=high,
        tolerance=_TOLERANCE * way.abs(),
        radius=radius,
        force=maximum((1 - share) * along - level, 0.0),
        weak=full(delta, 0.0),
        strong=full(delta, math.inf),
        free=base,
        delta=base,
        excess=way,
    )


@dataclass(frozen=True)
class _Search:
    """For the force that pushes the shrunk perturbation just beyond the boundary.

    Newton's method, kept between two forces known to lie on either side.

    Attributes:
        base: (n, ...) what is pushed.
        gradient: (n, ...) against what, of length 1.
        level: (n,) of the boundary.
        low: (n, ...) of the box.
        high: (n, ...) the same.
        tolerance: (n,) how near to the boundary is near enough.
        radius: (n,) what a first force may be.
        force: (n,) the present one.
        weak: (n,) one known to be too small.
        strong: (n,) one known to be large enough; infinite if none is.
        free: (n, ...) the present point but for the box.
        delta: (n, ...) the present point.
        excess: (n,) how far before the boundary that is.
    """

    base: Batch
    gradient: Batch
    level: PerSample
    low: Batch
    high: Batch
    tolerance: PerSample
    radius: PerSample
    force: PerSample
    weak: PerSample
    strong: PerSample
    free: Batch
    delta: Batch
    excess: PerSample

    @property
    def done(self) -> Mask:
        """(n,) whose point is near enough, or would only be worse with less force."""
        beyond = (self.force <= 0).logical_and(self.excess <= 0)
        return beyond.logical_or(self.excess.abs() <= self.tolerance)

    def seen(self) -> "_Search":
        """With the point that the present force leads to."""
        push = times(self.gradient, expand(self.force, self.gradient))
        free = minus(self.base, push, reuse=True)
        delta = clip(free, self.low, self.high)
        excess = inner_product(self.gradient, delta) - self.level
        return dataclasses.replace(self, free=free, delta=delta, excess=excess)

    def forced(self) -> "_Search":
        """With the next force for those that are not done."""
        moved = times(1 - differs(self.free, self.delta), self.gradient, reuse=True)
        slope, before = inner_product(moved, moved), self.excess > 0
        weak = where(before, self.force, self.weak)
        strong = where(before, self.strong, self.force)
        longest = _FORCE * self.force + self.radius
        newton = self.force + self.excess / nonzero(slope)
        newton = maximum(minimum(newton, longest), 0.0)
        # Forces differ by orders of magnitude, so their ratio is halved.
        high = where(strong < math.inf, strong, longest)
        middle = (maximum(weak, 1e-3 * high) * high).sqrt()
        good = (newton >= weak).logical_and(newton < strong).logical_and(slope > 0)
        force = where(self.done, self.force, where(good, newton, middle))
        return dataclasses.replace(self, force=force, weak=weak, strong=strong)


def _reached(s: _Search, turns: int) -> _Search:
    """The end of a search, after so many looks at most, the first one done."""
    for turn in range(turns - 1):
        if not is_symbolic(s.base):
            rows = np.flatnonzero(~to_numpy(s.done))
            if len(rows) == 0:
                return s
            if 2 * len(rows) <= len(s.done):
                # Nobody waits for the others.
                rest = _reached(take(s, rows), turns - turn)
                return dataclasses.replace(
                    s,
                    delta=put(s.delta, rows, rest.delta, reuse=True),
                    excess=put(s.excess, rows, rest.excess),
                )
        s = s.forced().seen()
    return s
