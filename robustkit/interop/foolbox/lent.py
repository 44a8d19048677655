"""Our attacks as foolbox's."""

from typing import Any

import numpy as np
from eagerpy.astensor import astensor_
from foolbox.attacks import base
from foolbox.distances import Distance
from foolbox.models.base import Model as GuestModel

from robustkit.arguments import as_seed, as_whole
from robustkit.engine.attack import Attack
from robustkit.errors import BadInput
from robustkit.evaluation.single import run
from robustkit.interop.foolbox.translation import DISTANCES, from_foolbox
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import full, minimum, where

__all__ = ["as_foolbox"]


def as_foolbox(
    attack: Attack[Any],
    norm: str | Norm,
    *,
    seed: int = 0,
    budget: int | None = None,
) -> base.MinimizationAttack:
    """One of our attacks, to be called like one of foolbox's.

    `attack(fmodel, inputs, criterion, epsilons=...)` returns what foolbox's attacks
    return. Takes labels, or foolbox's Misclassification and TargetedMisclassification,
    or several of these joined by `&`; `starting_points` are the problem's `starts`.
    `repeat(times)` keeps the nearest of runs with the seeds `seed`, `seed` + 1, ...

    Args:
        attack: To be run.
        norm: To be minimised: "l0", "l1", "l2" or "linf".
        seed: Of all randomness.
        budget: The most model passes per sample and run that count; None: the attack's
            own.

    Raises:
        BadInput: foolbox has no distance for the norm, or the seed or the budget is
            none.

    >>> from robustkit import FMN
    >>> as_foolbox(FMN(steps=20), "l2").distance
    LpDistance(2)
    """
    chosen = get_norm(norm)
    if repr(chosen) not in DISTANCES:
        raise BadInput(
            f"foolbox has no distance for the norm {chosen}; it has "
            f"{', '.join(DISTANCES)}"
        )
    if budget is not None:
        budget = as_whole(budget, "the budget", least=1)
    return _Lent(attack, chosen, as_seed(seed), budget)


class _Lent(base.MinimizationAttack):
    """One of our attacks behind foolbox's interface."""

    def __init__(
        self,
        attack: Attack[Any],
        norm: Norm,
        seed: int,
        budget: int | None,
        times: int = 1,
    ) -> None:
        self._attack, self._norm, self._seed = attack, norm, seed
        self._budget, self._times = budget, times

    @property
    def distance(self) -> Distance:
        return DISTANCES[self._norm.name]

    def repeat(self, times: int) -> "_Lent":
        times = as_whole(times, "how often an attack is repeated", least=1)
        times *= self._times
        return _Lent(self._attack, self._norm, self._seed, self._budget, times)

    def run(
        self,
        model: GuestModel,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: float | None = None,
        starting_points: Any = None,
        **settings: Any,
    ) -> Any:
        """The nearest adversarial of each input, or the input itself."""
        base.raise_if_kwargs(settings)
        x, restore_type = astensor_(inputs)
        ours = from_foolbox(base.get_criterion(criterion))
        best, distance = x, full(x, np.inf)
        for turn in range(self._times):
            result = run(
                self._attack,
                model,
                x,
                ours,
                norm=self._norm,
                budget=self._budget,
                seed=(self._seed + turn) % 2**63,
                starts=starting_points,
            )
            best = where(result.distance < distance, result.x_adversarial, best)
            distance = minimum(distance, result.distance)
        return restore_type(best)
