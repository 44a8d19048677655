"""The smallest perturbation beyond a linear boundary, not far from where one stands.

    minimise    norm(delta)
    subject to  gradient . delta <= level
                |delta - center|_2 <= radius
                low <= delta <= high

for the whole batch at once. Three points decide each sample: the smallest perturbation
beyond the boundary, which solves the problem if the ball holds it; the point beyond the
boundary nearest to the center, which the ball must hold; and where the edge of the ball
comes between the two, a point of a path from one to the other (`_Path`).
"""

import math
from dataclasses import dataclass

from robustkit.numerics.norms import L0, L1, L2, Linf, Norm
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    clip,
    differs,
    expand,
    full,
    magnitude,
    maximum,
    minimum,
    reaches,
    rounding,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["smallest_near"]

_EUCLIDEAN = L2()
_MOST_TURNS = 200


def smallest_near(
    norm: Norm,
    center: Batch,
    gradient: Batch,
    level: PerSample,
    radius: PerSample,
    low: Batch,
    high: Batch,
    tolerance: float = 1e-3,
) -> Batch:
    """The smallest delta of ball and box with gradient . delta <= level.

    Where ball and box hold no such point, the one that comes nearest to it. Exact for
    L1, L2 and Linf. For L0, which is not convex, the path leads over points that are
    best at some price per changed feature, and the best of all may lie beside it.

    Args:
        norm: To be minimised.
        center: (n, ...) of the ball, inside the box.
        gradient: (n, ...) the normal of the boundary.
        level: (n,) of the boundary.
        radius: (n,) of the ball, an L2 length whatever the norm.
        low: (n, ...) the least that delta may be; at most zero.
        high: (n, ...) the most that it may be; at least zero.
        tolerance: Of the radius, as a share of it.

    Returns:
        (n, ...) perturbations.
    """
    peak = nonzero(magnitude(gradient, math.inf))
    gradient, level = gradient / expand(peak, gradient), level / peak
    # Rounding may put the center outside of the box.
    below, above = minimum(low - center, 0.0), maximum(high - center, 0.0)
    excess = total(gradient * center) - level
    step = _EUCLIDEAN.project_halfspace(gradient, excess, below, above)
    nearest = center + step
    smallest = norm.project_halfspace(gradient, -level, low, high)
    short = magnitude(step, 2) - radius
    over = magnitude(smallest - center, 2) - radius
    # Rounding must not take a boundary for one that the box does not reach.
    missed = excess + total(gradient * step) > 1e-4 * excess.abs()
    missed = missed.logical_or(short >= 0)
    furthest = center + _furthest(gradient, radius, below, above)
    result = where(missed, furthest, smallest)
    cut = (over > 0).logical_and(missed.logical_not())
    if not bool(cut.any()):
        return result
    path = _Path(norm, center, gradient, level, low, high, nearest, smallest)
    return where(cut, path.leave(radius, short, over, cut, tolerance), result)


def _furthest(gradient: Batch, radius: PerSample, low: Batch, high: Batch) -> Batch:
    """The step in ball and box that goes furthest down the gradient."""
    # What is nearest to a point far down the gradient, whose largest entry is 1.
    far = gradient * expand(-1e6 * radius, gradient)
    return _EUCLIDEAN.project_box(far, radius, low, high)


