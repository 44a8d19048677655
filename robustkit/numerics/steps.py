"""The arithmetic of a step between two questions, in pieces that can be compiled."""

from robustkit.numerics.bounds import Bounds
from robustkit.numerics.fused import compiles, fused
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Batch, PerSample, minus, plus

__all__ = ["arrived", "descended"]


def descended(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    low: Batch,
    high: Batch,
    point: Batch,
    delta: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> tuple[Batch, Batch, PerSample]:
    """One step down the gradient, and back into ball and bounds.

    Args:
        norm: Whose ball it is.
        bounds: Of valid inputs.
        x: (n, ...) originals.
        low: (n, ...) the least a perturbation may be.
        high: (n, ...) the most it may be.
        point: (n, ...) where the step starts.
        delta: (n, ...) the perturbation there.
        gradient: (n, ...) of what is to be lowered.
        radius: (n,) of the ball around the originals, in norm units.
        share: How long the step is, as a share of the ball; (n,) or one for all.

    Returns:
        As `arrived`.
    """
    if norm.pure and compiles():
        return _at_once(norm, bounds, x, point, gradient, radius, share)
    moved = _moved(norm, bounds, point, delta, gradient, radius, share)
    return arrived(norm, bounds, x, norm.project_loosely(moved, radius, low, high))


@fused
def arrived(
    norm: Norm, bounds: Bounds, x: Batch, delta: Batch
) -> tuple[Batch, Batch, PerSample]:
    """The valid point (n, ...) that a perturbation, whose memory is taken, leads to.

    Returns:
        That point, its perturbation (n, ...), and the size of it (n,).
    """
    point = bounds.clip(plus(delta, x, reuse=True), reuse=True)
    delta = point - x
    return point, delta, norm(delta)


@fused
def _moved(
    norm: Norm,
    bounds: Bounds,
    point: Batch,
    delta: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> Batch:
    stride = norm.stride(gradient, radius, share, point, bounds)
    return minus(delta, stride, reuse=True)


@fused
def _at_once(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    point: Batch,
    gradient: Batch,
    radius: PerSample,
    share: PerSample | float,
) -> tuple[Batch, Batch, PerSample]:
    # What is easily computed anew need not be read from memory.
    delta, low, high = point - x, bounds.lower - x, bounds.upper - x
    moved = _moved(norm, bounds, point, delta, gradient, radius, share)
    return arrived(norm, bounds, x, norm.project_loosely(moved, radius, low, high))
