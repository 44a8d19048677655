"""A row of the table: what was claimed, what would have told, and what is left."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import robustkit as rk
from robustkit.active_tests.binarization import binarize
from robustkit.adaptive.plain import attacks_that_run
from robustkit.checks.check import check
from robustkit.checks.finding import Severity
from robustkit.numerics.random import seeded
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.defense import DRAWS, Defense

__all__ = ["HEADER", "Row", "active_verdict", "row", "whole"]

SAMPLES = 80
"""Of each defense; fewer than 72 cannot give a PASS."""

BUDGET = 300
"""Passes per sample of the plain evaluation, and for a remedy of cost 1."""


@dataclass(frozen=True)
class Row:
    """What is known of a defense in the end; accuracies are of the chosen samples.

    Attributes:
        defense: Which one.
        clean: Of all test inputs, the share classified correctly and accepted.
        claimed: Robust accuracy by the weak evaluation.
        findings: Ids of suspicious or invalidating findings about the model.
        verdict: Of the active test on the weak evaluation.
        plain: Robust accuracy by `auto`, without remedies; by Thompson where there are
            no gradients.
        adapted: Robust accuracy after answering the findings, with no human hand. Both
            are NaN of a defense that remembers.
        remedies: Those that found something.
        by_hand: Robust accuracy after the attack written by hand.
        seconds: What it all took.
    """

    defense: Defense
    clean: float
    claimed: float
    findings: tuple[str, ...]
    verdict: str
    plain: float
    adapted: float
    remedies: tuple[str, ...]
    by_hand: float
    seconds: float

    @property
    def flagged(self) -> bool:
        """Whether something says that the claim is not to be believed."""
        return bool(self.findings) or self.verdict != "PASS"

    @property
    def broken(self) -> bool:
        """Whether no human hand was needed: within 5 points of it, or lower."""
        return self.adapted <= self.by_hand + 0.05 + 1e-6

    def cells(self) -> list[str]:
        """As a line of the table."""
        d = self.defense
        size = f"{d.norm} {d.epsilon:g}"
        remedies = f" ({', '.join(self.remedies)})" if self.remedies else ""
        return [
            d.title,
            size,
            _percent(self.clean),
            f"{d.weak_title}: {_percent(self.claimed)}",
            ", ".join(self.findings) or "-",
            self.verdict,
            _percent(self.plain),
            f"{_percent(self.adapted)}{remedies}",
            f"{d.adaptive_title}: {_percent(self.by_hand)}",
        ]


HEADER = (
    "Defense",
    "Size",
    "Clean",
    "Claimed, by the weak evaluation",
    "Findings",
    "Active test of it",
    "auto",
    "--adaptive",
    "By hand",
)
"""Of the table, in the order of `Row.cells`."""


def whole(d: Defense) -> rk.Model:
    """The model of a defense as robustkit sees it: its detector is a refusal."""
    model = rk.TorchModel(d.model, d.bounds, name=d.name)
    return model if d.detector is None else rk.Abstaining(model, d.detector)


def active_verdict(d: Defense, x: Tensor) -> str:
    """What the active test says of the weak evaluation.

    The problems are made of the defended model. Where the evaluation looks at another
    one, so does the attack here, and what it finds is tried on the defended one.
    """
    settings: dict[str, Any] = {"points": 200, "tries": 40, "samples": SAMPLES}
    if d.votes > 1:
        settings |= {"votes": d.votes, "mode": "hard", "points": 60, "tries": 12}
    model = rk.TorchModel(d.model, d.bounds)
    built = binarize(
        model,
        x,
        epsilon=d.epsilon,
        norm=d.norm,
        detector=d.detector,
        **{**settings, **d.test},
    )
    if d.seen is None:
        return str(built.test(d.weak).verdict.value)
    asked = replace(built, model=_beside(built.model, d.seen, d))
    found: list[Any] = []

    def keep(model: Any, x: Tensor, y: Tensor) -> Tensor:
        found.append(d.weak(model, x, y))
        values: Tensor = found[-1]
        return values

    asked.test(keep)
    return str(built.test(lambda model, x, y: found[-1]).verdict.value)


def _beside(model: rk.Model, seen: nn.Module, d: Defense) -> rk.Model:
    """What the weak evaluation differentiates, in place of the model."""
    assert d.detector is None, "no such defense has a detector"
    return rk.TorchModel(seen, d.bounds)


def row(d: Defense, say: Callable[[str], None], seed: int = 0) -> Row:
    """Evaluate a defense in every way.

    Args:
        d: To be evaluated.
        say: Called with what comes next, in words.
        seed: Of all randomness.
    """
    start = time.perf_counter()
    with seeded(seed):
        clean = float(d.right(*d.data()).float().mean())
        x, y = d.samples(SAMPLES)
        say(f"{d.name}: weak evaluation")
        claimed = _left(d.claim(x, y))
        say(f"{d.name}: by hand")
        by_hand = _left(d.truth(x, y))
        say(f"{d.name}: active test")
        verdict = active_verdict(d, x)
        model, data = whole(d), (x.numpy(), y.numpy())
        say(f"{d.name}: checks")
        d.forget()
        findings = check(model, data, epsilon=d.epsilon).findings
        ids = dict.fromkeys(f.id for f in findings if f.severity > Severity.NOTE)
        plain, adapted, remedies = _evaluated(d, model, data, say, seed)
    return Row(
        defense=d,
        clean=clean,
        claimed=claimed,
        findings=tuple(ids),
        verdict=verdict,
        plain=plain,
        adapted=adapted,
        remedies=remedies,
        by_hand=by_hand,
        seconds=time.perf_counter() - start,
    )


def _evaluated(
    d: Defense, model: rk.Model, data: Any, say: Callable[[str], None], seed: int
) -> tuple[float, float, tuple[str, ...]]:
    """Robust accuracy before and after remedies, and those that found something."""
    if d.remembers:
        # Every evaluation asks about the originals more than once.
        return math.nan, math.nan, ()
    say(f"{d.name}: auto")
    attacks = attacks_that_run(model, data, ["auto"], [d.norm])
    results = rk.evaluate(
        model, data, norm=d.norm, attacks=attacks, epsilons=[d.epsilon],
        budget=BUDGET, seed=seed,
    )  # fmt: skip
    say(f"{d.name}: --adaptive")
    steps = rk.adapt(
        results, model, data, epsilon=d.epsilon, draws=DRAWS,
        progress=lambda words: say(f"  {words}"),
    ).of()  # fmt: skip
    left = [step.robust_accuracy(d.epsilon).estimate for step in steps]
    helped = [
        step.remedy
        for step, (before, after) in zip(
            steps[1:], itertools.pairwise(left), strict=True
        )
        if after < before
    ]
    return left[0], left[-1], tuple(dict.fromkeys(helped))


def _left(broken: Tensor) -> float:
    return 1 - float(broken.float().mean())


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"
