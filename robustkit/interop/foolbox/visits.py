"""One run of a foolbox attack, the guest, on samples of a problem."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from eagerpy.astensor import astensor_
from foolbox.attacks import base
from foolbox.criteria import Criterion, Misclassification
from foolbox.models.base import Model as GuestModel
from foolbox.types import Bounds as GuestBounds

from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.interop.foolbox.translation import from_torch, to_foolbox, to_torch
from robustkit.models.base import Access, Model
from robustkit.models.guests import OtherRows, answered
from robustkit.numerics.random import seeded
from robustkit.numerics.tensors import (
    Array,
    Batch,
    as_tensor,
    like,
    put,
    take,
    to_numpy,
)

__all__ = ["visit"]


def visit(
    guest: base.Attack,
    access: Access,
    p: Problem,
    rows: Array,
    step: int,
    epsilon: float | None,
) -> None:
    """Run the guest on some samples; the ledger keeps what it comes across.

    Args:
        guest: To be run.
        access: What it is shown.
        p: The problem that it asks.
        rows: (m,) which samples to run it on.
        step: Of the attack around it, for the random numbers.
        epsilon: For guests that take one, in norm units.

    Raises:
        BadInput: The guest does not serve the criterion, or needs starting points.
    """
    originals = to_torch(take(p.x, rows))
    watched = _Watched(p, rows, access, originals)
    criterion: Criterion
    if access is Access.DECISION:
        # It is shown two classes: not adversarial, adversarial.
        criterion = Misclassification(originals.new_zeros(len(rows), dtype=torch.int64))
    else:
        criterion = to_foolbox(take(p.criterion, rows), p.x)
    settings: dict[str, Any] = {}
    if isinstance(guest, base.AttackWithDistance):
        settings["epsilons"] = epsilon
    if p.starts is not None and _takes_starts(guest):
        settings["starting_points"] = as_tensor(to_torch(take(p.starts, rows)))
    seed = int(to_numpy(p.rng(step).integers(2**31))[rows[0]])
    try:
        with seeded(seed, originals.device), warnings.catch_warnings():
            # SpatialAttack calls it as older versions of torch wanted it.
            warnings.filterwarnings("ignore", "torch.meshgrid")
            guest(watched, originals.clone(), criterion, **settings)
    except _BudgetSpent:
        return
    except OtherRows:
        for row in rows:
            visit(guest, access, p, np.array([row]), step, epsilon)
    except ValueError as error:
        if str(error) == "unsupported criterion":
            raise BadInput(
                f"foolbox's {type(guest).__name__} does not serve the criterion "
                f"{type(p.criterion).__name__}; choose another attack"
            ) from error
        if str(error).endswith("requires starting_points"):
            raise BadInput(
                f"foolbox's {type(guest).__name__} refines adversarial points; give "
                "them as starts=... to robustkit.run"
            ) from error
        raise


class _BudgetSpent(Exception):
    """Nobody asked about has budget left; the guest has to go."""


class _Watched(GuestModel):
    """Some samples of a problem as a foolbox model: each call is a question.

    Args:
        problem: To ask.
        rows: Which of its samples the guest works on.
        access: What the guest is shown: a two-class decision, or scores.
        originals: Their inputs.
    """

    def __init__(
        self, problem: Problem, rows: Array, access: Access, originals: torch.Tensor
    ) -> None:
        self._problem, self._rows, self._access = problem, rows, access
        self._originals = originals
        # The problem works faster on all its samples than on a choice of them.
        self._asked = None if len(rows) == problem.size else rows
        self.data_format = _data_format(problem.model, originals)

    @property
    def bounds(self) -> GuestBounds:
        bounds = self._problem.bounds
        return GuestBounds(bounds.lower, bounds.upper)

    def __call__(self, inputs: Any) -> Any:
        x, restore_type = astensor_(inputs)
        return restore_type(as_tensor(self._answer(x.raw)))

    def _answer(self, x: torch.Tensor) -> torch.Tensor:
        if self._problem.ledger.spent()[self._rows].all():
            raise _BudgetSpent
        if len(x) == len(self._rows):
            return self._question(x)
        if len(self._rows) > 1:
            raise OtherRows
        return torch.cat([self._question(point[None]) for point in x])

    def _question(self, x: torch.Tensor) -> torch.Tensor:
        if self._access is Access.DECISION:
            return self._decide(x)
        if x.requires_grad:
            return answered(x, self._linearise)
        return to_torch(self._problem.logits(self._ours(x), self._asked))

    def _decide(self, x: torch.Tensor) -> torch.Tensor:
        p = self._problem
        asked = np.zeros(p.size, dtype=bool)
        asked[self._rows] = True
        points = put(p.x, self._rows, self._ours(x))
        passed = take(p.decide(points, like(p.x, asked)), self._rows)
        two = torch.nn.functional.one_hot(to_torch(passed).long(), 2)
        return two.to(x.dtype)

    def _linearise(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        logits, pull_back = self._problem.linearise(self._ours(x), self._asked)
        return to_torch(logits), lambda slopes: to_torch(
            pull_back(from_torch(slopes, self._problem.x))
        )

    def _ours(self, x: torch.Tensor) -> Batch:
        finite = torch.where(torch.isfinite(x), x, self._originals)
        return from_torch(finite, self._problem.x)


def _takes_starts(guest: base.Attack) -> bool:
    run_guest = getattr(guest, "run", guest)
    return "starting_points" in inspect.signature(run_guest).parameters


def _data_format(model: Model, originals: torch.Tensor) -> str | None:
    """Where image channels are; None where that cannot be told."""
    own: str | None = getattr(model, "data_format", None)
    if own is not None or originals.ndim != 4:
        return own
    first, last = (originals.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        return None
    return "channels_first" if first else "channels_last"
