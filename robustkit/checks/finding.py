"""What a check says: how bad, the evidence, and what to do."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "Severity", "as_json", "of_samples"]


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
        diagnosis: What it means, in a sentence or two.
        remedy: What to do.
        evidence: The numbers that it rests on.
        samples: Positions in the data of the samples it was seen at; empty where it is
            not about single samples.
        norms: Those that it is about; empty: all.
        attack: The one of a run's that it is about; None: no single one.
        trial: Whether it is about an attack that the check tried, not the run's.
    """

    id: str
    severity: Severity
    diagnosis: str
    remedy: str
    evidence: Mapping[str, float]
    samples: tuple[int, ...] = ()
    norms: tuple[str, ...] = ()
    attack: str | None = None
    trial: bool = False


def of_samples(some: int, total: int) -> str:
    """How many of how many samples, in words.

    >>> of_samples(1, 1), of_samples(3, 40)
    ('1 of 1 sample', '3 of 40 samples')
    """
    return f"{some} of {total} sample{'s' if total != 1 else ''}"


def as_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    return {
        "id": finding.id,
        "severity": finding.severity.name.lower(),
        "diagnosis": finding.diagnosis,
        "remedy": finding.remedy,
        "evidence": dict(finding.evidence),
        "samples": list(finding.samples),
        "norms": list(finding.norms),
        "attack": finding.attack,
        "trial": finding.trial,
    }
