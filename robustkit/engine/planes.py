"""What attacks that linearise the model share: one plane for each way to success."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.numerics.logits import at_label
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    Tensor,
    expand,
    finite_or_zero,
    highest,
    minimum,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Linearised", "Plane", "cross"]

# Of the width of the box: leaves a tie behind. As in DeepFool's authors' code.
_LEAST_STEP = 1e-4


@dataclass(frozen=True)
class Plane:
    """One way to become adversarial, as it would be if the model were linear.

    A perturbation `delta` of the point has the margin `margin + gradient . delta`.

    Attributes:
        way: (n,) integers, which of the criterion's ways.
        margin: (n,) at the point, in units of the logits; infinite where the way is
            closed.
        gradient: (n, ...) of that margin with regard to the input; zero where the way
            is closed. Non-finite values are zero.
    """

    way: Tensor
    margin: PerSample
    gradient: Batch


class Linearised:
    """A model around one point per sample: 1 forward pass, 1 backward pass per plane.

    Args:
        p: The problem; the question is billed to all its samples.
        x: (n, ...) points.

    Attributes:
        point: (n, ...) the inputs asked about, clipped to the bounds.
        delta: (n, ...) their perturbation.
        adversarial: (n,) whether the least margin is below zero.
    """

    point: Batch
    delta: Batch
    adversarial: Mask

    def __init__(self, p: Problem, x: Batch) -> None:
        self.point = p.bounds.clip(x)
        self.delta = self.point - p.x
        self._logits, self._pull_back = p.linearise(self.point)
        margins = p.criterion.ways(self._logits)
        self._margins = where(margins == margins, margins, math.inf)
        self.adversarial = self._margins.min(axis=1) < 0
        self._p = p

    def plane(self, way: Tensor) -> Plane:
        """The plane of one `way` (n,) per sample; 1 backward pass."""
        margin = at_label(self._margins, way)
        slopes = self._p.criterion.slopes_of(self._logits, way)[1]
        gradient = finite_or_zero(self._pull_back(slopes))
        return Plane(way, margin, where(margin < math.inf, gradient, 0.0))

    def likeliest(self, most: int) -> Iterator[Plane]:
        """The planes of the open ways with the least margins, at most so many.

        Raises:
            BadInput: `most` is below 1.
        """
        if most < 1:
            raise BadInput(f"at least 1 way must be linearised; got {most}")
        count = min(most, self._margins.shape[1])
        _, ways = highest(-self._margins, count)
        # That of a sample's own class, for one, is closed whatever the scores. What
        # infinite scores close decides nothing, since others' may be finite, and no
        # sample's passes shall depend on its company.
        some = self._p.criterion.ways(finite_or_zero(self._logits))
        is_open = (to_numpy(some) < math.inf).sum(axis=1)
        for rank in range(min(count, int(is_open.max(initial=1)))):
            yield self.plane(ways[:, rank])

    def nearest(self, most: int) -> Plane:
        """Of the likeliest planes the one nearest to the point, whatever the box.

        Where the point is adversarial, this is the plane of the least margin.
        """
        planes = self.likeliest(most)
        best = next(planes)
        least = self._p.norm.to_boundary(best.margin, best.gradient)
        for plane in planes:
            distance = self._p.norm.to_boundary(plane.margin, plane.gradient)
            nearer = distance < least
            least = where(nearer, distance, least)
            best = Plane(
                where(nearer, plane.way, best.way),
                where(nearer, plane.margin, best.margin),
                where(nearer, plane.gradient, best.gradient),
            )
        return best


def cross(
    p: Problem,
    here: Linearised,
    plane: Plane,
    overshoot: float,
    longest: PerSample | float = math.inf,
    *,
    late: bool = False,
) -> Batch:
    """The perturbation (n, ...) that is one step down a plane further, clipped.

    The step, along the gradient for L2 or its sign for Linf, is as long as the way to
    the plane's margin zero, and a little longer, so that it leaves a tie behind. That
    clipping makes it shorter is for the better: the next step corrects it, and shorter
    steps follow a curved model with less of an overshoot.

    Args:
        p: The problem.
        here: Where the step starts.
        plane: Of the model there.
        overshoot: How much longer, as a share.
        longest: The most that the way counts for, before the overshoot; (n,) or one
            for all, in norm units.
        late: Whether the walk's last steps have come.
    """
    reach = minimum(p.norm.to_boundary(plane.margin, plane.gradient), longest)
    length = (1 + overshoot) * (reach + _LEAST_STEP * p.bounds.width)
    length = minimum(length, p.largest)
    gradient = plane.gradient
    if late:
        step = p.norm.stride(gradient, length, 1.0, here.point, p.bounds)
    elif p.norm.name == "linf":
        step = gradient.sign() * expand(length, gradient)
    else:
        step = gradient * expand(length / nonzero(p.norm.dual(gradient)), gradient)
    return p.bounds.clip(here.point - step) - p.x
