"""Voting folded Gaussian attack: change one feature after the other."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.logits import one_hot
from robustkit.numerics.tensors import Batch, Mask, flatten, where

__all__ = ["VFGA"]


@dataclass(frozen=True)
class State:
    """Where the walk stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
    """

    delta: Batch


@dataclass(frozen=True)
class VFGA(Attack[State]):
    """Change the most promising feature, by the best of several random amounts.

    Two features are candidates: the one that promises most when raised, and the one
    when lowered, by gradient times room. Amounts are folded normal numbers times the
    room, so most changes stay inside the bounds and many end at them.

    Args:
        steps: Most features to change; 1 backward pass and 1 + 2 `candidates` forward
            passes each. A sample is finished with its first adversarial.
        candidates: How many amounts to try for each of the two features.

    Source:
        Hajri, Cesaire, Combey, Lamprier, Gallinari: Stochastic sparse adversarial
        attacks, ICTAI 2021, algorithm 2.

    Differences from the paper:
        The margin is lowered, not the probability of the label: it serves every
        criterion, and its gradient does not vanish where the model is certain.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.vfga import VFGA
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> rk.run(VFGA(), model, x, y, norm="l0").distance.tolist()
    [1.0]
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 + 2 candidates forward + 1 backward"
    source: ClassVar[str] = "Hajri et al., ICTAI 2021, algorithm 2"
    positive: ClassVar[tuple[str, ...]] = ("candidates",)

    steps: int = 100
    candidates: int = 10

    def init(self, p: Problem) -> State:
        return State(p.x.zeros_like())

    def step(self, p: Problem, s: State, t: int) -> State:
        a = p.gradient(p.place(s.delta))
        untouched = a.delta == 0
        delta, least = s.delta, a.margin.zeros_like() + math.inf
        amounts = p.rng(t).normal((2, self.candidates)).abs()
        for way, bound in enumerate((p.bounds.upper, p.bounds.lower)):
            room = bound - a.point
            gain = flatten(where(untouched, -a.gradient * room, -math.inf))
            chosen = one_hot(gain.argmax(axis=1), gain.shape[1]).astype(room.dtype)
            change = flatten(room) * chosen
            for place in range(self.candidates):
                amount = amounts[:, way, place].expand_dims(1)
                tried = a.delta + (change * amount).reshape(room.shape)
                answer = p.score(p.x + tried)
                better = answer.margin < least
                delta = where(better, answer.delta, delta)
                least = where(better, answer.margin, least)
        return State(delta)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return p.ledger.found

    def within(self, budget: int) -> Self:
        return dataclasses.replace(
            self, steps=max(budget // (1 + 2 * self.candidates), 1)
        )
