"""No attack's word is trusted: every adversarial is asked about once more."""

import numpy as np
from scipy.special import betaincinv

from robustkit.engine.criteria import Criterion
from robustkit.evaluation.curve import CONFIDENCE
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, as_tensor, take, to_numpy

__all__ = ["UNDONE", "confirm", "confirm_repeatedly", "furthest_move", "held"]

UNDONE = "at a fresh forward pass, not below 0"
"""What is said of an adversarial that did not hold when the model was asked again."""

_PUSHES = (0.0, 1e-5, 1e-4, 1e-3)
_FURTHER_PUSHES = (3e-3, 1e-2, 3e-2, 1e-1)
# Where answers are random, the boundary is where they are adversarial half of the time.
_RANDOM_PUSHES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def confirm(
    model: Model, criterion: Criterion, x: Array, adversarial: Array, norm: Norm
) -> tuple[Array, Array, list[str]]:
    """Check reported adversarials with fresh forward passes of the precise model.

    At the nearest point of the decision boundary, rounding that differs with the size
    of a batch may undo an adversarial by a hair. Such a point is moved outwards by up
    to 0.1 % of its perturbation, or 10 % if it comes from a model that trades precision
    for speed; what is returned is the point that holds.

    Args:
        model: To ask.
        criterion: Of these n samples.
        x: (n, ...) originals.
        adversarial: (n, ...) the points reported.
        norm: In which distances are measured.

    Returns:
        The points (n, ...) confirmed, their distances (n,) recomputed in double
        precision, in norm units, and for each what is wrong with it (empty: nothing).
    """
    pushes, model = _pushes(model), model.precise()
    points = np.array(adversarial)
    wrong = [_flaw(points[i], x[i], model) for i in range(len(points))]
    open_rows = np.array(
        [i for i, flaw in enumerate(wrong) if not flaw], dtype=np.int64
    )
    for push in pushes:
        if len(open_rows) == 0:
            break
        tried = x[open_rows] + (1 + push) * (adversarial[open_rows] - x[open_rows])
        if push == 0.0:
            tried = adversarial[open_rows]
        tried = tried.clip(model.bounds.lower, model.bounds.upper).astype(x.dtype)
        shown = model.shown(model.to_tensor(tried))
        tried = to_numpy(shown).astype(x.dtype)
        logits = model.logits(shown)
        margin = to_numpy(take(criterion, open_rows).margin(logits))
        holds = margin < 0
        points[open_rows[holds]] = tried[holds]
        for row, value in zip(open_rows[~holds], margin[~holds], strict=True):
            wrong[row] = f"margin {value:.3g} {UNDONE}"
        for row in open_rows[holds]:
            wrong[row] = ""
        open_rows = open_rows[~holds]
    delta = points.astype(np.float64) - x.astype(np.float64)
    return points, to_numpy(norm(as_tensor(delta))), wrong


def furthest_move(model: Model) -> float:
    """By what share of its perturbation `confirm` may move a point outwards.

    >>> from robustkit import load_model
    >>> furthest_move(load_model("digits"))
    0.001
    """
    return max(_pushes(model))


def _pushes(model: Model) -> tuple[float, ...]:
    return _PUSHES if model.precise() is model else (*_PUSHES, *_FURTHER_PUSHES)


def confirm_repeatedly(
    model: Model,
    criterion: Criterion,
    x: Array,
    adversarial: Array,
    norm: Norm,
    draws: int = 100,
) -> tuple[Array, Array, Array, list[str]]:
    """As `confirm`, for a model whose answers are random: one lucky draw is no success.

    A point holds if it is adversarial more often than not, at 95 % confidence (`held`),
    in `draws` fresh passes. One that does not is moved outwards, by up to its own
    perturbation. The point that holds is then asked about `draws` times once more,
    since the first answers chose it; these are what is returned, and it has to hold
    there too.

    Args:
        model: To ask.
        criterion: Of these n samples.
        x: (n, ...) originals.
        adversarial: (n, ...) the points reported.
        norm: In which distances are measured.
        draws: How often to ask.

    Returns:
        The points (n, ...) confirmed, their distances (n,), in how many of the last
        `draws` they were adversarial (n,), and for each what is wrong with it (empty:
        nothing).
    """
    model = model.precise()
    points, successes = np.array(adversarial), np.zeros(len(x), dtype=np.int64)
    wrong = [_flaw(points[i], x[i], model) for i in range(len(points))]
    left = np.array([i for i, flaw in enumerate(wrong) if not flaw], dtype=np.int64)
    for push in _RANDOM_PUSHES:
        if len(left) == 0:
            break
        tried = x[left] + (1 + push) * (adversarial[left] - x[left])
        tried = tried.clip(model.bounds.lower, model.bounds.upper).astype(x.dtype)
        tried = to_numpy(model.shown(model.to_tensor(tried))).astype(x.dtype)
        asked = take(criterion, left)
        count = _successes(model, asked, tried, draws)
        good = np.flatnonzero(held(count, draws))
        count[good] = _successes(model, take(asked, good), tried[good], draws)
        won = held(count, draws) & np.isin(np.arange(len(left)), good)
        points[left[won]], successes[left] = tried[won], count
        for row, times in zip(left, count, strict=True):
            wrong[row] = f"adversarial in {times} of {draws} fresh draws"
        for row in left[won]:
            wrong[row] = ""
        left = left[~won]
    delta = points.astype(np.float64) - x.astype(np.float64)
    return points, to_numpy(norm(as_tensor(delta))), successes, wrong


def held(successes: Array, draws: int) -> Array:
    """(n,) whether so many of the draws say: more often than not, at 95 % confidence.

    The lower end of the exact (Clopper-Pearson) interval is above a half.

    >>> held(np.array([59, 60, 61]), 100).tolist()
    [False, False, True]
    """
    tail = (1 - CONFIDENCE) / 2
    lower = betaincinv(np.maximum(successes, 1), draws - successes + 1, tail)
    return np.asarray((successes > 0) & (lower > 0.5))


def _successes(model: Model, criterion: Criterion, points: Array, draws: int) -> Array:
    """In how many fresh draws each point (n, ...) is adversarial."""
    count = np.zeros(len(points), dtype=np.int64)
    if len(points) == 0:
        return count
    with model.session():
        tensor = model.to_tensor(points)
        for _ in range(draws):
            count += to_numpy(criterion.margin(model.logits(tensor))) < 0
    return count


def _flaw(point: Array, original: Array, model: Model) -> str:
    bounds = model.bounds
    if point.shape != original.shape or point.dtype != original.dtype:
        return (
            f"shape {point.shape} and dtype {point.dtype} are not those of the "
            f"original, {original.shape} and {original.dtype}"
        )
    if not np.isfinite(point).all():
        return "not finite"
    if point.min() < bounds.lower or point.max() > bounds.upper:
        return (
            f"values from {point.min():.6g} to {point.max():.6g} leave the bounds "
            f"[{bounds.lower:g}, {bounds.upper:g}]"
        )
    return ""
