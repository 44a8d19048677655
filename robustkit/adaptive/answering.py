"""One norm's findings answered: remedy after remedy, each built on what came before."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robustkit.adaptive.adaptation import PLAIN, LeftOut, Step
from robustkit.adaptive.attempt import Best, attempt, confirmed, wrong_from_start
from robustkit.adaptive.remedy import Case, Remedy
from robustkit.adaptive.symptoms import (
    REFUSES,
    found_without_gradients,
    mended,
    with_findings,
    without,
)
from robustkit.checks.finding import Finding
from robustkit.errors import in_one_line
from robustkit.evaluation.goals import MakeCriterion
from robustkit.evaluation.results import Results
from robustkit.evaluation.verify import held
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array

__all__ = ["Answering"]

# Samples that remedies measure on.
_MEASURED = 32


@dataclass
class Answering:
    """The findings of one norm, being answered.

    Attributes:
        results: Of the plain evaluation.
        model: That is evaluated.
        x: (n, ...) its samples.
        label: (n,) their classes.
        norm: In which distances are measured.
        sizes: At which robust accuracy is stated, in norm units.
        make: What is adversarial.
        draws: How often to ask about each adversarial; 1: answers are not random.
        seed: Of all randomness.
        batch_size: How many samples to work on at once.
        limit: Forward passes that all remedies together may take, over all samples.
        say: Called with what is being done.
        steps: What was done so far, and what it changed.
        found: Findings that showed on the way.
        left_out: Remedies for which that was not enough.
        needed: Forward passes with which it had been, over all samples.
    """

    results: Results
    model: Model
    x: Array
    label: Array
    norm: Norm
    sizes: tuple[float, ...]
    make: MakeCriterion
    draws: int
    seed: int
    batch_size: int
    limit: int
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    needed: int = 0

    @property
    def spent(self) -> int:
        """Forward passes that remedies have taken, over all samples."""
        return sum(step.forwards for step in self.steps if step.remedy != PLAIN)

    def run(self, case: Case, remedies: Sequence[Remedy]) -> Best:
        """Apply all remedies that findings call for, in their order.

        Args:
            case: What is known at first; its samples to measure on are chosen here.
            remedies: To choose from.

        Returns:
            The nearest verified adversarials.
        """
        best = self._plain()
        correct = self._correct()
        case = replace(
            case,
            x=self.x[correct],
            label=self.label[correct],
            # A run leaves out all samples that are of the target class.
            honest=np.concatenate([self.x[correct], case.honest[:_MEASURED]]),
        )
        if len(correct) == 0:
            return best
        case = without(case, best, self.label)
        if self.model.abstains:
            case = with_findings(case, [REFUSES])
            self.found.append(REFUSES)
        left = list(remedies)
        while True:
            remedy = next((r for r in left if r.answers & case.findings.keys()), None)
            if remedy is None or not self._open(best).any():
                return best
            left.remove(remedy)
            best, case = self._apply(remedy, case, best)

    def _apply(self, remedy: Remedy, case: Case, best: Best) -> tuple[Best, Case]:
        start = time.perf_counter()
        rows = np.flatnonzero(self._open(best))
        funded = replace(
            case, pool=self.x[rows], budget=round(case.budget * remedy.cost)
        )
        answered = tuple(id for id in case.findings if id in remedy.answers)
        most = funded.budget * len(rows)
        earlier = sum(one.most for one in self.left_out)
        self.needed = max(self.needed, self.spent + earlier + most)
        if self.spent + most > self.limit:
            self.say(f"{remedy.name}: left out, the limit has no room for it")
            name = repr(self.norm)
            self.left_out.append(LeftOut(name, remedy.name, answered, most))
            return best, case
        self.say(f"{remedy.name}: measuring")
        try:
            plan = remedy.build(funded)
        except Exception as error:
            # A remedy that fails is no reason to leave out the others.
            why = in_one_line(error)
            failures = (("plan", why),)
            step = self._step(remedy, answered, best, start, failures=failures)
            self.steps.append(step)
            return best, case
        if plan is None:
            self.say(f"{remedy.name}: does not apply, or would not help")
            return best, case
        outcome = attempt(
            replace(plan, criterion=plan.criterion or case.criterion),
            self.model,
            self.make,
            self.x[rows],
            self.label[rows],
            self.norm,
            name=remedy.name,
            budget=(most - plan.lessons) // len(rows),
            draws=self.draws,
            seed=self.seed,
            batch_size=self.batch_size,
            say=self.say,
        )
        before = best
        best, places = best.nearer(rows, outcome.best)
        new: list[Finding] = []
        if plan.keep:
            case, new = mended(plan.model, case)
            case = replace(case, criterion=plan.criterion or case.criterion)
        elif remedy.name == "no gradients":
            new = found_without_gradients(before, best, self.sizes, repr(self.norm))
        case = without(case, best, self.label)
        new = [finding for finding in new if finding.id not in case.findings]
        case = with_findings(case, new)
        self.found += new
        self.steps.append(
            self._step(
                remedy,
                answered,
                best,
                start,
                details=plan.details,
                attacks={name: repr(a) for name, a in plan.attacks.items()},
                attacked=len(rows),
                forwards=plan.lessons + outcome.forwards,
                backwards=outcome.backwards,
                nearer=len(places),
                kept=plan.keep,
                failures=tuple(outcome.failures.items()),
                appeared=tuple(finding.id for finding in new),
            )
        )
        return best, case

    def _plain(self) -> Best:
        """What the evaluation found; where answers are random, what of it holds."""
        name, start = repr(self.norm), time.perf_counter()
        distance = self.results.distances(name)
        points = np.array(self.x)
        known = self.results.adversarials(name)
        rows = np.searchsorted(self.results.index, known["index"])
        if len(rows):
            points[rows] = known["x_adversarial"]
        by = np.full(len(points), "", dtype=object)
        by[rows] = [f"plain: {attack}" for attack in known["attack"]]
        settled = np.isfinite(distance)
        best = Best(points, distance, settled.astype(np.int64), self.draws, by)
        self.steps.append(
            Step(
                norm=name,
                findings=(),
                remedy=PLAIN,
                what="the evaluation as it was",
                details="",
                attacks=dict(self.results.run["config"]["attacks"][name]),
                attacked=len(points),
                forwards=self._sum("forward_passes"),
                backwards=self._sum("backward_passes"),
                seconds=0.0,
                nearer=len(rows),
                distance=distance,
                expected=np.where(settled | np.isnan(distance), 1.0, 0.0),
            )
        )
        if self.draws == 1:
            return best
        self.say("repeated confirmation")
        claimed = np.flatnonzero(settled)
        again = confirmed(
            self.model,
            self.make,
            self.x[claimed],
            self.label[claimed],
            points[claimed],
            self.norm,
            draws=self.draws,
            by="",
        )
        # An adversarial that one more draw did not confirm is neither an error nor one.
        undone = np.isnan(distance) & self.results.undone(name)
        sure = np.where(undone, np.inf, distance)
        sure[claimed] = again.distance
        successes = np.zeros(len(points), dtype=np.int64)
        successes[claimed] = again.successes
        points[claimed] = again.x
        # A refused original is an error, though a refusal is no success.
        lost = np.flatnonzero((distance == 0) & np.isinf(sure))
        wrong = wrong_from_start(
            self.model, self.make, self.x[lost], self.label[lost], self.draws
        )
        errors = held(wrong, self.draws)
        sure[lost[errors]], successes[lost[errors]] = 0.0, wrong[errors]
        best = Best(points, sure, successes, self.draws, by)
        self.steps.append(
            Step(
                norm=name,
                findings=("R1",),
                remedy="repeated confirmation",
                what="one lucky draw is no adversarial, one unlucky draw no error",
                details=f"each asked about in {self.draws} fresh draws, twice",
                attacks={},
                attacked=0,
                forwards=0,
                backwards=0,
                seconds=time.perf_counter() - start,
                nearer=0,
                distance=sure,
                expected=_expected(best),
            )
        )
        return best

    def _step(
        self,
        remedy: Remedy,
        answered: tuple[str, ...],
        best: Best,
        start: float,
        *,
        details: str = "it could not be built",
        attacks: dict[str, str] | None = None,
        **counts: Any,
    ) -> Step:
        numbers = {"attacked": 0, "forwards": 0, "backwards": 0, "nearer": 0} | counts
        return Step(
            norm=repr(self.norm),
            findings=answered,
            remedy=remedy.name,
            what=remedy.what,
            details=details,
            attacks=attacks or {},
            seconds=time.perf_counter() - start,
            distance=best.distance,
            expected=_expected(best),
            **numbers,
        )

    def _open(self, best: Best) -> Array:
        """(n,) who is still robust at the smallest size."""
        return np.asarray(best.distance > min(self.sizes))

    def _correct(self) -> Array:
        """A few samples that the model classifies correctly."""
        right = np.flatnonzero(self.results.prediction == self.results.label)
        return right[:_MEASURED]

    def _sum(self, column: str) -> int:
        summary = self.results.summary()["norms"][repr(self.norm)]["attacks"]
        return int(sum(attack[column] for attack in summary.values()))


def _expected(best: Best) -> Array:
    """(n,) how often each sample's adversarial is one."""
    return np.where(np.isnan(best.distance), 1.0, best.successes / best.draws)
