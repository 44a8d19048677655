"""All checks on a model, and on a run if there is one."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.checks.finding import Finding, Severity, as_json
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import NothingCorrect, probe
from robustkit.checks.run_checks import check_run
from robustkit.errors import BadInput
from robustkit.evaluation.opening import model_and_data
from robustkit.evaluation.preflight import check_labels, examine
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import write_json
from robustkit.numerics.bounds import Bounds

__all__ = ["FINDINGS", "Findings", "check", "check_results"]

FINDINGS = "findings.json"
"""The file of a run folder that holds its findings."""


@dataclass(frozen=True)
class Findings:
    """What the checks found.

    Attributes:
        findings: The worst first.
        samples: How many samples the model was asked about.
    """

    findings: tuple[Finding, ...]
    samples: int

    @property
    def worst(self) -> Severity | None:
        """How bad the worst finding is; None: there is none."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def invalid(self) -> bool:
        """Whether a number from this model, or run, is no evidence."""
        return self.worst is Severity.INVALIDATES

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": 1,
            "samples": self.samples,
            "worst": None if self.worst is None else self.worst.name.lower(),
            "findings": [as_json(finding) for finding in self.findings],
        }

    def save(self, run: str | Path) -> Path:
        """Write them into a run folder."""
        path = Path(run) / FINDINGS
        write_json(path, self.to_json())
        return path


def check(
    model: Any,
    data: Any,
    *,
    run: str | Path | Results | None = None,
    epsilon: float | None = None,
    samples: int = 64,
    seed: int = 0,
    bounds: tuple[float, float] | Bounds | None = None,
    mean: Any = None,
    std: Any = None,
    device: str | None = None,
) -> Findings:
    """Look for the symptoms of an evaluation that fools itself.

    No check changes an attack or the model. A model without findings need not be
    sound: these are symptoms that have a name.

    Args:
        model: As for `evaluate`.
        data: As for `evaluate`; the first `samples` are used.
        run: A run of that model, whose attacks are held against each other.
        epsilon: A customary perturbation of every feature, in input units; None: 8/255
            of the bounds' width.
        samples: To ask the model about, some 30 forward passes each.
        seed: Of the noise.
        bounds: As for `evaluate`; also `mean`, `std` and `device`.
        mean: See `bounds`.
        std: See `bounds`.
        device: See `bounds`.

    Raises:
        BadInput: Something given is not as described.
        NothingCorrect: The model classifies nothing correctly, and there is no run.

    >>> from robustkit.checks.check import check
    >>> check("digits", "digits", samples=16).invalid
    False
    """
    if samples < 1:
        raise BadInput(f"checks need at least 1 sample; got {samples}")
    asked = Bounds(*bounds) if isinstance(bounds, tuple | list) else bounds
    opened, dataset = model_and_data(
        model, data, asked, samples, device=device, mean=mean, std=std
    )
    size = 8 / 255 * opened.bounds.width if epsilon is None else epsilon
    if not size > 0:
        raise BadInput(f"epsilon must be positive; got {size}")
    examined = examine(opened, dataset.example)
    x, y = next(dataset.batches(samples))
    check_labels(y, examined.classes, 0)
    if run is None:
        return _ordered(check_model(probe(opened, x, y, size, seed)), len(x))
    found = check_run(run if isinstance(run, Results) else Results(run))
    with suppress(NothingCorrect):
        # Where it is so, the run says as much by itself.
        found += check_model(probe(opened, x, y, size, seed))
    return _ordered(found, len(x))


def check_results(results: Results, samples: int = 32) -> Findings:
    """Check a run and, if it may follow gradients, its model, loaded by name again.

    A model that is asked for scores or decisions only may cost money, and is not asked.

    Args:
        results: A run whose model and data have names (`robustkit eval`).
        samples: To ask the model about.

    """
    config, asked = results.run["config"], results.run["asked"]
    if config["access"] != "gradient":
        return _ordered(check_run(results), 0)
    return check(
        asked["model"],
        asked["data"],
        run=results,
        samples=samples,
        seed=config["seed"],
        bounds=tuple(config["bounds"]),
        mean=config["mean"],
        std=config["std"],
        device=config["device"],
    )


def _ordered(found: list[Finding], samples: int) -> Findings:
    order = np.argsort([-finding.severity for finding in found], kind="stable")
    return Findings(tuple(found[i] for i in order), samples)
