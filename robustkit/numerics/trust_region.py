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

from robustkit.numerics.fused import fused
from robustkit.numerics.norms import L0, L1, L2, Linf, Norm, tamed
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    clip,
    differs,
    expand,
    inner_product,
    like,
    magnitude,
    maximum,
    minimum,
    minus,
    put_rows,
    reaches,
    rounding,
    take,
    times,
    to_numpy,
    together,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["smallest_near"]

_EUCLIDEAN = L2()
_MOST_TURNS = 200
# How many of them are leaps, in L1.
_LEAPS = 8


def smallest_near(
    norm: Norm,
    center: Batch,
    gradient: Batch,
    level: PerSample,
    radius: PerSample,
    low: Batch,
    high: Batch,
    tolerance: float = 1e-3,
    turns: int = _MOST_TURNS,
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
        turns: How many points of the path to look at, at most. Where they do not
            suffice, the result is the best of ball and half-space on the straight line
            between two of them; for L0, the last one inside the ball.

    Returns:
        (n, ...) perturbations.
    """
    gradient, level, excess, below, above = _around(center, gradient, level, low, high)
    step = _EUCLIDEAN.project_halfspace(gradient, excess, below, above)
    smallest = norm.project_halfspace(gradient, -level, low, high)
    nearest, missed, cut, known, start, end, short, over, depth, reach, guess = _ends(
        norm, center, gradient, excess, radius, step, smallest
    )
    result = smallest
    if bool(missed.any()):
        furthest = center + _furthest(gradient, radius, below, above)
        result = where(missed, furthest, smallest)
    if not bool(cut.any()):
        return result
    path = _Path(norm, center, gradient, level, low, high, start, end)
    numbers = known, start, short, over, depth, reach, guess
    inner, outer = path.leave(nearest, smallest, cut, numbers, tolerance, turns)
    if isinstance(norm, L0):
        return where(cut, inner, result)
    return _edge(center, inner, outer, known, cut, result)


@fused
def _around(
    center: Batch, gradient: Batch, level: PerSample, low: Batch, high: Batch
) -> tuple[Batch, PerSample, PerSample, Batch, Batch]:
    """The plane by a gradient of length 1, where the center lies, and room around it.

    The search for a force starts and grows by lengths, whatever the gradient's was.
    """
    gradient, steep, unit = tamed(gradient)
    gradient, level = gradient / expand(nonzero(steep), gradient), level / unit
    level = level / nonzero(steep)
    # Rounding may put the center outside of the box.
    below, above = minimum(low - center, 0.0), maximum(high - center, 0.0)
    return gradient, level, inner_product(gradient, center) - level, below, above


@fused
def _ends(
    norm: Norm,
    center: Batch,
    gradient: Batch,
    excess: PerSample,
    radius: PerSample,
    step: Batch,
    smallest: Batch,
) -> tuple[Tensor, ...]:
    """The ends of the path, and what a search along it needs to know.

    Returns:
        (n, ...) the start of the path; (n,) who has none, since ball and box do not
        hold it, and whose path leaves the ball. Of the latter, (n,) each, and of the
        others any number: the radius, the largest changes at start and end, by how much
        start and end are outside of the ball, how far from the boundary the center is,
        the length of center and radius together, and a share of the path at which it
        might leave the ball.
    """
    nearest = center + step
    short = magnitude(step, 2) - radius
    over = magnitude(smallest - center, 2) - radius
    # Rounding must not take a boundary for one that the box does not reach.
    missed = excess + inner_product(gradient, step) > 1e-4 * excess.abs()
    missed = missed.logical_or(short >= 0)
    cut = (over > 0).logical_and(missed.logical_not())
    # Of the others they may be infinite.
    radius, over = where(cut, radius, 1.0), where(cut, over, 1.0)
    short = where(cut, short, -1.0)
    start, end = magnitude(nearest, math.inf), magnitude(smallest, math.inf)
    # How far it may still go, if the start lies apart from the center by a step at a
    # right angle.
    room = maximum(radius.square() - (radius + short).square(), 0.0).sqrt()
    length = nonzero(magnitude(nearest, 2))
    if isinstance(norm, L2):
        guess = -short / nonzero(over - short)
    elif isinstance(norm, Linf):
        fall = room * start / length
        guess = fall / nonzero(fall + start - end)
    else:
        wide = nonzero(magnitude(nearest, 1)) / length
        price = room / wide
        guess = price / nonzero(price + start)
    guess = minimum(maximum(guess, 0.01), 0.9)
    depth, reach = excess.abs(), magnitude(center, 2) + radius
    return nearest, missed, cut, radius, start, end, short, over, depth, reach, guess


def _furthest(gradient: Batch, radius: PerSample, low: Batch, high: Batch) -> Batch:
    """The step in ball and box that goes furthest down the gradient."""
    # What is nearest to a point far down the gradient, in any feature that has one.
    peak = nonzero(magnitude(gradient, math.inf))
    far = gradient * expand(-1e6 * radius / peak, gradient)
    return _EUCLIDEAN.project_box(far, radius, low, high)


@fused
def _edge(
    center: Batch,
    inner: Batch,
    outer: Batch,
    radius: PerSample,
    cut: Mask,
    rest: Batch,
) -> Batch:
    """Where the straight line from a point of the ball to one outside leaves it.

    Where it is not `cut` by the edge, the rest.
    """
    start, way = inner - center, outer - inner
    square = nonzero(inner_product(way, way))
    along = inner_product(start, way) / square
    room = maximum(radius.square() - inner_product(start, start), 0.0) / square
    share = minimum((along.square() + room).sqrt() - along, 1.0)
    edge = inner + way * expand(maximum(share, 0.0), way)
    return where(cut, edge, rest)


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
        gradient: (n, ...) of length 1, or zero.
        level: (n,) of the boundary.
        low: (n, ...) of the box.
        high: (n, ...) of the box.
        start: (n,) the largest change of where the path starts.
        end: (n,) that of where it ends.
    """

    norm: Norm
    center: Batch
    gradient: Batch
    level: PerSample
    low: Batch
    high: Batch
    start: PerSample
    end: PerSample

    def leave(
        self,
        nearest: Batch,
        smallest: Batch,
        active: Mask,
        numbers: tuple[PerSample, ...],
        tolerance: float,
        turns: int,
    ) -> tuple[Batch, Batch]:
        """Points (n, ...) just before and behind where the path leaves the ball.

        Two searches in one loop, so that no sample waits for another. Newton's method,
        kept between two forces known to lie on either side, looks for the force that
        pushes the present share to the boundary. Each time it is found, false position
        (the end that stays counts half, the Illinois rule) goes on to the next share.
        In L1 a few leaps to where both would be right come first: near a minimum force
        and price are many times what the ball leaves of them together, and the two
        searches take many turns to get there.

        Args:
            nearest: (n, ...) where the path starts; the rows of those who are active
                may be written into, here and of the next.
            smallest: (n, ...) where it ends.
            active: (n,) which samples to work on.
            numbers: (n,) each, as `_Search.begin` takes them.
            tolerance: Of the radius, as a share of it, and of the way to the boundary.
            turns: How many forces to try, at most.
        """
        path, inner, outer = self, nearest, smallest
        rough = rounding(self.center)
        # One value per sample: NumPy is several times faster than any framework.
        begin = (v.astype(np.float64) for v in together(*numbers))
        s = _Search.begin(to_numpy(active), *begin)
        guess, leaps = s.share, _LEAPS if isinstance(self.norm, L1) else 0
        if leaps:
            # From the center itself.
            s.share, s.force = 0 * s.share, 0 * s.force
        # Where a force does not push too far, a share is known to be inside; where it
        # does before the boundary, to be outside. That decides what only counts.
        decisive = isinstance(self.norm, L0 | Linf)
        for turn in range(turns):
            count = int(s.active.sum())
            if count == 0:
                break
            # To a power of two, since every new size is compiled anew by some.
            if (size := 1 << (count - 1).bit_length()) < len(s.row):
                kept = np.argsort(~s.active, kind="stable")[:size]
                path, s = take(path, kept), take(s, kept)
            if turn == leaps > 0:
                s.share, s.force = guess[s.row], s.radius
            share, force = (
                like(self.center, v).astype(self.center.dtype)
                for v in (s.share, s.force)
            )
            delta, *sums = path.at(share, force)
            excess, distance, *slopes = (v.astype(np.float64) for v in together(*sums))
            if turn < leaps:
                enters = s.leap(excess, distance, slopes, rough, tolerance)
                leaves = np.zeros_like(enters)
            else:
                value, slope = distance - s.radius, slopes[0]
                enters, leaves = s.turn(
                    excess, value, slope, turn, rough, tolerance, decisive
                )
            if len(better := np.flatnonzero(enters)):
                inner = put_rows(inner, s.row[better], delta, better, reuse=True)
            if len(worse := np.flatnonzero(leaves)):
                outer = put_rows(outer, s.row[worse], delta, worse, reuse=True)
        return inner, outer

    def at(self, share: PerSample, force: PerSample) -> tuple[Tensor, ...]:
        """Points (n, ...) at shares (n,) of the path, under forces (n,).

        And of each (n,) how far it lies before the boundary, how far from the center,
        and how fast it goes down the gradient with the force; for L1 how fast it goes
        up the gradient with the price, and how many of its features move with it.
        """
        return _at(
            self.norm,
            self.center,
            self.gradient,
            self.level,
            self.low,
            self.high,
            self.start,
            self.end,
            share,
            force,
        )


@fused
def _at(
    norm: Norm,
    center: Batch,
    gradient: Batch,
    level: PerSample,
    low: Batch,
    high: Batch,
    start: PerSample,
    end: PerSample,
    share: PerSample,
    force: PerSample,
) -> tuple[Tensor, ...]:
    """As `_Path.at`."""
    push = times(gradient, expand(force, gradient))
    if isinstance(norm, L2):
        free = minus(times(center, expand(1 - share, center)), push, reuse=True)
    else:
        free = minus(center, push, reuse=True)
    if isinstance(norm, Linf):
        edge = expand(start + share * (end - start), free)
        # The box holds zero, so the order does not matter.
        delta = clip(clip(free, -edge, edge), low, high, reuse=True)
    elif isinstance(norm, L1):
        edge = expand(_price(start, share), free)
        free = minus(free, clip(free, -edge, edge))
        delta = clip(free, low, high)
    else:
        delta = clip(free, low, high)
    moves = 1 - differs(free, delta)
    if isinstance(norm, L0):
        saving = norm.summed(free.square() - (free - delta).square())
        kept = reaches(saving, expand(_price(start, share).square(), saving))
        moves, delta = moves * kept, delta * kept
    elif isinstance(norm, L1):
        # With the sign by which the price moves it; it holds what is zero.
        moves = times(free.sign(), moves, reuse=True)
    moved = times(gradient, moves)
    before = inner_product(gradient, delta) - level
    sums = [before, magnitude(delta - center, 2), inner_product(moved, moved)]
    if isinstance(norm, L1):
        sums += [-inner_product(gradient, moves), inner_product(moves, moves)]
    return delta, *sums


def _price(start: PerSample, share: PerSample) -> PerSample:
    """Of a changed feature, or of each unit of its change."""
    return start * share / maximum(1 - share, 1e-6)


@dataclass
class _Search:
    """Where the search of `_Path.leave` stands, on the host; arrays (n,) each.

    Attributes:
        row: Which sample each entry speaks of.
        active: Whose search goes on.
        radius: Of the ball.
        start: The largest change of where the path starts.
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
    start: Array
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
        start: Array,
        short: Array,
        over: Array,
        depth: Array,
        length: Array,
        share: Array,
    ) -> "_Search":
        zero, one = np.zeros(len(radius)), np.ones(len(radius))
        return cls(
            row=np.arange(len(radius)),
            active=active,
            radius=radius,
            start=start,
            depth=depth,
            length=length,
            short=short,
            over=over,
            left=zero,
            right=one,
            last=zero,
            share=share,
            weak=-one,
            strong=one * math.inf,
            force=radius,
        )

    def leap(
        self,
        excess: Array,
        distance: Array,
        slopes: list[Array],
        rough: float,
        tolerance: float,
    ) -> Array:
        """Go on by one turn in L1, to where share and force would both be right.

        They would be if the features that move stayed the same: then the excess is
        linear in force and price, and the squared distance from the center quadratic.

        Args:
            excess: (n,) as in `turn`.
            distance: (n,) of the present points from the center.
            slopes: (n,) how fast the excess falls with the force, and how fast it grows
                with the price; (n,) how many features move.
            rough: As in `turn`.
            tolerance: As there.

        Returns:
            (n,) whose search ends at the present points.
        """
        slope, tilt, count = slopes
        with np.errstate(all="ignore"):
            price = self.start * self.share / (1 - self.share)
            flat = excess + slope * self.force - tilt * price
            moved = slope * self.force**2 - 2 * tilt * self.force * price
            fixed = distance**2 - moved - count * price**2
            room = self.radius**2 - fixed
            after = _root((room - flat**2 / slope) / (count - tilt**2 / slope))
            force = (flat + tilt * after) / slope
            idle = ~(force > 0)
            force = np.where(idle, 0.0, force)
            after = np.where(idle, _root(room / count), after)
            share = np.minimum(after / (after + self.start), 0.999)
        close = self._meets(excess, rough, tolerance)
        close &= np.abs(distance - self.radius) <= tolerance * self.radius
        close &= self.active
        self.active = self.active & ~close
        # One feature that moves cannot do both; another force may move more.
        known = np.isfinite(share + force)
        self.share = np.where(known, share, self.share)
        force = np.where(known, force, self.radius)
        self.force = np.where(self.active, force, 0.0)
        return close

    def _meets(self, excess: Array, rough: float, tolerance: float) -> Array:
        """Whose point is as good as on the boundary, or beyond it without any force."""
        noise = 8 * rough * (self.length + self.force)
        near = np.abs(excess) <= np.maximum(noise, tolerance / 4 * self.depth)
        met: Array = near | (self.force == 0) & (excess <= 0)
        return met

    def turn(
        self,
        excess: Array,
        value: Array,
        slope: Array,
        turn: int,
        rough: float,
        tolerance: float,
        decisive: bool,
    ) -> tuple[Array, Array]:
        """Go on by one turn; which points (n,) are the best yet inside and outside.

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
        root = jump & (excess <= 0) | self._meets(excess, rough, tolerance)
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
        return enters, leaves


def _root(square: Array) -> Array:
    root: Array = np.sqrt(np.maximum(square, 0.0))
    return root
