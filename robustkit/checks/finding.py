"""What a check says: how bad, the evidence, and what to do."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "Severity", "about", "as_json", "of_samples"]


class Severity(enum.IntEnum):
    """How much a finding takes from a robustness number.

    Attributes:
        NOTE: Worth knowing; the number stands.
        SUSPICIOUS: The number may be too high; look before you believe it.
        INVALIDATES: The number is no evidence of robustness.
    """

    NOTE = 1
    SUSPICIOUS = 2
    INVALIDATES = 3


@dataclass(frozen=True)
class Finding:
    """A symptom.

    Attributes:
        id: Of the check, as in docs/explanation/checks.md.
        severity: How bad it is.
        diagnosis: What it means, in a sentence or two; begins with its norms if it is
            about some only.
        remedy: What to do.
        evidence: The numbers that it rests on.
        samples: Positions in the data of the samples it was seen at; empty where it is
            not about single samples.
    """

    id: str
    severity: Severity
    diagnosis: str
    remedy: str
    evidence: Mapping[str, float]
    samples: tuple[int, ...] = ()


def of_samples(some: int, total: int) -> str:
    """How many of how many samples, in words.

    >>> of_samples(1, 1), of_samples(3, 40)
    ('1 of 1 sample', '3 of 40 samples')
    """
    return f"{some} of {total} sample{'s' if total != 1 else ''}"


def about(finding: Finding, norms: Sequence[str]) -> tuple[str, ...]:
    """Which of a run's norms a finding is about; all, if it begins with none.

    >>> note = Finding("S4", Severity.NOTE, "l2: nothing was found", "more passes", {})
    >>> about(note, ["linf", "l2"])
    ('l2',)
    """
    named = finding.diagnosis.partition(": ")[0].split(", ")
    return tuple(named if set(named) <= set(norms) else norms)


def as_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    return {
        "id": finding.id,
        "severity": finding.severity.name.lower(),
        "diagnosis": finding.diagnosis,
        "remedy": finding.remedy,
        "evidence": dict(finding.evidence),
        "samples": list(finding.samples),
    }
