"""The arithmetic of a step down a gradient, in pieces that can be compiled."""

from robustkit.numerics.bounds import Bounds
from robustkit.numerics.fused import compiles, fused
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Batch, PerSample, finite_or_zero, minus, plus

__all__ = ["descended", "placed"]


def descended(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    low: Batch,
    high: Batch,
    point: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> tuple[Batch, PerSample]:
    """One step down the gradient, and back into ball and bounds.

    Args:
        norm: Whose ball it is.
        bounds: Of valid inputs.
        x: (n, ...) originals.
        low: (n, ...) the least a perturbation may be.
        high: (n, ...) the most it may be.
        point: (n, ...) where the step starts.
        gradient: (n, ...) of what is to be lowered. Values that are not finite count
            as zero.
        radius: (n,) of the ball around the originals, in norm units.
        share: How long the step is, as a share of the ball; (n,) or one for all.

    Returns:
        The point (n, ...) that it leads to, and the size (n,) of the perturbation.
    """
    if norm.pure and compiles():
        return _at_once(norm, bounds, x, point, gradient, radius, share)
    moved = _moved(norm, bounds, x, point, gradient, radius, share)
    return _arrived(norm, bounds, x, norm.project_loosely(moved, radius, low, high))


@fused
def placed(
    norm: Norm, bounds: Bounds, x: Batch, delta: Batch
) -> tuple[Batch, Batch, PerSample]:
    """The valid points that perturbations lead to.

    Args:
        norm: Of the perturbations.
        bounds: Of valid inputs.
        x: (n, ...) originals.
        delta: (n, ...) perturbations.

    Returns:
        The points (n, ...), their perturbations (n, ...) and the sizes (n,) of these.
    """
    point = bounds.clip(x + delta, reuse=True)
    delta = point - x
    return point, delta, norm(delta)


@fused
def _moved(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    point: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> Batch:
    """The perturbation after the step."""
    gradient = finite_or_zero(gradient)
    stride = norm.stride(gradient, radius, share, point, bounds)
    return minus(point - x, stride, reuse=True)


@fused
def _arrived(
    norm: Norm, bounds: Bounds, x: Batch, delta: Batch
) -> tuple[Batch, PerSample]:
    """The valid point that a perturbation leads to; its memory is taken."""
    point = bounds.clip(plus(delta, x, reuse=True), reuse=True)
    return point, norm(point - x)


@fused
def _at_once(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    point: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> tuple[Batch, PerSample]:
    # What is easily computed anew need not be read from memory.
    low, high = bounds.lower - x, bounds.upper - x
    moved = _moved(norm, bounds, x, point, gradient, radius, share)
    return _arrived(norm, bounds, x, norm.project_loosely(moved, radius, low, high))
