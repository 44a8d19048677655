"""Whether gradients tell the truth."""

import dataclasses
import math
from dataclasses import dataclass

from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.numerics.fused import fused
from robustkit.numerics.norms import tamed
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    expand,
    full,
    inner_product,
    magnitude,
    maximum,
    minimum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Trust"]

# So many predictions are waited for at first, and this share of them must come true.
_FEW, _TRUE = 8, 0.05
# A prediction counts if it is about at least this share of the margin.
_WORTH = 0.05
# The length of a small step, as a share of the perturbation's, or of this share of the
# box where that is less; what of it must come true; and how many may fail.
_SMALL, _LEAST, _CAME, _TESTS = 0.01, 0.01, 0.5, 4


@dataclass(frozen=True)
class Trust:
    """What each sample's gradients foretold, and what came.

    Where little came of the steps that were taken, the gradients may lie, or the steps
    be too large for what they are true of. So a doubted sample takes small steps along
    its gradients, every other question. What one of them foretells comes true wherever
    gradients are sound, whatever they were worth before; then they are trusted for
    twice as long as the last time. Where none of several comes true, they lie; and
    where they were zero, always. Parts of sound models are flat.

    Attributes:
        margin: (n,) at the last question.
        foretold: (n,) change of the margin by the next; zero: nothing was foretold.
        trials: (n,) predictions that counted.
        kept: (n,) the shares of them that came, between -1 and 1 each, summed.
        patience: (n,) how many are waited for.
        small: (n,) whether the last question was a small step.
        failed: (n,) small steps of which nothing came.
        steep: (n,) whether there was a gradient other than zero.
        flat: (n,) whether the last one was zero.
    """

    margin: PerSample
    foretold: PerSample
    trials: PerSample
    kept: PerSample
    patience: PerSample
    small: Mask
    failed: PerSample
    steep: Mask
    flat: Mask

    @classmethod
    def unknown(cls, p: Problem) -> "Trust":
        """Before anything was asked."""
        zero = full(p.x, 0.0)
        no = zero > 0
        return cls(zero, zero, zero, zero, zero + _FEW, no, zero, no, no)

    @property
    def lost(self) -> Mask:
        """(n,) whose gradients lie."""
        return self.failed >= _TESTS

    def judged(self, a: GradientAnswer) -> "Trust":
        """With the answer to the question that something was foretold about."""
        trials, kept, patience, failed, steep, flat = _judged(
            self.margin,
            self.foretold,
            self.trials,
            self.kept,
            self.patience,
            self.small,
            self.failed,
            self.steep,
            a.margin,
            a.gradient,
        )
        return dataclasses.replace(
            self,
            margin=a.margin,
            trials=trials,
            kept=kept,
            patience=patience,
            failed=failed,
            steep=steep,
            flat=flat,
        )

    def foretelling(
        self, p: Problem, a: GradientAnswer, delta: Batch
    ) -> tuple[Batch, "Trust"]:
        """What to ask next, and with what the gradient says of the margin there.

        Args:
            p: The problem.
            a: The last answer.
            delta: (n, ...) what would be asked next if there were no doubts.
        """
        small = (self.trials >= self.patience).logical_and(self.small.logical_not())
        small = small.logical_and(self.kept <= _TRUE * self.trials)
        if bool(small.any()):
            silent = self.flat.logical_and(self.steep)
            small = small.logical_and(silent.logical_not())
            # Where all is flat no step is small, and any may find something.
            stepping = small.logical_and(self.flat.logical_not())
            delta = where(stepping, _small_step(p, a), delta)
        foretold = _rise(a.gradient, a.delta, delta)
        return delta, dataclasses.replace(self, foretold=foretold, small=small)

    def silent(self) -> "Trust":
        """With nothing foretold, because the gradient is that of something else."""
        nothing = self.foretold * 0
        return dataclasses.replace(self, foretold=nothing, small=nothing > 0)


@fused
def _judged(
    before: PerSample,
    foretold: PerSample,
    trials: PerSample,
    kept: PerSample,
    patience: PerSample,
    small: Mask,
    failed: PerSample,
    steep: Mask,
    margin: PerSample,
    gradient: Batch,
) -> tuple[PerSample, PerSample, PerSample, PerSample, Mask, Mask]:
    """What became of trials, kept, patience, failed, steep and flat by a question.

    The margin (n,) was `before`, and is `margin` now, as the gradient (n, ...) is.
    """
    # Where an answer was no number, its margin is infinite.
    known = maximum(margin.abs(), before.abs()) < math.inf
    change = where(known, margin, 0.0) - where(known, before, 0.0)
    share = where(known, change / nonzero(foretold), 0.0)
    share = where(foretold != 0, share, 0.0).clip(-1.0, 1.0)
    counts = foretold.abs() > _WORTH * before.abs()
    # A gradient that is zero says that nothing can be done.
    flat = magnitude(gradient, math.inf) == 0
    counts = counts.logical_and(known).logical_or(flat)
    counts = counts.logical_and(small.logical_not())
    came = small.logical_and(share >= _CAME)
    return (
        where(came, 0.0, where(counts, trials + 1, trials)),
        where(came, 0.0, where(counts, kept + share, kept)),
        where(came, 2 * patience, patience),
        where(came, 0.0, where(small, failed + 1, failed)),
        steep.logical_or(flat.logical_not()),
        flat,
    )


@fused
def _rise(gradient: Batch, before: Batch, after: Batch) -> PerSample:
    """By how much (n,) a linear margin grows from one point to another."""
    return inner_product(gradient, after - before)


def _small_step(p: Problem, a: GradientAnswer) -> Batch:
    """(n, ...) perturbations a little along the gradient, down or up."""
    length = magnitude(a.delta, 2)
    least = _LEAST * magnitude(p.high - p.low, 2)
    direction, size, _ = tamed(a.gradient)
    step = _SMALL * maximum(length, least) / nonzero(size)
    step = expand(step, direction) * direction
    down = minimum(maximum(a.delta - step, p.low), p.high)
    up = minimum(maximum(a.delta + step, p.low), p.high)
    # At the edge of the box there may be room in one direction only.
    room = magnitude(up - a.delta, 2) > magnitude(down - a.delta, 2)
    return where(room, up, down)