@dataclass(frozen=True)
class _Path:
    """From the point beyond the boundary nearest to the center to the smallest one.

    At each share of it, from 0 to 1, the center is shrunk (scaled for L2,
    soft-thresholded for L1, clipped for Linf, hard-thresholded for L0), the more the
    larger the share, and pushed beyond the boundary by a multiple of the gradient, the
    force. Such a point has the least weighted sum of norm and squared distance from the
    center, so it gets smaller and further from the center along the path.

    Attributes:
        norm: To be minimised.
        center: (n, ...) as everything else in `smallest_near`.
        gradient: (n, ...) whose largest entry is 1.
        level: (n,) of the boundary.
        low: (n, ...) of the box.
        high: (n, ...) of the box.
        nearest: (n, ...) where the path starts.
        smallest: (n, ...) where it ends.
    """

    norm: Norm
    center: Batch
    gradient: Batch
    level: PerSample
    low: Batch
    high: Batch
    nearest: Batch
    smallest: Batch

    def leave(
        self,
        radius: PerSample,
        short: PerSample,
        over: PerSample,
        active: Mask,
        tolerance: float,
    ) -> Batch:
        """The points (n, ...) at which the path leaves the ball.

        Two searches in one loop, so that no sample waits for another. Newton's method,
        kept between two forces known to lie on either side, looks for the force that
        pushes the present share to the boundary. Each time it is found, false position
        (the end that stays counts half, the Illinois rule) goes on to the next share.

        Args:
            radius: (n,) of the ball.
            short: (n,) distance from the center less the radius where the path starts.
            over: (n,) the same where it ends.
            active: (n,) which samples to work on.
            tolerance: Of the radius, as a share of it.
        """
        zero, one = full(self.center, 0.0), full(self.center, 1.0)
        squares = self.gradient.square()
        steep, rough = nonzero(magnitude(self.gradient, 2)), rounding(self.center)
        length = magnitude(self.center, 2) + radius
        # Where a force does not push too far, a share is known to be inside; where it
        # does before the boundary, to be outside. That decides what only counts.
        decisive = isinstance(self.norm, L0 | Linf)
        left, right, last, share = zero, one, zero, one / 2
        weak, strong, force = -one, one * math.inf, radius / steep
        found = self.nearest
        for turn in range(_MOST_TURNS):
            delta, slope = self._at(share, force, squares)
            excess = total(self.gradient * delta) - self.level
            value = magnitude(delta - self.center, 2) - radius
            inside = value <= tolerance * radius

            jump = weak >= strong * (1 - 4 * rough)
            root = jump.logical_or(force == 0).logical_and(excess <= 0)
            noise = 8 * rough * steep * (length + force * steep)
            root = root.logical_or(excess.abs() <= noise)
            close = root.logical_and(value.abs() <= tolerance * radius)
            if decisive:
                root = root.logical_or((excess <= 0) == inside)
            root = root.logical_and(active)
            enters = root.logical_and(inside)
            leaves = root.logical_and(inside.logical_not())
            found = where(enters, delta, found)
            close = close.logical_or(right - left <= 0.1 * tolerance)
            active = active.logical_and(close.logical_not())
            if not bool(active.any()):
                break

            side = where(inside, one, -1.0)
            weight = where(side == last, one / 2, 1.0)
            over = where(enters, over * weight, where(leaves, value, over))
            value = minimum(value, 0.0)
            short = where(leaves, short * weight, where(enters, value, short))
            left, right = where(enters, share, left), where(leaves, share, right)
            last = where(root, side, last)
            back = one / 2 if decisive else over / nonzero(over - short)
            share = where(root, right - (right - left) * back, share)

            weak = where(root, -1.0, where(excess > 0, force, weak))
            strong = where(root, math.inf, where(excess <= 0, force, strong))
            newton = maximum(force + excess / nonzero(slope), 0.0)
            # Forces differ by orders of magnitude, so their ratio is halved.
            middle = (maximum(weak, 1e-3 * strong) * strong).sqrt()
            middle = where(strong < math.inf, middle, 4 * force + 1e-6 * length)
            good = (newton > weak).logical_and(newton < strong).logical_and(slope > 0)
            # Jumps mislead Newton's method, so every fourth turn goes without.
            good = good.logical_and(zero + turn % 4 < 3)
            force = where(root, force, where(good, newton, middle))
            force = where(weak >= strong * (1 - 4 * rough), strong, force)
            # Of the others it would grow without limit.
            force = where(active, force, 0.0)
        return found

    def _at(
        self, share: PerSample, force: PerSample, squares: Batch
    ) -> tuple[Batch, PerSample]:
        """Points (n, ...), and how fast they go down the gradient with the force."""
        free = self.center - self.gradient * expand(force, self.gradient)
        low, high = self.low, self.high
        start = magnitude(self.nearest, math.inf)
        price = start * share / maximum(1 - share, 1e-6)
        follows = squares
        if isinstance(self.norm, L2):
            free = free - self.center * expand(share, free)
        if isinstance(self.norm, Linf):
            end = magnitude(self.smallest, math.inf)
            edge = expand(start + share * (end - start), free)
            low, high = maximum(low, -edge), minimum(high, edge)
        if isinstance(self.norm, L1):
            edge = expand(price, free)
            free = free - clip(free, -edge, edge)
            follows = follows * differs(free, 0.0)
        delta = clip(free, low, high)
        follows = follows * (1 - differs(free, delta))
        if isinstance(self.norm, L0):
            saving = self.norm.summed(free.square() - (free - delta).square())
            kept = reaches(saving, expand(price.square(), saving))
            delta, follows = delta * kept, follows * kept
        return delta, total(follows)
