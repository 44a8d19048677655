"""Whether gradients tell the truth, and what to ask where they do not."""

import dataclasses
import math
from dataclasses import dataclass

from robustkit.engine.problem import Answer, GradientAnswer, Problem
from robustkit.numerics.norms import Norm
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    differs,
    expand,
    flatten,
    full,
    inner_product,
    magnitude,
    maximum,
    minimum,
    put,
    take,
    total,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Trust", "search"]

# So many predictions are waited for, and this share of them must come true.
_FEW, _TRUE = 8, 0.05
# A prediction counts if it is about at least this share of the margin.
_WORTH = 0.05
# The bisection ends here; then the walk's steps grow and shrink by this logarithm, so
# that about this share of them succeeds.
_CLOSE, _RATE, _TARGET = 0.9, 0.2, 0.25
_HALVING, _WALKING = 1.0, 2.0


@dataclass(frozen=True)
class Trust:
    """What each sample's gradients foretold and what came, and its search without them.

    Attributes:
        margin: (n,) at the last question.
        foretold: (n,) change of the margin by the next; zero: nothing was foretold.
        trials: (n,) predictions that counted.
        kept: (n,) the shares of them that came, between -1 and 1 each, summed.
        mode: (n,) what the last question was: bisecting, walking, or neither (0).
        near: (n,) share of the best perturbation that is known not to be adversarial.
        stepsize: (n,) of the walk, as a share of the best perturbation.
    """

    margin: PerSample
    foretold: PerSample
    trials: PerSample
    kept: PerSample
    mode: PerSample
    near: PerSample
    stepsize: PerSample

    @classmethod
    def unknown(cls, p: Problem) -> "Trust":
        """Before anything was asked."""
        zero = full(p.x, 0.0)
        return cls(zero, zero, zero, zero, zero, zero, zero + 0.3)

    @property
    def doubted(self) -> Mask:
        """(n,) whose gradients have led nowhere."""
        enough = self.trials >= _FEW
        return enough.logical_and(self.kept <= _TRUE * self.trials)

    def judged(self, a: GradientAnswer) -> "Trust":
        """With the answer to the question that something was foretold about."""
        # Where an answer was no number, its margin is infinite.
        known = maximum(a.margin.abs(), self.margin.abs()) < math.inf
        change = where(known, a.margin, 0.0) - where(known, self.margin, 0.0)
        counts = self.foretold.abs() > _WORTH * self.margin.abs()
        counts = counts.logical_and(known)
        share = change / nonzero(self.foretold)
        share = where(counts, share, 0.0).clip(-1.0, 1.0)
        # A gradient that is zero says that nothing can be done.
        counts = counts.logical_or(magnitude(a.gradient, math.inf) == 0)
        trials = where(counts, self.trials + 1, self.trials)
        return dataclasses.replace(
            self, margin=a.margin, trials=trials, kept=self.kept + share
        )

    def foretelling(self, a: GradientAnswer, delta: Batch) -> "Trust":
        """With what the gradient says of the margin at the next question."""
        return dataclasses.replace(
            self, foretold=inner_product(a.gradient, delta - a.delta)
        )

    def with_those(self, rows: Array, others: "Trust") -> "Trust":
        """With the given rows as `others` has them."""
        changes = {
            field.name: put(
                getattr(self, field.name), rows, getattr(others, field.name)
            )
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **changes)

    def silent(self) -> "Trust":
        """With nothing foretold, because the gradient is that of something else."""
        return dataclasses.replace(self, foretold=self.foretold * 0)


def search(p: Problem, s: Trust, a: Answer, t: int, rows: Array) -> tuple[Batch, Trust]:
    """The next question of a search that looks at decisions only.

    Noise until something is found, then a bisection towards the original, then random
    steps around it, each a little nearer: in short Boundary Attack, a question a step.

    Args:
        p: The problem.
        s: Where the search stands, of m samples.
        a: The answer to their last question.
        t: The step, for random numbers.
        rows: (m,) which samples of the problem they are.

    Returns:
        (m, ...) perturbations, and where the search stands then.
    """
    best = take(p.ledger.best, rows) - take(p.x, rows)
    low, high = take(p.low, rows), take(p.high, rows)
    distance, rng = take(p.ledger.distance, rows), p.rng(t).of(rows)
    won = a.adversarial.logical_and(a.distance <= distance)
    tried = (s.near + 1) / 2
    # The best perturbation became shorter by the share that was tried.
    near = where(won, s.near / tried, tried)
    near = where(s.mode == _HALVING, near, s.near)
    change = where(won, full(best, 1 - _TARGET), -_TARGET)
    change = where(s.mode == _WALKING, change * _RATE, 0.0)
    stepsize = (s.stepsize * change.exp()).clip(1e-4, 1.0)

    # Many classifiers see all noise of one kind as one class.
    shape = p.x.shape[1:]
    kind = shape if t % 2 else (1,) * len(shape)
    start = low + (high - low) * rng.uniform(kind)
    halving, found = near < _CLOSE, distance < math.inf
    delta = where(halving, p.norm.towards(best, (near + 1) / 2), best)
    if bool(found.logical_and(halving.logical_not()).any()):
        walked = _walked(p.norm, best, distance, stepsize, rng, low, high)
        delta = where(halving, delta, walked)
    mode = where(found, where(halving, full(best, _HALVING), _WALKING), 0.0)
    after = dataclasses.replace(s, mode=mode, near=near, stepsize=stepsize)
    return where(found, delta, start), after


def _walked(
    norm: Norm,
    best: Batch,
    distance: PerSample,
    stepsize: PerSample,
    rng: Rng,
    low: Batch,
    high: Batch,
) -> Batch:
    """A random step around the original from `best`, and one a little nearer."""
    shape = best.shape[1:]
    distance = where(distance < math.inf, distance, 0.0)
    radius = distance * (1 - stepsize.square() / 2)
    if norm.name == "l0":
        # Some of the features, left as they are.
        radius = minimum(radius, maximum(distance - 1, 0.0))
        return best * differs(norm.project(best * rng.uniform(shape), radius), 0.0)
    noise = rng.normal(shape)
    if norm.name == "linf":
        # Small perturbations lie in the corners of the ball: few features, far.
        share = maximum(stepsize, 1 / flatten(best).shape[1])
        moved = rng.uniform(shape) < expand(share, noise)
        moved = where(moved, noise * expand(2 * distance, noise), 0.0)
    else:
        length = magnitude(best, 2)
        along = total(noise * best) / nonzero(length.square())
        noise = noise - expand(along, noise) * best
        size = nonzero(magnitude(noise, 2))
        moved = noise * expand(stepsize * length / size, noise)
    return norm.project_box(best + moved, radius, low, high)
