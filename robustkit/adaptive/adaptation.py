"""What answering the findings of an evaluation changed: steps, numbers, files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.adaptive.attempt import Best
from robustkit.checks.finding import Finding, as_json
from robustkit.engine.attack import edge
from robustkit.errors import BadInput
from robustkit.evaluation.curve import Curve, Interval
from robustkit.evaluation.shards import write_atomically
from robustkit.evaluation.store import write_json
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array

__all__ = ["ADAPTIVE", "PLAIN", "Adaptation", "LeftOut", "Step"]

ADAPTIVE = "adaptive.json"
"""The file of a run folder that holds what its remedies changed."""

PLAIN = "plain"
"""The name of the first step, the evaluation as it was."""

_ARRAYS = "adaptive.npz"
_SCHEMA = 1


@dataclass(frozen=True)
class Step:
    """One remedy, and what it changed.

    Attributes:
        norm: In which distances are measured.
        findings: Ids of those it answers; empty for the plain evaluation.
        remedy: Its name.
        what: What it does.
        details: What was chosen, and why.
        attacks: With all their settings, by name.
        attacked: How many samples.
        forwards: Forward passes of the model, over all samples.
        backwards: Backward passes.
        seconds: What it took.
        nearer: For how many samples it found a nearer adversarial, verified.
        distance: (n,) the distances known afterwards.
        expected: (n,) how often each sample's adversarial is one, of fresh draws.
        kept: Whether later remedies build on its model.
        failures: What went wrong, by attack.
        appeared: Ids of findings that showed only then.
    """

    norm: str
    findings: tuple[str, ...]
    remedy: str
    what: str
    details: str
    attacks: dict[str, str]
    attacked: int
    forwards: int
    backwards: int
    seconds: float
    nearer: int
    distance: Array
    expected: Array
    kept: bool = False
    failures: tuple[tuple[str, str], ...] = ()
    appeared: tuple[str, ...] = ()

    def robust_accuracy(self, epsilon: float) -> Interval:
        """Afterwards, as `Results.robust_accuracy`."""
        return Curve(self.distance).robust_accuracy(epsilon)

    def expected_accuracy(self, epsilon: float) -> float:
        """The share of correct answers expected under attack, of a random model.

        A point that fools it in 70 of 100 draws leaves 0.3 of its sample.
        """
        outside = self.distance > edge(epsilon)
        return float(1 - np.where(outside, 0.0, self.expected).mean())


@dataclass(frozen=True)
class LeftOut:
    """A remedy that findings called for, and that the limit had no room for.

    Attributes:
        norm: In which distances are measured.
        remedy: Its name.
        findings: Ids of those it answers.
        most: Forward passes that it might have taken, over all samples.
    """

    norm: str
    remedy: str
    findings: tuple[str, ...]
    most: int


@dataclass(frozen=True)
class Adaptation:
    """What answering the findings of an evaluation changed, step by step.

    Attributes:
        steps: For each norm the plain evaluation, then remedy after remedy.
        epsilons: By norm, sizes to state robust accuracy at, in norm units.
        epsilon: By norm, the size of most interest.
        findings: All there were, the worst first.
        best: By norm, the nearest verified adversarials at the end.
        index: (n,) positions of the samples in the data.
        label: (n,) their classes.
        draws: How often each adversarial was asked about; 1 where answers are not
            random.
        budget: Passes per sample for a remedy of cost 1.
        total: Passes per sample that all remedies of a norm together might take, on
            average over the samples.
        left_out: Remedies for which that was not enough.
        needed: By norm, passes over all samples with which it had been.
    """

    steps: tuple[Step, ...]
    epsilons: dict[str, tuple[float, ...]]
    epsilon: dict[str, float]
    findings: tuple[Finding, ...]
    best: dict[str, Best]
    index: Array
    label: Array
    draws: int
    budget: int
    total: int
    left_out: tuple[LeftOut, ...] = ()
    needed: Mapping[str, int] = field(default_factory=dict)

    def of(self, norm: str | Norm | None = None) -> tuple[Step, ...]:
        """The steps of one norm."""
        norm = self._norm(norm)
        return tuple(step for step in self.steps if step.norm == norm)

    def spent(self, norm: str | Norm | None = None) -> tuple[int, int]:
        """Forward passes of the plain evaluation and of all remedies, as counted.

        Over all samples, without those for measuring and confirming.
        """
        plain, *remedies = self.of(norm)
        return plain.forwards, sum(step.forwards for step in remedies)

    def enough(self, norm: str | Norm | None = None) -> int | None:
        """The total with which no remedy had been left out; None: none was.

        Unless what these change calls for further ones.
        """
        name = self._norm(norm)
        if not any(one.norm == name for one in self.left_out):
            return None
        return math.ceil(self.needed[name] / len(self.index))

    def robust_accuracy(
        self, epsilon: float, norm: str | Norm | None = None
    ) -> Interval:
        """After all remedies, as `Results.robust_accuracy`."""
        return self.of(norm)[-1].robust_accuracy(epsilon)

    def distances(self, norm: str | Norm | None = None) -> Array:
        """(n,) the smallest perturbations after all remedies, in norm units."""
        return self.of(norm)[-1].distance

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": _SCHEMA,
            "samples": len(self.index),
            "draws": self.draws,
            "budget": self.budget,
            "total": self.total,
            "findings": [as_json(finding) for finding in self.findings],
            "norms": {norm: self._norm_json(norm) for norm in self.epsilons},
        }

    def save(self, run: str | Path) -> Path:
        """Write adaptive.json and adaptive.npz into a run folder."""
        folder = Path(run)
        found = {n: np.flatnonzero(_found(b.distance)) for n, b in self.best.items()}
        names = np.repeat(list(found), [len(rows) for rows in found.values()])
        parts: dict[str, list[Array]] = {
            name: [] for name in ("index", "label", "distance", "successes", "by", "x")
        }
        for norm, rows in found.items():
            best = self.best[norm]
            parts["index"].append(self.index[rows])
            parts["label"].append(self.label[rows])
            parts["by"].append(best.by[rows].astype(str))
            for name in ("distance", "successes", "x"):
                parts[name].append(getattr(best, name)[rows])
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
        arrays["x_adversarial"] = arrays.pop("x")
        arrays["norm"] = names.astype(str)
        with write_atomically(folder / _ARRAYS) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        path = folder / ADAPTIVE
        write_json(path, self.to_json())
        return path

    def _norm_json(self, norm: str) -> dict[str, Any]:
        plain, remedies = self.spent(norm)
        return {
            "epsilon": self.epsilon[norm],
            "plain_passes": plain,
            "remedy_passes": remedies,
            "left_out": [
                {"remedy": one.remedy, "findings": list(one.findings), "most": one.most}
                for one in self.left_out
                if one.norm == norm
            ],
            "enough": self.enough(norm),
            "steps": [self._step_json(step) for step in self.of(norm)],
        }

    def _step_json(self, step: Step) -> dict[str, Any]:
        return {
            "findings": list(step.findings),
            "remedy": step.remedy,
            "what": step.what,
            "details": step.details,
            "attacks": step.attacks,
            "attacked": step.attacked,
            "forward_passes": step.forwards,
            "backward_passes": step.backwards,
            "seconds": step.seconds,
            "nearer": step.nearer,
            "kept": step.kept,
            "failures": dict(step.failures),
            "appeared": list(step.appeared),
            "robust_accuracy": [
                {
                    "epsilon": epsilon,
                    **step.robust_accuracy(epsilon)._asdict(),
                    "expected": step.expected_accuracy(epsilon),
                }
                for epsilon in self.epsilons[step.norm]
            ],
            "median": Curve(step.distance).quantile(0.5),
        }

    def _norm(self, norm: str | Norm | None) -> str:
        if norm is None:
            if len(self.epsilons) != 1:
                raise BadInput(
                    f"there are the norms {', '.join(self.epsilons)}; say which one"
                )
            return next(iter(self.epsilons))
        name = repr(norm) if isinstance(norm, Norm) else norm
        if name not in self.epsilons:
            raise BadInput(f"there is no norm '{name}'; known: {list(self.epsilons)}")
        return name


def _found(distance: Array) -> Array:
    return np.asarray(np.isfinite(distance) & (distance > 0))
