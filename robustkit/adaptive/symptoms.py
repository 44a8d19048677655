"""Findings: those to begin with, and how they come and go while they are answered."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from robustkit.adaptive.attempt import Best
from robustkit.adaptive.remedy import Case
from robustkit.checks.check import check
from robustkit.checks.finding import Finding, Severity
from robustkit.checks.model_checks import REMEMBERS, check_model
from robustkit.checks.probe import probe
from robustkit.checks.run_checks import half_the_width
from robustkit.errors import BadInput
from robustkit.evaluation.curve import Curve
from robustkit.evaluation.results import Results
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array

__all__ = [
    "REFUSES",
    "first_found",
    "found_without_gradients",
    "mended",
    "with_findings",
    "without",
]

# Samples that findings are looked for at.
_CHECKED = 64
# Ids that speak of the gradients of the model as it is differentiated now.
_OF_GRADIENTS = frozenset({"G1", "G2", "G3", "R2"})
# Of accuracy: as much better than gradients makes another attack a finding.
_GAP = 0.002

REFUSES = Finding(
    "T3",
    Severity.NOTE,
    "the model may refuse to answer, so an attack has to get past two margins",
    "descend both together (Undetected, Abstaining)",
    {},
)
"""Of a model that abstains."""

_MENDED = Finding(
    "C9",
    Severity.NOTE,
    "only one kind of attack has looked at the mended model yet",
    "descend other losses as well, and attack without gradients",
    {},
)


def first_found(
    model: Model,
    x: Array,
    label: Array,
    results: Results,
    *,
    random: bool,
    say: Callable[[str], None],
) -> tuple[list[Finding], bool]:
    """What the checks find in the model and the run, and whether answers are random.

    Args:
        model: That was evaluated.
        x: (n, ...) the samples of the run.
        label: (n,) their classes.
        results: The run.
        random: Whether answers are known to be random.
        say: Called with what has to be known of what follows.
    """
    found = list(
        check(
            model,
            (x, label),
            run=results,
            samples=_CHECKED,
            trials=0,
            seed=results.run["config"]["seed"],
        ).findings
    )
    of_answers = [finding for finding in found if finding.id == "R1"]
    if any(REMEMBERS in f.evidence for f in of_answers):
        say(
            "the model remembers what it was asked, so what is found below is about "
            "its memory, too: attack it without its memory"
        )
        # Repeated questions would ask its memory.
        return found, False
    return found, random or any("spread" in f.evidence for f in of_answers)


def mended(model: Model, case: Case) -> tuple[Case, list[Finding]]:
    """A case whose model was mended, without what was said of its gradients.

    Args:
        model: The mended one, on which later remedies build.
        case: Before.

    Returns:
        The case, and what the checks say of the mended model's gradients.
    """
    kept = {
        id: finding for id, finding in case.findings.items() if id not in _OF_GRADIENTS
    }
    try:
        asked = probe(model, case.x, case.label, case.step, case.seed)
        said = [f for f in check_model(asked) if f.id in _OF_GRADIENTS]
    except (BadInput, RuntimeError):
        said = []
    return replace(case, current=model, findings=kept), [*said, _MENDED]


def without(case: Case, best: Best, label: Array) -> Case:
    """Without findings that speak of samples which have been broken since.

    Args:
        case: Whose findings they are.
        best: What is known of all samples.
        label: (n,) their classes.
    """
    settled = set()
    if not np.isinf(best.distance).any():
        settled.add("S4")
    if case.norm.name == "linf":
        half, chance = half_the_width(
            best.distance, label, case.classes, case.model.bounds
        )
        if half.lower <= chance:
            settled.add("C2")
    left = {id: f for id, f in case.findings.items() if id not in settled}
    return replace(case, findings=left)


def found_without_gradients(
    before: Best, after: Best, sizes: Iterable[float], norm: str
) -> list[Finding]:
    """C5: what sees less has done better than all that followed gradients.

    Args:
        before: What these had found.
        after: What is known with the other attacks.
        sizes: At which robust accuracy counts, in norm units.
        norm: Whose.
    """
    gap = max(
        Curve(before.distance).robust_accuracy(size).estimate
        - Curve(after.distance).robust_accuracy(size).estimate
        for size in sizes
    )
    if gap <= _GAP:
        return []
    return [
        Finding(
            "C5",
            Severity.INVALIDATES if gap > 0.05 else Severity.SUSPICIOUS,
            f"{norm}: attacks that need no gradients broke samples that all others had "
            "left",
            "estimate gradients, and descend other losses",
            {"robust accuracy lost": gap},
            norms=(norm,),
        )
    ]


def with_findings(case: Case, new: Iterable[Finding]) -> Case:
    """With these findings as well."""
    return replace(case, findings={**case.findings, **{f.id: f for f in new}})
