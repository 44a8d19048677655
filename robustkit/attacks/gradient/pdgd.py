"""Primal-dual attacks: the price of not being adversarial is learned on the way."""

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.optimisers import Adam
from robustkit.numerics.schedules import geometric
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    full,
    magnitude,
    maximum,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["PDGD", "PDPGD"]

# The weights of norm and margin never differ by more than this factor.
_WIDEST = math.log(1e6)
# Of the largest scale of the optimiser: the least that a feature's counts as.
_LEAST_SCALE = 0.1


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        optimiser: Of the step.
        log_price: (n,) logarithm of the margin's weight over the norm's.
        share: (n,) running average of the norm's weight, both weights summing to one.
    """

    delta: Batch
    optimiser: Adam
    log_price: PerSample
    share: PerSample


@dataclass(frozen=True)
class _PrimalDual(Attack[State]):
    """What both have in common: all but the use they make of the norm."""

    access: ClassVar[Access] = Access.GRADIENT
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "Matyasko, Chau, arXiv:2106.01538, 2021"
    positive: ClassVar[tuple[str, ...]] = ("stepsize", "ratio")

    steps: int = 400
    stepsize: float = 0.1
    price_stepsize: float = 30.0
    ratio: float = 0.01

    @abstractmethod
    def descend(
        self, p: Problem, s: State, slope: Batch, delta: Batch, stepsize: float
    ) -> tuple[Batch, Adam]:
        """The next perturbation and optimiser, in a box of width one.

        Args:
            p: The problem.
            s: The state.
            slope: (n, ...) of the margin's loss.
            delta: (n, ...) the present perturbation.
            stepsize: Of this step.
        """

    def init(self, p: Problem) -> State:
        unknown = full(p.x, 0.0)
        return State(p.ledger.best - p.x, Adam.at(p.x), unknown, unknown)

    def step(self, p: Problem, s: State, t: int) -> State:
        width, progress = p.bounds.width, t / self.steps
        a = p.gradient(p.place(s.delta))
        if t == 0:
            steepest = nonzero(p.norm.dual(a.gradient) * width)
            price = -(self.ratio * steepest).log().clip(-_WIDEST, _WIDEST)
            s = dataclasses.replace(s, log_price=price, share=_norm_share(price))
        # The margin's loss is log(1 + exp(margin)).
        slope = a.gradient * expand((a.margin / 2).tanh() / 2 + 0.5, a.gradient) * width
        stepsize = geometric(progress, self.stepsize, self.stepsize / 100)
        delta, optimiser = self.descend(p, s, slope, a.delta / width, stepsize)
        rate = self.price_stepsize / self.steps * (1 - 0.9 * progress)
        price = (s.log_price + rate * a.margin.sign()).clip(-_WIDEST, _WIDEST)
        share = 0.9 * s.share + 0.1 * _norm_share(price)
        return State(delta * width, optimiser, price, share)


@dataclass(frozen=True)
class PDGD(_PrimalDual):
    """Descend norm and margin together, at a price that follows the margin's sign.

    The price of not being adversarial rises while the point is not, and falls while it
    is, until both pulls are in balance at the boundary. Starts from the best
    adversarial known, else from the original.

    Args:
        steps: How many; 1 forward and 1 backward pass each. Below a few hundred, much
            of them is spent on finding the price.
        stepsize: First step of each feature, as a share of the width of the bounds. It
            falls to a hundredth.
        price_stepsize: First step of the price's logarithm, times `steps`. It falls to
            a tenth.
        ratio: First weight of the norm over that of the margin, as a share of the
            one that would balance them at the start.

    Source:
        Matyasko, Chau: PDPGD: Primal-Dual Proximal Gradient Descent Adversarial
        Attack, arXiv:2106.01538, 2021, algorithm 1.

    Differences from the paper:
        - Within a cascade, the start is the best adversarial of the attacks before.
        - Inputs are measured in widths of the bounds, and the first ratio is relative
          to the gradient, so that neither their scale nor that of the logits sets how
          long the search for the price takes. That ends where logits are a hundred
          million times larger or smaller: prices lie within a factor of a million of
          one, and tiny gradients are noise to the optimiser.
        - The steps of the price are larger when there are fewer of them, so that it
          can cover the same range: with the published ones 100 steps are not enough.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.pdgd import PDGD
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(PDGD(), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.29
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

    def descend(
        self, p: Problem, s: State, slope: Batch, delta: Batch, stepsize: float
    ) -> tuple[Batch, Adam]:
        outwards = delta / expand(nonzero(magnitude(delta, 2)), delta)
        share = expand(s.share, delta)
        optimiser = s.optimiser.after((1 - share) * slope + share * outwards)
        return _clipped(p, delta - optimiser.direction * stepsize), optimiser


@dataclass(frozen=True)
class PDPGD(_PrimalDual):
    """As `PDGD`, with the norm's part of each step solved exactly.

    A step down the margin alone is followed by the norm's proximal operator, which
    needs no gradient: so it works for norms that have none where it matters, and its
    perturbations are sparse for L1 and L0. Starts from the best adversarial known, else
    from the original: where a class far away is to be reached in L1 or L0, a start from
    a poor adversarial leads far nearer than one from the original.

    Args:
        steps: How many; 1 forward and 1 backward pass each. Below a few hundred, much
            of them is spent on finding the price.
        stepsize: First step of each feature, as a share of the width of the bounds. It
            falls to a hundredth.
        price_stepsize: First step of the price's logarithm, times `steps`. It falls to
            a tenth.
        ratio: First weight of the norm over that of the margin, as a share of the
            one that would balance them at the start.

    Source:
        Matyasko, Chau: PDPGD: Primal-Dual Proximal Gradient Descent Adversarial
        Attack, arXiv:2106.01538, 2021, algorithm 2.

    Differences from the paper:
        - Those of `PDGD`.
        - The proximal operator in the optimiser's metric is solved exactly
          (`Norm.proximal`), not by up to five inner iterations. Their early end was
          not only an error: it spared features whose scale in the optimiser is small,
          and on some networks these lead to far better adversarials. A least scale
          keeps that.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.pdgd import PDPGD
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(PDPGD(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.2
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})

    def descend(
        self, p: Problem, s: State, slope: Batch, delta: Batch, stepsize: float
    ) -> tuple[Batch, Adam]:
        optimiser = s.optimiser.after(slope)
        delta = _clipped(p, delta - optimiser.direction * stepsize)
        scale = optimiser.scale
        least = _LEAST_SCALE * magnitude(scale, math.inf)
        curvature = maximum(scale, expand(least, scale))
        weight = stepsize * s.share / (1 - s.share)
        return p.norm.proximal(delta, curvature, weight), optimiser


def _norm_share(log_price: PerSample) -> PerSample:
    return 1 / (1 + log_price.exp())


def _clipped(p: Problem, delta: Batch) -> Batch:
    """Within the bounds; all in a box of width one."""
    width = p.bounds.width
    return (p.bounds.clip(p.x + delta * width) - p.x) / width
