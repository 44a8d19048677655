"""Sigma-zero: descend a smooth count of the changed features."""

import math
from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.optimisers import Adam
from robustkit.numerics.schedules import cosine
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    flatten,
    full,
    magnitude,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["SigmaZero"]


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        optimiser: Of the step.
        threshold: (n,) below which a change is undone, as a share of the box's width.
    """

    delta: Batch
    optimiser: Adam
    threshold: PerSample


@dataclass(frozen=True)
class SigmaZero(Attack[State]):
    """Descend a smooth stand-in for the number of changes, and undo the small ones.

    Each feature counts as change^2 / (change^2 + smoothing), whose slope vanishes for
    large changes: those that matter are left alone, the others shrink until they fall
    below a threshold. It rises while the point is adversarial and falls while not.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: First step of each feature, as a share of the width of the bounds. It
            falls to a tenth.
        threshold: First threshold, as a share of the width.
        adaptation: Change of the threshold, as a share of the step.
        smoothing: Of the count; smaller values count more sharply.

    Source:
        Cina, Villani, Pintor, Schoenherr, Biggio, Pelillo: Sigma-zero: Gradient-based
        Optimization of L0-norm Adversarial Examples, ICLR 2025, algorithm 1.

    Differences from the paper:
        - Inputs are measured in widths of the bounds.
        - Where pixels are counted, change and threshold are those of whole pixels.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.sigma_zero import SigmaZero
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> rk.run(SigmaZero(), model, x, y, norm="l0").distance.tolist()
    [1.0]
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Cina et al., ICLR 2025, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("stepsize", "smoothing")

    steps: int = 100
    stepsize: float = 1.0
    threshold: float = 0.3
    adaptation: float = 0.01
    smoothing: float = 1e-3

    def init(self, p: Problem) -> State:
        return State(p.x.zeros_like(), Adam.at(p.x), full(p.x, self.threshold))

    def step(self, p: Problem, s: State, t: int) -> State:
        assert isinstance(p.norm, L0)
        width = p.bounds.width
        stepsize = cosine(t / self.steps, self.stepsize, self.stepsize / 10)
        a = p.gradient(p.place(s.delta))
        change = a.delta / width
        square = p.norm.summed(change.square())
        units = flatten(square).shape[1]
        count = change * (2 * self.smoothing / units) / (square + self.smoothing) ** 2
        slope = where(a.adversarial, 0.0, a.gradient * width) + count
        slope = slope / expand(nonzero(magnitude(slope, math.inf)), slope)
        optimiser = s.optimiser.after(slope)
        point = p.bounds.clip(a.point - optimiser.direction * (stepsize * width))
        delta = point - p.x
        # Up by the change where adversarial, else down.
        up = 2 * a.adversarial.astype(s.threshold.dtype) - 1
        threshold = (s.threshold + up * (self.adaptation * stepsize)).clip(0.0, 1.0)
        size = p.norm.summed(delta.square()).sqrt()
        kept = size >= expand(threshold * width, size)
        return State(where(kept, delta, 0.0), optimiser, threshold)
