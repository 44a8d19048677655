"""What an active test says, and by which rule."""

import enum
import json
import math
from dataclasses import dataclass
from typing import Any

from robustkit import __version__
from robustkit.evaluation.curve import CONFIDENCE, Interval, proportion
from robustkit.numerics.tensors import Array

__all__ = [
    "EASY",
    "LEAST_COVERAGE",
    "REQUIRED",
    "ActiveTestResult",
    "Verdict",
    "decide",
]

REQUIRED = 0.95
"""The success rate that an attack has to show."""

EASY = 0.5
"""Where random search succeeds more often than this, a success says nothing."""

LEAST_COVERAGE = 0.9
"""The share of samples that must have a witness."""


class Verdict(enum.StrEnum):
    """Whether an attack found what is known to be there."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    UNINFORMATIVE = "UNINFORMATIVE"
    INVALID = "INVALID"


def decide(
    successes: int, random_successes: int, covered: int, samples: int
) -> tuple[Verdict, str]:
    """The verdict, and the rule that gave it.

    Args:
        successes: Of the attack, among the samples covered.
        random_successes: Of random search, among them.
        covered: Samples with a witness.
        samples: All.

    >>> decide(128, 20, 128, 128)[0].value, decide(60, 20, 128, 128)[0].value
    ('PASS', 'FAIL')
    >>> decide(30, 2, 30, 30)[0].value
    'INCONCLUSIVE'
    """
    rate, luck = proportion(successes, covered), proportion(random_successes, covered)
    if covered < LEAST_COVERAGE * samples or not covered:
        return Verdict.INVALID, (
            f"only {covered} of {samples} samples have a witness, fewer than "
            f"{LEAST_COVERAGE:.0%}: the test could not be built for the others"
        )
    if rate.upper < REQUIRED:
        return Verdict.FAIL, (
            f"the upper end of the success rate's interval, {rate.upper:.3f}, is below "
            f"{REQUIRED}: the attack misses adversarials that are there"
        )
    if luck.estimate > EASY:
        return Verdict.UNINFORMATIVE, (
            f"random search succeeds for {luck.estimate:.3f} of the samples, more than "
            f"{EASY}: finding these adversarials shows nothing"
        )
    if rate.lower >= REQUIRED:
        return Verdict.PASS, (
            f"the lower end of the success rate's interval, {rate.lower:.3f}, is at "
            f"least {REQUIRED}"
        )
    few = ""
    if proportion(covered, covered).lower < REQUIRED:
        few = f"; with {covered} samples no attack could pass, take {_enough()} or more"
    return Verdict.INCONCLUSIVE, (
        f"the success rate's interval, {rate.lower:.3f} to {rate.upper:.3f}, holds "
        f"{REQUIRED}{few}"
    )


@dataclass(frozen=True)
class ActiveTestResult:
    """What the binarization test of one attack on one model found.

    Attributes:
        verdict: See `Verdict`.
        rule: Which gave the verdict, with its numbers.
        success_rate: Of the attack among the samples covered (ASR), with its
            Clopper-Pearson interval.
        random_rate: Of random search on the same problems (R-ASR), likewise.
        coverage: The share of samples that have a witness.
        samples: How many there were.
        success: (samples,) booleans, verified; False where not covered.
        random: (samples,) booleans: where random search succeeded.
        covered: (samples,) booleans: who has a witness.
        distance: (samples,) of what the attack returned, in norm units; infinite where
            it found nothing.
        witness: (samples, ...) the adversarial known to exist; the original where
            there is none.
        reasons: (samples,) why there is no witness or no success; empty: there is.
        settings: Everything that the test was run with.
        cost: Of the attack per sample: `forward` and `backward` passes (None where they
            were not counted), and `seconds`.
    """

    verdict: Verdict
    rule: str
    success_rate: Interval
    random_rate: Interval
    coverage: float
    samples: int
    success: Array
    random: Array
    covered: Array
    distance: Array
    witness: Array
    reasons: tuple[str, ...]
    settings: dict[str, Any]
    cost: dict[str, float | None]

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict is Verdict.PASS

    def summary(self) -> dict[str, Any]:
        """All but the single samples, as plain values."""
        return {
            "verdict": self.verdict.value,
            "rule": self.rule,
            "success_rate": self.success_rate._asdict(),
            "random_rate": self.random_rate._asdict(),
            "confidence": CONFIDENCE,
            "coverage": self.coverage,
            "samples": self.samples,
            "settings": self.settings,
            "cost": self.cost,
        }

    def to_json(self) -> str:
        """Strict JSON: the summary, and a row per sample; infinite values are null."""
        rows = [
            {
                "covered": bool(self.covered[i]),
                "success": bool(self.success[i]),
                "random": bool(self.random[i]),
                "distance": float(self.distance[i])
                if math.isfinite(self.distance[i])
                else None,
                "reason": self.reasons[i],
            }
            for i in range(self.samples)
        ]
        content = {**self.summary(), "rows": rows}
        return json.dumps(_finite(content), indent=2, allow_nan=False)

    def paragraph(self) -> str:
        """The test and its outcome in words, for an appendix."""
        s = self.settings
        rate, luck = self.success_rate, self.random_rate
        detector = ""
        if s["detector"]:
            ways = "detected (the inverted test)" if s["inverted"] else "undetected"
            detector = f" Success further required the point to be {ways}."
        votes = ""
        if s["votes"] > 1:
            votes = (
                f" As for a random model, features were averaged over {s['votes']} "
                "passes, and the majority of as many fresh passes decided on success."
            )
        found = (
            ""
            if math.isnan(rate.estimate)
            else (
                f"The attack found an adversarial for {_share(rate)}, random search "
                f"({2 * s['tries']} points each) for {_share(luck)} ({CONFIDENCE:.0%} "
                "Clopper\u2013Pearson intervals). "
            )
        )
        return (
            f"We ran the binarization test (Zimmermann, Brendel, Tram\u00e8r, Carlini "
            f"2022) as implemented in robustkit {__version__} on the attack "
            f"{s['attack']} against the model {s['model']}, with the {s['norm']} norm "
            f"and \u03b5 = {s['epsilon']:.6g}. For each of {self.samples} inputs a "
            f"{s['mode']} readout of the model's features ({s['features']}) was made "
            f"that separates {s['points']} points within "
            f"{1 - s['gap']:.2f} \u03b5 from a witness within \u03b5, so that an "
            f"adversarial is known to exist; {100 * self.coverage:.1f} % of the inputs "
            f"have one.{detector}{votes} {found}"
            f"Verdict: {self.verdict.value}, since {self.rule}. A pass shows that the "
            "attack can find adversarials through these features of this model; it "
            "does not show that it finds the original model's."
        )


def _share(value: Interval) -> str:
    return (
        f"{100 * value.estimate:.1f} % of them "
        f"({100 * value.lower:.1f} to {100 * value.upper:.1f} %)"
    )


def _enough() -> int:
    """The fewest samples with which all successes are a pass."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(REQUIRED))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
