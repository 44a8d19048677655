"""From points of balls to points where a combination of a model's outputs is larger.

This finds witnesses; it is no attack. Witnesses need to exist, not to be easily found.
"""

from collections.abc import Sequence

import numpy as np

from robustkit.active_tests.draws import Ball, project
from robustkit.models.base import Access, Model, NoGradient
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    as_tensor,
    flatten,
    full,
    like,
    magnitude,
    to_numpy,
)

__all__ = ["climb"]


def climb(
    model: Model,
    balls: Sequence[Ball],
    weights: Array,
    starts: Array,
    steps: int,
    rngs: Sequence[Rng],
    allowed: int = 0,
) -> tuple[Array, Array]:
    """Where the combination was largest, and how large it was there.

    Up the gradient in steps that become shorter, as far as there is one; where it
    vanishes or the model has none, by exchanging features with random points of the
    surface, keeping what is larger.

    Args:
        model: To ask.
        balls: m, that hold the points; all in one norm.
        weights: (m, outputs) of the combinations.
        starts: (m, ...) points of the balls.
        steps: How many; one question for each start.
        rngs: m, each of one sample.
        allowed: Not 0: only points count where the last output times this is below 0.

    Returns:
        Points (m, ...) and values (m,), minus infinity where none counted.
    """
    here, best = starts, np.array(starts)
    highest = np.full(len(starts), -np.inf)
    for step in range(steps + 1):
        value, slope, outputs = _look(model, here, weights)
        if allowed:
            value = np.where(outputs[:, -1] * allowed < 0, value, -np.inf)
        better = value > highest
        highest, best[better] = np.where(better, value, highest), here[better]
        progress = step / steps
        flat = to_numpy(magnitude(as_tensor(slope), np.inf)) == 0
        up = _up(model, balls, here, slope, 1 - 0.95 * progress)
        here = np.stack(
            [
                _exchanged(balls[i], best[i], rngs[i], progress) if flat[i] else up[i]
                for i in range(len(best))
            ]
        )
    return best, highest


def _look(model: Model, points: Array, weights: Array) -> tuple[Array, Array, Array]:
    """The combination (m,), its gradient (m, ...), zero if there is none; outputs."""
    x = model.to_tensor(points)
    try:
        if model.access < Access.GRADIENT:
            raise NoGradient(model.name)
        outputs, pull_back = model.linearise(x)
        slopes = like(outputs, weights.astype(points.dtype))
        gradient = to_numpy(pull_back(slopes))
        gradient = np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    except NoGradient:
        outputs, gradient = model.logits(x), np.zeros_like(points)
    seen = to_numpy(flatten(outputs)).astype(np.float64)
    value = (seen * weights).sum(axis=1)
    return np.nan_to_num(value, nan=-np.inf), gradient, seen


def _up(
    model: Model, balls: Sequence[Ball], here: Array, slope: Array, share: float
) -> Array:
    ball, x = balls[0], np.stack([ball.x for ball in balls])
    point = as_tensor(here)
    radius = full(point, ball.epsilon)
    stride = ball.norm.stride(as_tensor(-slope), radius, share, point, model.bounds)
    return project(x, here - to_numpy(stride), ball.norm, ball.edge, model.bounds)


def _exchanged(ball: Ball, best: Array, rng: Rng, progress: float) -> Array:
    """Fewer and fewer features of one point (...) moved to where another has them."""
    fresh = ball.surface(rng, 1)[0]
    chosen = to_numpy(rng.uniform(best.shape))[0] < 0.5 * (1 - progress) + 0.01
    mixed = np.where(chosen, fresh, best)[None]
    moved = project(ball.x[None], mixed, ball.norm, ball.edge, ball.bounds)
    return np.asarray(moved[0])
