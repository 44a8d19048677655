"""Augmented Lagrangian attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    full,
    magnitude,
    maximum,
    minimum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["ALMA"]

# Asks for a little more than the boundary, which a step alone would never cross.
_TOLERANCE = 1e-4
# The most that the constraint counts for: an answer that is not a number is infinite.
_MOST = 1e3


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation, in widths of the bounds.
        square: (n, ...) running average of the squared gradients.
        momentum: (n, ...) running sum of the steps.
        stepsize: (n,) first step.
        scale: (n,) what the margin is divided by to give the constraint.
        multiplier: (n,) of the constraint, as learned so far.
        penalty: (n,) how fast the multiplier may grow.
        checked: (n,) the constraint when the penalty was last thought about.
        success: (n,) step of the first adversarial; `steps` before it.
    """

    delta: Batch
    square: Batch
    momentum: Batch
    stepsize: PerSample
    scale: PerSample
    multiplier: PerSample
    penalty: PerSample
    checked: PerSample
    success: PerSample


@dataclass(frozen=True)
class ALMA(Attack[State]):
    """Descend the distance plus a penalty on the margin whose weight is learned.

    The penalty is that of an augmented Lagrangian: its slope at the boundary moves to
    the multiplier that holds the point there, so the minimum of the sum is the minimum
    of the distance under the constraint, not a compromise between the two.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: Length of the first step, as a share of the estimated distance.
        decay: How much of that length is left at the end, counted from the first
            adversarial on.
        constraint: What the margin of the original is scaled to. Smaller values make
            the attack follow the distance more closely, but longer to succeed. With
            300 steps in L1, 0.45 came nearer on two networks, and ended twice as far
            as the minimum on a planted linear model.
        memory: Share of the steps that the running averages look back on; at least
            two and at most ten steps.

    Source:
        Rony, Granger, Pedersoli, Ben Ayed: Augmented Lagrangian Adversarial Attacks,
        ICCV 2021, algorithm 1, with its penalty P2.

    Differences from the paper:
        - The constraint is the margin as a multiple of the original's, not the
          difference of logits ratio: it is as independent of the logits' scale, needs
          no third class and keeps its gradient everywhere.
        - The first step is a share of the estimated distance of the boundary, not an
          absolute length, so nothing depends on the scale of the inputs.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Rony et al., ICCV 2021, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("stepsize", "decay", "constraint")

    steps: int = 100
    stepsize: float = 0.1
    decay: float = 0.01
    constraint: float = 0.3
    memory: float = 0.02

    def init(self, p: Problem) -> State:
        zero, one = p.x.zeros_like(), full(p.x, 1.0)
        never = full(p.x, float(self.steps))
        return State(zero, zero + 1.0, zero, one, one, one, one, one, never)

    def step(self, p: Problem, s: State, t: int) -> State:
        keep = 1 - 1 / min(max(self.memory * self.steps, 2.0), 10.0)
        width = p.bounds.width
        a = p.gradient(p.place(s.delta * width))
        margin, scale, stepsize = a.margin, s.scale, s.stepsize
        if t == 0:
            # An answer that is no number, or infinite, says nothing of the scale.
            margin = where(margin < math.inf, margin, 1.0)
            scale = nonzero(margin) / self.constraint
        value = minimum(margin / scale + _TOLERANCE, _MOST)
        slope = a.gradient * expand(width / scale, a.gradient)
        penalty, checked, multiplier = s.penalty, s.checked, s.multiplier
        if t == 0:
            checked = value
        else:
            rise = _penalty_slope(value, penalty, multiplier)
            multiplier = keep * multiplier + (1 - keep) * rise
            multiplier = multiplier.clip(1e-6, 1e12)
        if t and (t + 1) % 10 == 0:
            helped = p.ledger.found.logical_or(value < 0.95 * checked)
            penalty, checked = where(helped, penalty, 1.2 * penalty), value
        pull = slope * expand(_penalty_slope(value, penalty, multiplier), slope)
        delta = a.delta / width
        if t == 0:
            open_ = where(pull > 0, p.low < 0, p.high > 0).astype(pull.dtype) * pull
            reach = p.norm.to_boundary(a.margin, a.gradient) / width
            reach = minimum(reach, p.largest / width)
            stepsize = self.stepsize * reach / nonzero(p.norm(open_))
        elif p.norm.name == "l1":
            pull = pull + delta.sign()
        else:
            pull = pull + delta / expand(nonzero(magnitude(delta, 2)), delta)
        square = keep * s.square + (1 - keep) * pull.square()
        momentum = keep * s.momentum + pull / (square.sqrt() + 1e-8)
        success = where(a.adversarial, minimum(s.success, float(t)), s.success)
        since = maximum(t - success, 0.0) / nonzero(self.steps - success)
        stepsize_now = stepsize * (since * math.log(self.decay)).exp()
        moved = delta - momentum * expand(stepsize_now, momentum)
        delta = (p.bounds.clip(p.x + moved * width) - p.x) / width
        return State(
            delta,
            square,
            momentum,
            stepsize,
            scale,
            multiplier,
            penalty,
            checked,
            success,
        )


def _penalty_slope(
    value: PerSample, penalty: PerSample, multiplier: PerSample
) -> PerSample:
    """Of the constraint's penalty: the multiplier at zero, less inside, more outside.

    The penalty is P2 of Birgin, Castillo, Martinez, Comput. Optim. Appl. 2005.
    """
    outside, inside = maximum(value, 0.0), minimum(value, 0.0)
    more = 2 * multiplier * penalty * outside + (penalty * outside).square() / 2
    # Where the label is ruled out, the margin's square is infinite in single precision.
    with np.errstate(over="ignore"):
        less = multiplier / (1 - penalty * inside).square()
    return where(value >= 0, multiplier + more, less)
