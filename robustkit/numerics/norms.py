"""L0, L1, L2, Linf: one object each, holding all of its geometry.

Notation in this module: `delta` is a perturbation (n, ...) in input units; `low` and
`high` (n, ...) bound it, so that low <= 0 <= high elementwise (for inputs x in the box
[l, u] they are l - x and u - x). Every projection is exact: it solves its problem in
closed form or by finitely many Newton steps on a piecewise linear function, for the
whole batch at once.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.errors import BadInput, suggestion
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.fused import fused
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    Tensor,
    clip,
    differs,
    expand,
    flatten,
    floor,
    full,
    inner_product,
    is_symbolic,
    magnitude,
    maximum,
    minimum,
    minus,
    plus,
    plus_times,
    put,
    reaches,
    signed,
    take,
    times,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import (
    capped_threshold,
    greedy_shares,
    largest,
    meet,
    nonzero,
    secular_root,
    shrink_by_root,
    soft_threshold,
    weighted_threshold,
)

__all__ = ["L0", "L1", "L2", "NORMS", "Linf", "Norm", "get_norm", "tamed"]

# Farther than any box is wide, and finite: infinity times zero is no number.
_FURTHEST = 1e30


class Norm(ABC):
    """A way to measure perturbations, and the geometry of its ball.

    Attributes:
        name: For people and tables.
        pure: Whether projections on ball and box decide nothing by the numbers in a
            tensor, so that they can be compiled (`numerics.fused`) as a part of others.
    """

    name: ClassVar[str]
    pure: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, delta: Batch) -> PerSample:
        """The size of each perturbation (n,), in norm units."""

    @abstractmethod
    def dual(self, gradient: Batch) -> PerSample:
        """The most that g . delta can be for a delta of size 1 (n,)."""

    @abstractmethod
    def project(self, delta: Batch, radius: PerSample) -> Batch:
        """The point of the ball of `radius` nearest to `delta` in the L2 sense."""

    @abstractmethod
    def project_box(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        """The point of ball and box together nearest to `delta` in the L2 sense."""

    def project_loosely(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        """What becomes `project_box` once it is clipped to the box.

        For what is clipped anyway. The memory of `delta` may be taken for the result.
        """
        return self.project_box(delta, radius, low, high)

    @abstractmethod
    def project_halfspace(
        self, gradient: Batch, margin: PerSample, low: Batch, high: Batch
    ) -> Batch:
        """The smallest delta in the box with margin + gradient . delta <= 0.

        Where no point of the box reaches the half-space, the result is the corner of
        the box that comes nearest to it. Zero where the margin is not positive.
        """

    @abstractmethod
    def proximal(self, delta: Batch, curvature: Batch, weight: PerSample) -> Batch:
        """The z with the least sum of curvature (z - delta)^2 / 2, plus weight |z|.

        How far `delta` is pulled back when its size is a cost: every feature comes
        nearer to zero or stays, so what was inside a box around zero still is.

        Args:
            delta: (n, ...) perturbation.
            curvature: (n, ...) what it costs to move each feature; positive.
            weight: (n,) of the size, not negative.
        """

    @abstractmethod
    def stride(
        self,
        gradient: Batch,
        radius: PerSample,
        share: PerSample | float,
        point: Batch,
        bounds: Bounds,
    ) -> Batch:
        """The step up the gradient that is a `share` as long as the ball of `radius`.

        Features that stand at a bound and would be pushed out of it by a step *down*
        take no part, so that the others share the whole length: without this, attacks
        on images with many black or white pixels find little. Zero where the gradient
        is. In memory that nobody else holds.

        Args:
            gradient: (n, ...) of what is to be lowered.
            radius: (n,) in norm units.
            share: Of the ball, (n,) or one for all.
            point: (n, ...) the input that the step is to start from.
            bounds: Of valid inputs.
        """

    def to_boundary(self, margin: PerSample, gradient: Batch) -> PerSample:
        """The distance (n,) to margin zero if the model were linear; no box.

        Infinite where the gradient vanishes, zero where the margin is not positive.
        """
        slope = self.dual(gradient)
        flat = slope == 0
        reach = maximum(margin, 0.0) / where(flat, 1.0, slope)
        return where(flat, math.inf, reach)

    def slack(self, margin: PerSample, gradient: Batch, delta: Batch) -> PerSample:
        """How much smaller (n,) `delta` could be if the model were linear.

        Args:
            margin: (n,) at `delta`; where it is not below zero the slack is zero.
            gradient: (n, ...) of the margin there.
            delta: (n, ...) perturbation.
        """
        return self.to_boundary(-margin, gradient)

    def towards(self, delta: Batch, share: PerSample) -> Batch:
        """The point a `share` (n,) of the way from zero to `delta`.

        Its size is `share` times the size of `delta` (rounded down for L0). It is the
        projection of `delta` on that ball: a straight line for L2, clipped values for
        Linf, the features that matter most for L1 and L0.
        """
        return self.project(delta, self(delta) * share)

    def shrink(self, radius: PerSample, needed: PerSample, gamma: float) -> PerSample:
        """`radius` less a share `gamma`, or more if less is `needed` (n,).

        It falls by no more than four times that share, and by no more than a half,
        since what is needed is known of a linear model only.
        """
        least = self.scale_down(radius, max(1 - 4 * gamma, 0.5))
        return minimum(maximum(needed, least), self.scale_down(radius, 1 - gamma))

    def check(self, x: Batch) -> None:
        """Whether inputs like `x` can be measured.

        Raises:
            BadInput: Pixels are to be counted in inputs that have none.
        """
        return None

    def scale_down(self, radius: PerSample, factor: float) -> PerSample:
        """`radius` times a `factor` below one; by at least one feature for L0."""
        return radius * factor

    def scale_up(self, radius: PerSample, factor: float) -> PerSample:
        """`radius` times a `factor` above one; by at least one feature for L0."""
        return radius * factor

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class L2(Norm):
    """Euclidean length.

    >>> import numpy as np
    >>> from robustkit.numerics.tensors import as_tensor
    >>> L2()(as_tensor(np.array([[3.0, 4.0]]))).item()
    5.0
    """

    name: ClassVar[str] = "l2"

    def __call__(self, delta: Batch) -> PerSample:
        return magnitude(delta, 2)

    def dual(self, gradient: Batch) -> PerSample:
        _, size, unit = tamed(gradient)
        return size * unit

    def project(self, delta: Batch, radius: PerSample) -> Batch:
        size = self(delta)
        share = where(size > radius, radius / nonzero(size), 1.0)
        return delta * expand(share, delta)

    def project_box(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        # The solution is delta times some share of at most 1, clipped.
        def move(share: PerSample) -> tuple[Batch, PerSample]:
            return _drawn_in(delta, share, low, high)

        size = self(delta)
        radius = minimum(radius, size)
        first = (radius / nonzero(size)).square()
        return meet(move, radius.square(), first, 1.0)

    def project_halfspace(
        self, gradient: Batch, margin: PerSample, low: Batch, high: Batch
    ) -> Batch:
        gradient, size, unit = tamed(gradient)
        return _along_until(gradient, size.square(), margin / unit, gradient, low, high)

    def proximal(self, delta: Batch, curvature: Batch, weight: PerSample) -> Batch:
        # With s the size of z, each feature is delta / (1 + weight / (curvature s)).
        drag = expand(weight, delta) / curvature
        size = secular_root(drag, delta)
        grown = expand(size, delta)
        share = where(drag == 0, 1.0, grown / nonzero(grown + drag))
        return delta * share

    def stride(
        self,
        gradient: Batch,
        radius: PerSample,
        share: PerSample | float,
        point: Batch,
        bounds: Bounds,
    ) -> Batch:
        return _along(_unblocked(gradient, point, bounds), radius * share)


@dataclass(frozen=True, repr=False)
class Linf(Norm):
    """The largest change of any feature."""

    name: ClassVar[str] = "linf"
    pure: ClassVar[bool] = True

    def __call__(self, delta: Batch) -> PerSample:
        return magnitude(delta, math.inf)

    def dual(self, gradient: Batch) -> PerSample:
        return magnitude(gradient, 1)

    def project(self, delta: Batch, radius: PerSample) -> Batch:
        edge = expand(radius, delta)
        return clip(delta, -edge, edge)

    def project_box(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        return clip(self.project(delta, radius), low, high, reuse=True)

    def project_loosely(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        edge = expand(radius, delta)
        return clip(delta, -edge, edge, reuse=True)

    def project_halfspace(
        self, gradient: Batch, margin: PerSample, low: Batch, high: Batch
    ) -> Batch:
        corner, slope = _corner(gradient)
        return _along_until(corner, slope, margin, gradient, low, high)

    def proximal(self, delta: Batch, curvature: Batch, weight: PerSample) -> Batch:
        size, steep = flatten(delta.abs()), flatten(curvature)
        return self.project(delta, weighted_threshold(size, steep, weight))

    def stride(
        self,
        gradient: Batch,
        radius: PerSample,
        share: PerSample | float,
        point: Batch,
        bounds: Bounds,
    ) -> Batch:
        """The corner of the ball: blocked features need no care, they cost nothing."""
        return signed(gradient, radius * share)


@dataclass(frozen=True, repr=False)
class L1(Norm):
    """The sum of all changes."""

    name: ClassVar[str] = "l1"

    def __call__(self, delta: Batch) -> PerSample:
        return magnitude(delta, 1)

    def dual(self, gradient: Batch) -> PerSample:
        return magnitude(gradient, math.inf)

    def project(self, delta: Batch, radius: PerSample) -> Batch:
        return _shrunk(delta, soft_threshold(flatten(delta.abs()), radius))

    def project_box(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        outside = minus(delta, clip(delta, low, high), reuse=True).abs()
        threshold = capped_threshold(flatten(delta.abs()), flatten(outside), radius)
        return clip(_shrunk(delta, threshold), low, high, reuse=True)

    def project_halfspace(
        self, gradient: Batch, margin: PerSample, low: Batch, high: Batch
    ) -> Batch:
        room, steep = _room(-gradient, low, high), gradient.abs()
        share = greedy_shares(flatten(steep), flatten(steep * room), margin)
        return -gradient.sign() * room * share.reshape(room.shape)

    def proximal(self, delta: Batch, curvature: Batch, weight: PerSample) -> Batch:
        threshold = expand(weight, delta) / curvature
        return delta.sign() * maximum(delta.abs() - threshold, 0.0)

    def stride(
        self,
        gradient: Batch,
        radius: PerSample,
        share: PerSample | float,
        point: Batch,
        bounds: Bounds,
    ) -> Batch:
        """Along the L2 gradient, as long as a sparse perturbation of that size is.

        The steepest step changes one feature; but in a box of width w a perturbation
        of size r changes at least r / w features, and is then at most sqrt(r w) long.
        The projection on the ball chooses the features.
        """
        length = minimum(radius, (radius * bounds.width).sqrt())
        return _along(_unblocked(gradient, point, bounds), length * share)


@dataclass(frozen=True, repr=False)
class L0(Norm):
    """How many features change, or how many pixels.

    Args:
        channel_axis: None to count features. Else the axis whose entries together
            make one pixel: a position counts once however many channels change.
    """

    name: ClassVar[str] = "l0"
    channel_axis: int | None = None

    def __call__(self, delta: Batch) -> PerSample:
        changed = self._per_unit(differs(delta, 0.0))
        return minimum(changed, 1.0).sum(axis=1)

    def dual(self, gradient: Batch) -> PerSample:
        """L0 is no norm: the gain of one unit step on the steepest feature."""
        return magnitude(gradient, math.inf)

    def project(self, delta: Batch, radius: PerSample) -> Batch:
        kept = largest(self._per_unit(delta.square()), radius)
        return delta * self._spread(kept, delta)

    def project_box(
        self, delta: Batch, radius: PerSample, low: Batch, high: Batch
    ) -> Batch:
        inside = clip(delta, low, high)
        # What keeping a feature saves: |delta|^2 for dropping it, less what is clipped.
        saving = times(plus(delta - inside, delta, reuse=True), inside, reuse=True)
        kept = largest(self._per_unit(saving), radius)
        return times(inside, self._spread(kept, delta), reuse=True)

    def project_halfspace(
        self, gradient: Batch, margin: PerSample, low: Batch, high: Batch
    ) -> Batch:
        room = _room(-gradient, low, high)
        gain = self._per_unit(gradient.abs() * room)
        share = greedy_shares(gain, gain, margin)
        return -gradient.sign() * room * self._spread(share, room)

    def proximal(self, delta: Batch, curvature: Batch, weight: PerSample) -> Batch:
        """With the sum of |z|^(2/3) over the units in place of their count.

        Counting itself would undo every change that is still small. The curvature of
        a pixel is the mean of its channels'.
        """
        size = self._per_unit(delta.square()).sqrt()
        channels = flatten(delta).shape[1] / max(size.shape[1], 1)
        cost = weight.expand_dims(1) * channels / self._per_unit(curvature)
        share = shrink_by_root(size, cost) / nonzero(size)
        return delta * self._spread(share, delta)

    def stride(
        self,
        gradient: Batch,
        radius: PerSample,
        share: PerSample | float,
        point: Batch,
        bounds: Bounds,
    ) -> Batch:
        """Along the L2 gradient, as long as changing that many features can be."""
        length = radius.sqrt() * bounds.width
        return _along(_unblocked(gradient, point, bounds), length * share)

    def to_boundary(self, margin: PerSample, gradient: Batch) -> PerSample:
        """One feature without a box, since it may change without limit."""
        reach = where(margin > 0, full(gradient, 1.0), 0.0)
        flat = magnitude(gradient, math.inf) == 0
        return where(flat, math.inf, reach)

    def slack(self, margin: PerSample, gradient: Batch, delta: Batch) -> PerSample:
        """At least that share of the features that the margin has to spare."""
        held = inner_product(gradient.abs(), delta.abs())
        share = minimum(maximum(-margin, 0.0) / nonzero(held), 1.0)
        return where(held > 0, self(delta) * share, 0.0)

    def scale_down(self, radius: PerSample, factor: float) -> PerSample:
        return maximum(minimum(radius - 1, _floor(radius * factor)), 0.0)

    def scale_up(self, radius: PerSample, factor: float) -> PerSample:
        return maximum(radius + 1, _floor(radius * factor))

    def check(self, x: Batch) -> None:
        if self.channel_axis is not None and x.ndim < 3:
            raise BadInput(
                "l0-pixels counts the positions of inputs (n, channels, ...); these "
                f"have the shape {tuple(x.shape)}. Count features instead, with l0"
            )

    def __repr__(self) -> str:
        if self.channel_axis is None:
            return "l0"
        return "l0-pixels" + (f"-{self.channel_axis}" if self.channel_axis != 1 else "")

    def summed(self, values: Batch) -> Batch:
        """The sum of `values` (n, ...) over each unit that counts as one.

        In a shape that broadcasts against `values`; themselves if features count.
        """
        return self._spread(self._per_unit(values), values)

    def _per_unit(self, values: Batch) -> Tensor:
        """(n, ...) to (n, features or pixels), channels summed."""
        if self.channel_axis is not None:
            values = values.sum(axis=self.channel_axis)
        return flatten(values)

    def _spread(self, values: Tensor, x: Batch) -> Tensor:
        """(n, features or pixels) to a shape that broadcasts against `x`."""
        shape = list(x.shape)
        if self.channel_axis is not None:
            shape[self.channel_axis] = 1
        return values.reshape(tuple(shape))


NORMS = ("l0", "l0-pixels", "l1", "l2", "linf")


def get_norm(name: str | Norm) -> Norm:
    """The norm of that name (`NORMS`); "l0-pixels" has its channels on axis 1.

    Raises:
        BadInput: No such norm.

    >>> get_norm("linf")
    linf
    """
    if isinstance(name, Norm):
        return name
    key = str(name).lower().replace("_", "-")
    simple: dict[str, Norm] = {"l1": L1(), "l2": L2(), "linf": Linf(), "l0": L0()}
    if key == "l0-pixels":
        return L0(channel_axis=1)
    if key not in simple:
        raise BadInput(f"unknown norm '{name}'; {suggestion(key, NORMS)}")
    return simple[key]


def _unblocked(gradient: Batch, point: Batch, bounds: Bounds) -> Batch:
    """`gradient` without the features that cannot go down it inside the bounds."""
    far = plus_times(point, gradient, -_FURTHEST * bounds.width)
    corner = clip(far, bounds.lower, bounds.upper, reuse=True)
    return times(differs(corner, point, reuse=True), gradient, reuse=True)


def _along(gradient: Batch, length: PerSample) -> Batch:
    """`gradient`, whose memory is taken, at the given length; zero stays zero."""
    gradient, size, _ = tamed(gradient)
    return times(gradient, expand(length / nonzero(size), gradient), reuse=True)


def tamed(gradient: Batch) -> tuple[Batch, PerSample, PerSample]:
    """A gradient of a size whose squares are numbers; that size; the unit it is in.

    Those of tiny values would vanish, and those of huge ones be infinite. Nearly all
    gradients come back as they are, in units of 1.
    """
    if is_symbolic(gradient):
        unit = nonzero(magnitude(gradient, math.inf))
        gradient = gradient / expand(unit, gradient)
        return gradient, magnitude(gradient, 2), unit
    with np.errstate(over="ignore", under="ignore"):
        size = magnitude(gradient, 2)
    lengths, unit = to_numpy(size), full(gradient, 1.0)
    rows = np.flatnonzero(~((lengths > 1e-15) & (lengths < 1e15)))
    if len(rows) == 0:
        return gradient, size, unit
    some = take(gradient, rows)
    peak = nonzero(magnitude(some, math.inf))
    some = some / expand(peak, some)
    gradient, size = put(gradient, rows, some), put(size, rows, magnitude(some, 2))
    return gradient, size, put(unit, rows, peak)


@fused
def _drawn_in(
    delta: Batch, share: PerSample, low: Batch, high: Batch
) -> tuple[Batch, PerSample]:
    """`delta` times the root of a share, in the box, and its square."""
    inside = clip(delta * expand(share.sqrt(), delta), low, high, reuse=True)
    return inside, magnitude(inside, 2).square()


@fused
def _corner(gradient: Batch) -> tuple[Batch, PerSample]:
    """The signs of a gradient, and their inner product with it."""
    return gradient.sign(), magnitude(gradient, 1)


def _along_until(
    direction: Batch,
    slope: PerSample,
    margin: PerSample,
    gradient: Batch,
    low: Batch,
    high: Batch,
) -> Batch:
    """Against the direction, as far as the margin needs, clipped to the box.

    The slope (n,) is the inner product of direction and gradient.
    """

    def move(level: PerSample) -> tuple[Batch, PerSample]:
        return _against(direction, level, gradient, low, high)

    target = maximum(margin, 0.0)
    return meet(move, target, target / nonzero(slope), _FURTHEST)


@fused
def _against(
    direction: Batch, length: PerSample, gradient: Batch, low: Batch, high: Batch
) -> tuple[Batch, PerSample]:
    """Where so many steps against the direction lead, and what the margin loses."""
    with np.errstate(over="ignore"):
        moved = direction * expand(-length, direction)
    moved = clip(moved, low, high, reuse=True)
    return moved, -inner_product(gradient, moved)


def _shrunk(delta: Batch, threshold: PerSample) -> Batch:
    """Every feature nearer to zero by the threshold, or there."""
    edge = expand(threshold, delta)
    return minus(delta, clip(delta, -edge, edge), reuse=True)


def _room(direction: Batch, low: Batch, high: Batch) -> Batch:
    """How far each feature can move along the sign of `direction`."""
    up = reaches(direction, 0.0)
    return up * high - (1 - up) * low


def _floor(values: Tensor) -> Tensor:
    # In float32 0.95 * 20 may be 18.999998, which is meant to be 19.
    return floor(values + 1e-4)
