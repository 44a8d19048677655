"""SimBA within a given distance."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.frequencies import Subspace, low_frequencies
from robustkit.numerics.logits import at_label, one_hot
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    Tensor,
    expand,
    full,
    like,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["SimBA"]


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        delta: (n, ...) the best perturbation so far, in input units.
        margin: (n,) of it; infinite before the first question.
        proposal: (n, ...) the perturbation to be asked about next.
        sign: (n,) of the proposal along its direction; 0 for the first question.
        order: (n, directions) the directions' numbers, in the order to try them.
        turn: (n,) how many of them have been begun.
        epsilon: (n,) radius of the ball, in norm units.
    """

    delta: Batch
    margin: PerSample
    proposal: Batch
    sign: PerSample
    order: Tensor
    turn: Tensor
    epsilon: PerSample


@dataclass(frozen=True)
class SimBA(FixedBudget[State]):
    """One step along one direction of an orthonormal basis, forth or else back.

    The directions are the features themselves, or the low frequencies of a cosine
    transform, in random order and each once before any comes again. A step is kept
    where the margin falls; where it does not, the opposite step is asked about next.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many; 1 question each.
        basis: "pixel" or "dct".
        frequencies: The share of each side's, for "dct".
        stride: Of a step, as a share of epsilon, in norm units.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        Guo, Gardner, You, Wilson, Weinberger: Simple Black-box Adversarial Attacks,
        ICML 2019, algorithm 1.

    Differences from the paper:
        - Steps are a share of the radius and results are projected on ball and box. In
          the paper steps have a length of their own, and their number is the ball.
        - The margin is lowered, not the probability of the label.
        - All directions used, it begins anew in the same order.
        - Where an adversarial is known, as inside `Minimise`, the search starts from
          it, drawn into the ball.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> attack = SimBA(epsilon=0.3, steps=20, basis="pixel", stride=0.8)
    >>> bool(rk.run(attack, model, x, y, norm="l2").found[0])
    True
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Guo et al., ICML 2019, algorithm 1"
    positive: ClassVar[tuple[str, ...]] = ("stride",)

    epsilon: float
    steps: int = 5000
    basis: str = "dct"
    frequencies: float = 0.25
    stride: float = 0.2
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        known = where(p.ledger.found, p.ledger.best - p.x, 0.0 * p.x)
        delta = p.norm.project_box(known, epsilon, p.low, p.high)
        keys = to_numpy(rng.uniform((self._space(p).size,)))
        return State(
            delta=delta,
            margin=full(p.x, math.inf),
            proposal=delta,
            sign=full(p.x, 0.0),
            order=like(p.x, np.argsort(keys, axis=1)),
            turn=like(p.x, np.zeros(p.size, dtype=np.int64)),
            epsilon=epsilon,
        )

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        a = p.score(p.x + s.proposal)
        better = a.margin < s.margin
        delta = where(better, a.delta, s.delta)
        # Back only after a step forth that did not help.
        back = (s.sign > 0).logical_and(better.logical_not())
        sign = where(back, full(p.x, -1.0), 1.0)
        turn = s.turn + like(p.x, 1 - to_numpy(back))
        direction = self._direction(p, s.order, turn)
        move = expand(sign * self.stride * s.epsilon, p.x) * direction
        return State(
            delta=delta,
            margin=where(better, a.margin, s.margin),
            proposal=p.norm.project_box(delta + move, s.epsilon, p.low, p.high),
            sign=sign,
            order=s.order,
            turn=turn,
            epsilon=s.epsilon,
        )

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.epsilon) if self.stop else None

    def check(self, p: Problem) -> None:
        super().check(p)
        if self.basis not in ("pixel", "dct"):
            raise BadInput(f"SimBA knows the bases pixel and dct; got {self.basis!r}")
        self._space(p)

    def _space(self, p: Problem) -> Subspace:
        shape = tuple(p.x.shape[1:])
        if self.basis == "pixel":
            return Subspace(shape, shape, (), ())
        return low_frequencies(shape, self.frequencies)

    def _direction(self, p: Problem, order: Tensor, turn: Tensor) -> Batch:
        """(n, ...) of size 1 in the problem's norm."""
        space = self._space(p)
        place = like(p.x, (to_numpy(turn) - 1) % space.size)
        unit = one_hot(at_label(order, place), space.size).astype(p.x.dtype)
        direction = space.images(unit.reshape((p.size, *space.inner)))
        return direction / expand(nonzero(p.norm(direction)), direction)
