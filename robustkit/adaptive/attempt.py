"""One plan carried out: attacked as planned, verified on the model itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustkit.adaptive.remedy import Plan
from robustkit.engine.attack import Attack
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import in_one_line
from robustkit.evaluation.goals import MakeCriterion, adversarial_from_start
from robustkit.evaluation.verify import confirm, confirm_repeatedly
from robustkit.models.base import Access, Model
from robustkit.models.isolated import isolated
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["Best", "Outcome", "attempt", "confirmed", "wrong_from_start"]


@dataclass(frozen=True)
class Best:
    """The nearest verified adversarials of n samples so far.

    Attributes:
        x: (n, ...) the points; originals where there is none.
        distance: (n,) in norm units; infinite where there is none, 0 where the original
            is adversarial.
        successes: (n,) in how many of `draws` fresh draws it was adversarial.
        draws: How often each was asked about; 1 where answers are not random.
        by: (n,) the remedy and the attack that found it.
    """

    x: Array
    distance: Array
    successes: Array
    draws: int
    by: Array

    def nearer(self, rows: Array, other: "Best") -> tuple["Best", Array]:
        """With the others' points (of `rows`) where they are nearer; and which."""
        better = other.distance < self.distance[rows]
        places = rows[better]
        parts = {}
        for name in ("x", "distance", "successes", "by"):
            values = getattr(self, name).copy()
            values[places] = getattr(other, name)[better]
            parts[name] = values
        return Best(draws=self.draws, **parts), places


@dataclass(frozen=True)
class Outcome:
    """What carrying out a plan gave.

    Attributes:
        best: Of the samples attacked.
        forwards: Forward passes, over all samples and attacks.
        backwards: Backward passes.
        failures: What went wrong, by attack.
    """

    best: Best
    forwards: int
    backwards: int
    failures: dict[str, str]


def attempt(
    plan: Plan,
    model: Model,
    make: MakeCriterion,
    x: Array,
    label: Array,
    norm: Norm,
    *,
    name: str,
    budget: int,
    draws: int,
    seed: int,
    batch_size: int,
    say: Callable[[str], None],
) -> Outcome:
    """Attack samples by a plan, and verify what it finds.

    The plan's attacks have equal parts of the budget, and end where theirs does. One
    that raises is noted, and the others go on; one whose part has no room for its first
    question is noted, and not begun.

    Args:
        plan: What to do.
        model: That is evaluated, and by which adversarials are verified.
        make: What is adversarial there.
        x: (n, ...) originals.
        label: (n,) their classes.
        norm: In which distances are measured.
        name: Of the remedy.
        budget: Forward passes per sample for all of its attacks.
        draws: How often to ask about each adversarial.
        seed: Of all randomness.
        batch_size: How many samples to work on at once.
        say: Called with what is being done.
    """
    model, plan = isolated(model), replace(plan, model=isolated(plan.model))
    best = Best(
        np.array(x),
        np.full(len(x), np.inf),
        np.zeros(len(x), np.int64),
        draws,
        np.full(len(x), "", dtype=object),
    )
    forwards = backwards = 0
    failures: dict[str, str] = {}
    share = budget // max(len(plan.attacks), 1)
    for attack_name, attack in plan.attacks.items():
        limit = share - _last(attack, plan.model)
        if limit < plan.model.passes_per_question:
            failures[attack_name] = f"{share} passes have no room for one question"
            continue
        for start in range(0, len(x), batch_size):
            rows = np.arange(start, min(start + batch_size, len(x)))
            say(f"{name}: {norm} {attack_name}, sample {start} of {len(x)}")
            problem = None
            try:
                problem = _problem(plan, make, x[rows], label[rows], norm, seed)
                run(attack, problem, budget=limit)
            except Exception as error:
                said = in_one_line(error)
                failures[attack_name] = said
            if problem is None:
                continue
            forwards += int(problem.ledger.forwards.sum())
            backwards += int(problem.ledger.backwards.sum())
            points = np.array(to_numpy(problem.ledger.best)).astype(x.dtype)
            claimed = np.flatnonzero(np.isfinite(to_numpy(problem.ledger.distance)))
            found = confirmed(
                model,
                make,
                x[rows[claimed]],
                label[rows[claimed]],
                points[claimed],
                norm,
                draws=draws,
                by=f"{name}: {attack_name}",
            )
            best, _ = best.nearer(rows[claimed], found)
    return Outcome(best, forwards, backwards, failures)


def confirmed(
    model: Model,
    make: MakeCriterion,
    x: Array,
    label: Array,
    points: Array,
    norm: Norm,
    *,
    draws: int,
    by: str,
) -> Best:
    """Points (n, ...) asked about once more, `draws` times where answers are random."""
    count = len(x)
    distance = np.full(count, np.inf)
    successes = np.zeros(count, dtype=np.int64)
    names = np.full(count, by, dtype=object)
    if count == 0:
        return Best(x, distance, successes, draws, names)
    logits = to_numpy(model.logits(model.to_tensor(x)))
    criterion = make(label, logits, x)
    if draws > 1:
        points, sizes, successes, flaws = confirm_repeatedly(
            model, criterion, x, points, norm, draws
        )
    else:
        points, sizes, flaws = confirm(model, criterion, x, points, norm)
        successes = np.array([int(not flaw) for flaw in flaws])
    fine = np.array([not flaw for flaw in flaws])
    return Best(points, np.where(fine, sizes, np.inf), successes, draws, names)


def wrong_from_start(
    model: Model, make: MakeCriterion, x: Array, label: Array, draws: int
) -> Array:
    """(n,) in how many fresh draws originals are errors, as where they are refused.

    Args:
        model: To be asked.
        make: What is adversarial.
        x: (n, ...) originals.
        label: (n,) their classes.
        draws: How often to ask.
    """
    count = np.zeros(len(x), dtype=np.int64)
    if len(x) == 0:
        return count
    model = model.precise()
    with model.session():
        tensor = model.to_tensor(x)
        criterion = make(label, to_numpy(model.logits(tensor)), x)
        for _ in range(draws):
            logits = model.logits(tensor)
            margin, top = to_numpy(criterion.margin(logits)), logits.argmax(axis=1)
            count += adversarial_from_start(criterion, margin, to_numpy(top), label)
    return count


def _last(attack: Attack[Any], model: Model) -> int:
    """Forward passes that may be taken after the last question: for its gradient."""
    return model.passes_per_gradient if attack.access >= Access.GRADIENT else 0


def _problem(
    plan: Plan, make: MakeCriterion, x: Array, label: Array, norm: Norm, seed: int
) -> Problem:
    tensor = plan.model.to_tensor(x)
    logits = to_numpy(plan.model.logits(tensor))
    criterion = (plan.criterion or make)(label, logits, x)
    return Problem(plan.model, tensor, criterion, norm, seed=seed)
