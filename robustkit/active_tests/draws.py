"""Random points in a ball and on its surface, inside the box of valid inputs.

Everything here is about one sample `x` (...), in NumPy; `count` points are drawn at
once, as if they were `count` samples.
"""

import math
from dataclasses import dataclass

import numpy as np

from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import L0, Norm
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Array, Tensor, as_tensor, full, to_numpy

__all__ = ["GAP", "Ball", "project"]

GAP = 0.05
"""Inner points keep this share of the radius away from the surface."""

_EDGE = 1 - 1e-4


@dataclass(frozen=True)
class Ball:
    """The points within epsilon of one input.

    Args:
        x: (...) the input.
        norm: In which distances are measured.
        epsilon: Radius, in norm units.
        bounds: Of valid inputs.
    """

    x: Array
    norm: Norm
    epsilon: float
    bounds: Bounds

    def inner(self, rng: Rng, count: int) -> Array:
        """(count, ...) points nearer than (1 - `GAP`) epsilon.

        Linf: uniform. L2 and L1: as on the surface, with a radius as that of uniform
        points. L0: fewer features, at uniform values.
        """
        reach = (1 - GAP) * self.epsilon
        if self.norm.name == "linf":
            return self._within(self._uniform(rng, count) * reach, reach)
        if self.norm.name == "l0":
            values = _drawn(rng.uniform((count, *self.x.shape)))
            values = self.bounds.lower + self.bounds.width * values
            moved = (values - self.x) * self._some(rng, count, reach)
            return self._within(moved, math.floor(reach))
        on_surface = self.surface(rng, count) - self.x
        radius = _drawn(rng.uniform((count,))) ** (1 / self.x.size)
        share = (1 - GAP) * radius.reshape((count,) + (1,) * self.x.ndim)
        return self._within(on_surface * share, reach)

    def surface(self, rng: Rng, count: int) -> Array:
        """(count, ...) points at a distance of epsilon, or as far as the box allows.

        Linf: corners. L2: in uniform directions. L1: uniform shares of epsilon, with
        random signs, for a random number of features (any order of magnitude is as
        likely). L0: random features, at random ends of the box.
        """
        reach = self.edge
        if self.norm.name == "linf":
            return self._within(np.sign(self._uniform(rng, count)) * reach, reach)
        if self.norm.name == "l0":
            up = _drawn(rng.uniform((count, *self.x.shape))) < 0.5
            ends = np.where(up, self.bounds.upper, self.bounds.lower)
            moved = (ends - self.x) * self._some(rng, count, self.epsilon)
            return self._within(moved, math.floor(self.epsilon))
        if self.norm.name == "l2":
            # The projection of a far point is that direction, clipped, at full length.
            far = 100 * self.bounds.width
            return self._within(far * _drawn(rng.normal((count, *self.x.shape))), reach)
        shares = -np.log1p(-_drawn(rng.uniform((count, *self.x.shape))))
        shares = shares * np.sign(self._uniform(rng, count))
        # What cannot move goes the other way.
        shares = np.where(self._clipped(shares) == 0, -shares, shares)
        fewest = max(2.0, 2 * reach / self.bounds.width)
        order = _drawn(rng.uniform((count,)))
        some = fewest * (max(self.x.size / fewest, 1.0)) ** order
        shares = shares * self._some(rng, count, some)
        for _ in range(8):
            size = np.abs(shares).reshape(count, -1).sum(axis=1)
            grow = reach / np.maximum(size, 1e-30)
            shares = shares * grow.reshape((count,) + (1,) * self.x.ndim)
            shares = self._clipped(shares)
        return self._within(shares, reach)

    @property
    def edge(self) -> float:
        """The radius, a little inside, so that rounding puts no point outside."""
        return self.epsilon * (1.0 if self.norm.name == "l0" else _EDGE)

    def _within(self, delta: Array, radius: float) -> Array:
        x = np.broadcast_to(self.x, delta.shape)
        return project(x, x + delta, self.norm, radius, self.bounds)

    def _clipped(self, delta: Array) -> Array:
        return delta.clip(self.bounds.lower - self.x, self.bounds.upper - self.x)

    def _uniform(self, rng: Rng, count: int) -> Array:
        return _drawn(rng.uniform((count, *self.x.shape), -1.0, 1.0))

    def _some(self, rng: Rng, count: int, number: float | Array) -> Array:
        """(count, ...) 1 at so many random features (for pixels: positions), else 0."""
        axis = self.norm.channel_axis if isinstance(self.norm, L0) else None
        shape = list(self.x.shape)
        if axis is not None:
            shape[axis - 1] = 1
        values = _drawn(rng.uniform((count, *shape)))
        rank = values.reshape(count, -1).argsort(axis=1).argsort(axis=1)
        wanted = np.floor(np.broadcast_to(number, (count,)))
        chosen = (rank < wanted[:, None]).astype(self.x.dtype)
        return np.asarray(chosen.reshape((count, *shape)))


def project(
    x: Array, points: Array, norm: Norm, radius: float, bounds: Bounds
) -> Array:
    """The nearest points (m, ...) within the radius (norm units) of x and the bounds.

    Args:
        x: (m, ...) the middles, one for each point.
        points: (m, ...) any points.
        norm: In which distances are measured.
        radius: In norm units.
        bounds: Of valid inputs.
    """
    delta = as_tensor((points - x).astype(x.dtype))
    low, high = as_tensor(bounds.lower - x), as_tensor(bounds.upper - x)
    inside = to_numpy(norm.project_box(delta, full(delta, radius), low, high))
    return np.asarray((x + inside).clip(bounds.lower, bounds.upper))


def _drawn(values: Tensor) -> Array:
    """The numbers of the one sample that was drawn for."""
    return np.asarray(to_numpy(values)[0])
