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

import numpy as np

from robustkit.numerics.norms import L0, L1, L2, Linf, Norm
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    clip,
    differs,
    expand,
    like,
    magnitude,
    maximum,
    minimum,
    put,
    reaches,
    rounding,
    take,
    to_numpy,
    together,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["smallest_near"]

_EUCLIDEAN = L2()
_MOST_TURNS, _FEW_TURNS = 200, 20


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
    result = smallest
    if bool(missed.any()):
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
            tolerance: Of the radius, as a share of it, and of the way to the boundary.
        """
        path, found, rough = self, self.nearest, rounding(self.center)
        steep = nonzero(magnitude(self.gradient, 2))
        depth = (total(self.gradient * self.center) - self.level).abs()
        # One value per sample: NumPy is several times faster than any framework.
        numbers = together(
            radius, short, over, steep, depth, magnitude(self.center, 2) + radius
        )
        s = _Search.begin(to_numpy(active), *(v.astype(np.float64) for v in numbers))
        # Where a force does not push too far, a share is known to be inside; where it
        # does before the boundary, to be outside. That decides what only counts.
        decisive = isinstance(self.norm, L0 | Linf)
        for turn in range(_MOST_TURNS):
            count = int(s.active.sum())
            if count == 0 or turn > _FEW_TURNS - 20 * math.log10(tolerance):
                break
            # To a power of two, since every new size is compiled anew by some.
            if (size := 1 << (count - 1).bit_length()) < len(s.row):
                kept = np.argsort(~s.active, kind="stable")[:size]
                path, s = take(path, kept), take(s, kept)
            share, force = (
                like(self.center, v).astype(self.center.dtype)
                for v in (s.share, s.force)
            )
            delta, follows = path._at(share, force)
            excess, value, slope = (
                v.astype(np.float64)
                for v in together(
                    total(path.gradient * delta) - path.level,
                    magnitude(delta - path.center, 2),
                    follows,
                )
            )
            enters = s.turn(
                excess, value - s.radius, slope, turn, rough, tolerance, decisive
            )
            better = np.flatnonzero(enters)
            if len(better):
                found = put(found, s.row[better], take(delta, better))
        return found

    def _at(self, share: PerSample, force: PerSample) -> tuple[Batch, PerSample]:
        """Points (n, ...), and how fast they go down the gradient with the force."""
        free = self.center - self.gradient * expand(force, self.gradient)
        low, high = self.low, self.high
        start = magnitude(self.nearest, math.inf)
        price = start * share / maximum(1 - share, 1e-6)
        follows = self.gradient.square()
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


@dataclass
class _Search:
    """Where the search of `_Path.leave` stands, on the host; arrays (n,) each.

    Attributes:
        row: Which sample each entry speaks of.
        active: Whose search goes on.
        radius: Of the ball.
        steep: Length of the gradient.
        depth: How far from the boundary the center is.
        length: Of center and radius together; what rounding errors are measured by.
        short: Distance from the center less the radius, at `left`.
        over: The same at `right`.
        left: The furthest share known to be inside the ball.
        right: The nearest share known to be outside.
        last: On which side the last share was: 1 inside, -1 outside, 0 not known.
        share: The present one.
        weak: A force known to be too small for the present share; -1 if none is.
        strong: One that is large enough; infinite if none is known.
        force: The present one.
    """

    row: Array
    active: Array
    radius: Array
    steep: Array
    depth: Array
    length: Array
    short: Array
    over: Array
    left: Array
    right: Array
    last: Array
    share: Array
    weak: Array
    strong: Array
    force: Array

    @classmethod
    def begin(
        cls,
        active: Array,
        radius: Array,
        short: Array,
        over: Array,
        steep: Array,
        depth: Array,
        length: Array,
    ) -> "_Search":
        zero, one = np.zeros(len(radius)), np.ones(len(radius))
        return cls(
            row=np.arange(len(radius)),
            active=active,
            radius=radius,
            steep=steep,
            depth=depth,
            length=length,
            short=short,
            over=over,
            left=zero,
            right=one,
            last=zero,
            share=one / 2,
            weak=-one,
            strong=one * math.inf,
            force=radius / steep,
        )

    def turn(
        self,
        excess: Array,
        value: Array,
        slope: Array,
        turn: int,
        rough: float,
        tolerance: float,
        decisive: bool,
    ) -> Array:
        """Go on by one turn; which points (n,) are the best yet.

        Args:
            excess: (n,) how far before the boundary the present points are.
            value: (n,) their distance from the center less the radius.
            slope: (n,) how fast the excess falls with the force.
            turn: Which one this is.
            rough: Rounding of one number.
            tolerance: As in `_Path.leave`.
            decisive: As there.
        """
        inside = value <= tolerance * self.radius
        jump = self.weak >= self.strong * (1 - 4 * rough)
        root = (jump | (self.force == 0)) & (excess <= 0)
        noise = 8 * rough * self.steep * (self.length + self.force * self.steep)
        root |= np.abs(excess) <= np.maximum(noise, tolerance / 4 * self.depth)
        close = root & (np.abs(value) <= tolerance * self.radius)
        if decisive:
            root |= (excess <= 0) == inside
        root &= self.active
        enters: Array = root & inside
        leaves = root & ~inside
        close |= self.right - self.left <= 0.1 * tolerance
        self.active = self.active & ~close

        side = np.where(inside, 1.0, -1.0)
        weight = np.where(side == self.last, 0.5, 1.0)
        over = np.where(leaves, value, self.over)
        self.over = np.where(enters, self.over * weight, over)
        value = np.minimum(value, 0.0)
        short = np.where(enters, value, self.short)
        self.short = np.where(leaves, self.short * weight, short)
        self.left = np.where(enters, self.share, self.left)
        self.right = np.where(leaves, self.share, self.right)
        self.last = np.where(root, side, self.last)
        spread = self.over - self.short
        back = 0.5 if decisive else self.over / np.where(spread == 0, 1.0, spread)
        after = self.right - (self.right - self.left) * back
        self.share = np.where(root, after, self.share)

        before = excess > 0
        self.weak = np.where(root, -1.0, np.where(before, self.force, self.weak))
        strong = np.where(before, self.strong, self.force)
        self.strong = np.where(root, math.inf, strong)
        newton = self.force + excess / np.where(slope == 0, 1.0, slope)
        newton = np.maximum(newton, 0.0)
        # Forces differ by orders of magnitude, so their ratio is halved.
        known = self.strong < math.inf
        high = np.where(known, self.strong, 0.0)
        middle = np.sqrt(np.maximum(self.weak, 1e-3 * high) * high)
        middle = np.where(known, middle, 4 * self.force + 1e-6 * self.length)
        good = (newton > self.weak) & (newton < self.strong) & (slope > 0)
        # Jumps mislead Newton's method, so every fourth turn goes without.
        good &= turn % 4 < 3
        force = np.where(root, self.force, np.where(good, newton, middle))
        met = self.weak >= self.strong * (1 - 4 * rough)
        force = np.where(met, self.strong, force)
        # Of the others it would grow without limit.
        self.force = np.where(self.active, force, 0.0)
        return enters
