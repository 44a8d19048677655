"""What a remedy is: which findings it answers, and what it makes of a case."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robustkit.checks.finding import Finding
from robustkit.engine.attack import Attack
from robustkit.evaluation.goals import MakeCriterion
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array

__all__ = ["Case", "Plan", "Remedy"]


@dataclass(frozen=True)
class Case:
    """What is known when a remedy is chosen; changed by none.

    Attributes:
        model: That is evaluated.
        current: The same with the remedies so far that help to differentiate it.
        x: (m, ...) a few originals that the model classifies correctly, for measuring.
        label: (m,) their classes.
        pool: (n, ...) the originals that are attacked.
        honest: (k, ...) a few inputs as they are, also such as the run left out, whose
            outputs others may be given.
        norm: In which distances are measured.
        epsilon: The size of most interest, in norm units.
        step: A customary change of every feature, in input units.
        budget: Passes of the model per sample for what the remedy attacks with.
        classes: Of the model.
        random: Whether the model's answers are.
        seed: Of all randomness.
        criterion: Makes what a batch is attacked by; what decides in the end is the
            evaluation's own.
        findings: By id.
    """

    model: Model
    current: Model
    x: Array
    label: Array
    pool: Array
    honest: Array
    norm: Norm
    epsilon: float
    step: float
    budget: int
    classes: int
    random: bool
    seed: int
    criterion: MakeCriterion
    findings: Mapping[str, Finding]


@dataclass(frozen=True)
class Plan:
    """What to do about a case.

    Attributes:
        model: To be attacked instead; what it finds is verified on the case's model.
        attacks: By name, planned for the case's budget; none where what was learned on
            the way tells that they would be of no use.
        details: What was chosen, and by which measurement.
        criterion: To be attacked by instead of the case's, for losses that need more
            than its margin.
        keep: Whether later remedies build on this model and criterion.
        lessons: Forward passes that the attack has taken already, over all samples, to
            learn the model's answers.
    """

    model: Model
    attacks: Mapping[str, Attack[Any]]
    details: str = ""
    criterion: MakeCriterion | None = None
    keep: bool = False
    lessons: int = 0


@dataclass(frozen=True)
class Remedy:
    """A known answer to findings. New remedies are more of these.

    Attributes:
        name: A word or two.
        answers: Ids of the findings that call for it.
        what: What it does, in a sentence.
        build: From a case to a plan; None: it does not apply, or would not help.
        cost: How many budgets it takes.
    """

    name: str
    answers: frozenset[str]
    what: str
    build: Callable[[Case], Plan | None]
    cost: float = 1.0
