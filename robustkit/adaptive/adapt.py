"""The plain evaluation, its findings, and what answering them changes."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.adaptive.attempt import Best, attempt, confirmed
from robustkit.adaptive.catalogue import REMEDIES
from robustkit.adaptive.remedy import Case, Remedy
from robustkit.checks.check import check
from robustkit.checks.finding import Finding, Severity, as_json
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import NothingCorrect, probe
from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput
from robustkit.evaluation.curve import ROUNDING, Curve, Interval
from robustkit.evaluation.goals import MakeCriterion, make_criterion
from robustkit.evaluation.opening import model_and_data
from robustkit.evaluation.preflight import examine
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import write_json
from robustkit.models.base import Model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.random import sample_keys
from robustkit.numerics.tensors import Array, Tensor, to_numpy

__all__ = ["ADAPTIVE", "Adaptation", "Step", "adapt"]

ADAPTIVE = "adaptive.json"
"""The file of a run folder that holds what its remedies changed."""

_ARRAYS = "adaptive.npz"
_SCHEMA = 1
# Passes per sample for a remedy of cost 1.
_BUDGET = 1000
# Samples that remedies measure on, and that findings are looked for at.
_MEASURED, _CHECKED = 32, 64
# Draws that say which class is least likely.
_SETTLING = 20
# Ids that speak of the gradients of the model as it is differentiated now.
_OF_GRADIENTS = frozenset({"G1", "G2", "G3", "R2"})
# Of accuracy: as much better than gradients makes another attack a finding.
_GAP = 0.002


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
        outside = self.distance > epsilon * (1 + ROUNDING)
        return float(1 - np.where(outside, 0.0, self.expected).mean())


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

    def of(self, norm: str | None = None) -> tuple[Step, ...]:
        """The steps of one norm."""
        norm = self._norm(norm)
        return tuple(step for step in self.steps if step.norm == norm)

    def robust_accuracy(self, epsilon: float, norm: str | None = None) -> Interval:
        """After all remedies, as `Results.robust_accuracy`."""
        return self.of(norm)[-1].robust_accuracy(epsilon)

    def distances(self, norm: str | None = None) -> Array:
        """(n,) the smallest perturbations after all remedies, in norm units."""
        return self.of(norm)[-1].distance

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": _SCHEMA,
            "samples": len(self.index),
            "draws": self.draws,
            "budget": self.budget,
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
        with open(folder / _ARRAYS, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        path = folder / ADAPTIVE
        write_json(path, self.to_json())
        return path

    def _norm_json(self, norm: str) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon[norm],
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

    def _norm(self, norm: str | None) -> str:
        if norm is None:
            if len(self.epsilons) != 1:
                raise BadInput(
                    f"there are the norms {', '.join(self.epsilons)}; say which one"
                )
            return next(iter(self.epsilons))
        if norm not in self.epsilons:
            raise BadInput(f"there is no norm '{norm}'; known: {list(self.epsilons)}")
        return norm


def adapt(
    results: Results,
    model: Any,
    data: Any,
    *,
    budget: int | None = None,
    epsilon: float | None = None,
    criterion: Callable[[Tensor], Criterion] | None = None,
    remedies: Sequence[Remedy] = REMEDIES,
    draws: int = 100,
    progress: Callable[[str], None] | None = None,
) -> Adaptation:
    """Answer the findings about an evaluation, and see what is left of its number.

    The checks look at the model and the run; each remedy that answers a finding is
    built by measuring, in the order of the catalogue: first what mends gradients, on
    which the later ones build, then other losses and targets, then what needs no
    gradients. After each that mends something, the mended model is looked at again.
    Samples that are not robust at the smallest size are not attacked any more. Every
    adversarial counts only as verified on the model itself: with its own forward pass,
    or, where answers are random, `draws` of them (`confirm_repeatedly`), which the
    plain evaluation's have to stand too.

    Args:
        results: Of the plain evaluation.
        model: As it was given to that.
        data: Likewise.
        budget: Model passes per sample for a remedy of cost 1; None: that of the
            evaluation, else 1,000. The costs are those of `REMEDIES`.
        epsilon: The size of most interest, in norm units; None: the largest of the
            evaluation's at which half of the accuracy is left, else the smallest.
        criterion: As it was given to the evaluation.
        remedies: To choose from, in their order.
        draws: How often an adversarial of a random model is asked about.
        progress: Called with what is being done, in words.

    Returns:
        The steps. `save` writes them into a run folder.

    Raises:
        BadInput: Something given is not as described, or the evaluation was limited to
            less than the model shows.

    >>> import robustkit as rk
    >>> def coarse(x):
    ...     return rk.load_model("digits").module((4 * x).round() / 4)
    >>> results = rk.evaluate(
    ...     coarse, "digits", samples=16, attacks=["fmn"], epsilons=[0.2]
    ... )
    >>> adapted = rk.adapt(results, coarse, "digits", budget=60)
    >>> [step.remedy for step in adapted.steps][:2]
    ['plain', 'straight-through']
    >>> before, after = results.robust_accuracy(0.2), adapted.robust_accuracy(0.2)
    >>> before.estimate > 0.5, after.estimate < 0.2
    (True, True)
    """
    config = results.run["config"]
    _check(results, criterion, budget, draws)
    adapted, dataset = model_and_data(
        model,
        data,
        Bounds(*config["bounds"]),
        config["samples"],
        device=config["device"],
        mean=config["mean"],
        std=config["std"],
        cache=config.get("cache"),
        headers=config.get("headers"),
    )
    x, label = _samples(dataset.batches(config["batch_size"]), results)
    examined = examine(adapted, x[:2])
    make = make_criterion(
        adapted, config["target"], criterion, examined.classes, config["seed"]
    )
    say = progress or _silent
    steps: list[Step] = []
    found: list[Finding] = []
    best: dict[str, Best] = {}
    sizes = {norm: tuple(config["epsilons"][norm]) for norm in results.norms}
    chosen: dict[str, float] = {}
    say("looking for symptoms")
    plain = list(
        check(
            adapted,
            (x, label),
            run=results,
            samples=_CHECKED,
            trials=0,
            seed=config["seed"],
        ).findings
    )
    random = examined.random or any(
        finding.id == "R1" and "spread" in finding.evidence for finding in plain
    )
    if random and config["target"] == "least-likely":
        make = _settled(make, adapted, x, config["batch_size"])
    for name in results.norms:
        norm = get_norm(name)
        chosen[name] = _size_of_interest(results, name, epsilon)
        one = _Adapting(
            results=results,
            model=adapted,
            x=x,
            label=label,
            norm=norm,
            sizes=sizes[name],
            make=make,
            draws=draws if random else 1,
            seed=config["seed"],
            batch_size=config["batch_size"],
            say=say,
        )
        case = Case(
            model=adapted,
            current=adapted,
            x=x[:0],
            label=label[:0],
            pool=x,
            norm=norm,
            epsilon=chosen[name],
            step=_customary(norm, chosen[name], x, adapted.bounds),
            budget=budget or config["budget"] or _BUDGET,
            classes=examined.classes,
            random=random,
            seed=config["seed"],
            criterion=make,
            findings={finding.id: finding for finding in plain},
        )
        best[name] = one.run(case, remedies, steps, found)
    return Adaptation(
        steps=tuple(steps),
        epsilons=sizes,
        epsilon=chosen,
        findings=_worst_first(plain, found),
        best=best,
        index=results.index,
        label=label,
        draws=draws if random else 1,
        budget=budget or config["budget"] or _BUDGET,
    )


@dataclass(frozen=True)
class _Adapting:
    """The samples of one norm, and how they are attacked."""

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
    say: Callable[[str], None]

    def run(
        self,
        case: Case,
        remedies: Sequence[Remedy],
        steps: list[Step],
        found: list[Finding],
    ) -> Best:
        """All remedies that findings call for; adds to `steps` and `found`."""
        best = self._plain(steps)
        correct = self._correct()
        case = replace(case, x=self.x[correct], label=self.label[correct])
        if len(correct) == 0:
            return best
        case = self._without_settled(case, best)
        if self.model.abstains:
            case = _with(case, [_REFUSES])
            found.append(_REFUSES)
        left = list(remedies)
        while True:
            remedy = next((r for r in left if r.answers & case.findings.keys()), None)
            if remedy is None or not self._open(best).any():
                return best
            left.remove(remedy)
            best, case = self._apply(remedy, case, best, steps, found)

    def _apply(
        self,
        remedy: Remedy,
        case: Case,
        best: Best,
        steps: list[Step],
        found: list[Finding],
    ) -> tuple[Best, Case]:
        start = time.perf_counter()
        self.say(f"{remedy.name}: measuring")
        funded = replace(case, budget=round(case.budget * remedy.cost))
        answered = tuple(id for id in case.findings if id in remedy.answers)
        try:
            plan = remedy.build(funded)
        except Exception as error:
            # A remedy that fails is no reason to leave out the others.
            why = " ".join(f"{type(error).__name__}: {error}".split())
            failures = (("plan", why),)
            steps.append(self._step(remedy, answered, best, start, failures=failures))
            return best, case
        if plan is None:
            return best, case
        rows = np.flatnonzero(self._open(best))
        outcome = attempt(
            replace(plan, criterion=plan.criterion or case.criterion),
            self.model,
            self.make,
            self.x[rows],
            self.label[rows],
            self.norm,
            name=remedy.name,
            draws=self.draws,
            seed=self.seed,
            batch_size=self.batch_size,
            say=self.say,
        )
        before = best
        best, places = best.nearer(rows, outcome.best)
        new: list[Finding] = []
        if plan.keep:
            new = [*self._of_mended(plan.model, case), _MENDED]
            kept = {
                id: finding
                for id, finding in case.findings.items()
                if id not in _OF_GRADIENTS
            }
            criterion = plan.criterion or case.criterion
            case = replace(case, current=plan.model, criterion=criterion, findings=kept)
        elif remedy.name == "no gradients":
            new = self._without_gradients(before, best, case)
        case = self._without_settled(case, best)
        new = [finding for finding in new if finding.id not in case.findings]
        case = _with(case, new)
        found += new
        steps.append(
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

    def _plain(self, steps: list[Step]) -> Best:
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
        steps.append(
            Step(
                norm=name,
                findings=(),
                remedy="plain",
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
        held = np.where(np.isnan(distance), np.inf, distance)
        held[claimed] = again.distance
        successes = np.zeros(len(points), dtype=np.int64)
        successes[claimed] = again.successes
        points[claimed] = again.x
        best = Best(points, held, successes, self.draws, by)
        steps.append(
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
                distance=held,
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

    def _of_mended(self, model: Model, case: Case) -> list[Finding]:
        """What the checks say of the gradients of a model that was mended."""
        try:
            asked = probe(model, case.x, case.label, case.step, self.seed)
        except (NothingCorrect, BadInput, RuntimeError):
            return []
        return [f for f in check_model(asked) if f.id in _OF_GRADIENTS]

    def _without_settled(self, case: Case, best: Best) -> Case:
        """Without findings that speak of samples which have been broken since."""
        settled = set()
        if not np.isinf(best.distance).any():
            settled.add("S4")
        half = Curve(best.distance).robust_accuracy(self.model.bounds.width / 2)
        if half.lower <= 1 / case.classes:
            settled.add("C2")
        left = {id: f for id, f in case.findings.items() if id not in settled}
        return replace(case, findings=left)

    def _without_gradients(
        self, before: Best, after: Best, case: Case
    ) -> list[Finding]:
        """C5: what sees less has done better than all that followed gradients."""
        gap = max(
            Curve(before.distance).robust_accuracy(size).estimate
            - Curve(after.distance).robust_accuracy(size).estimate
            for size in self.sizes
        )
        if gap <= _GAP:
            return []
        return [
            Finding(
                "C5",
                Severity.INVALIDATES if gap > 0.05 else Severity.SUSPICIOUS,
                f"{self.norm!r}: attacks that need no gradients broke samples that all "
                "others had left",
                "estimate gradients, and descend other losses",
                {"robust accuracy lost": gap},
            )
        ]

    def _sum(self, column: str) -> int:
        summary = self.results.summary()["norms"][repr(self.norm)]["attacks"]
        return int(sum(attack[column] for attack in summary.values()))


_MENDED = Finding(
    "C9",
    Severity.NOTE,
    "only one kind of attack has looked at the mended model yet",
    "descend other losses as well, and attack without gradients",
    {},
)
_REFUSES = Finding(
    "T3",
    Severity.NOTE,
    "the model may refuse to answer, so an attack has to get past two margins",
    "descend both together (Undetected, Abstaining)",
    {},
)


def _expected(best: Best) -> Array:
    """(n,) how often each sample's adversarial is one."""
    return np.where(np.isnan(best.distance), 1.0, best.successes / best.draws)


def _found(distance: Array) -> Array:
    return np.asarray(np.isfinite(distance) & (distance > 0))


def _with(case: Case, new: list[Finding]) -> Case:
    return replace(case, findings={**case.findings, **{f.id: f for f in new}})


def _settled(make: MakeCriterion, model: Model, x: Array, size: int) -> MakeCriterion:
    """Criteria chosen by mean scores: by single draws, each question had its own."""
    chosen: dict[int, Array] = {}
    with model.session():
        for start in range(0, len(x), size):
            some = x[start : start + size]
            point = model.to_tensor(some)
            drawn = [to_numpy(model.logits(point)) for _ in range(_SETTLING)]
            chosen |= zip(
                sample_keys(some).tolist(), np.mean(drawn, axis=0), strict=True
            )

    def made(label: Array, _: Array, x: Array) -> Criterion:
        return make(label, np.stack([chosen[k] for k in sample_keys(x).tolist()]), x)

    return made


def _worst_first(*parts: list[Finding]) -> tuple[Finding, ...]:
    all_of_them = [finding for part in parts for finding in part]
    return tuple(sorted(all_of_them, key=lambda finding: -finding.severity))


def _samples(batches: Any, results: Results) -> tuple[Array, Array]:
    """The samples of a run, in its order."""
    parts = list(batches)
    x = np.concatenate([part for part, _ in parts])
    label = np.concatenate([part for _, part in parts])
    if len(results.index) == 0 or results.index[-1] >= len(x):
        raise BadInput(
            f"the run has samples up to {results.index[-1:]}, the data {len(x)}; give "
            "the data that it was made on"
        )
    x, label = x[results.index], label[results.index]
    if not np.array_equal(label, results.label):
        raise BadInput(
            "the labels are not those of the run; give the data that it was made on"
        )
    return x, label


def _size_of_interest(results: Results, norm: str, epsilon: float | None) -> float:
    if epsilon is not None:
        if not epsilon > 0:
            raise BadInput(f"epsilon must be positive; got {epsilon}")
        return epsilon
    sizes = results.run["config"]["epsilons"][norm]
    half = results.clean_accuracy.estimate / 2
    left = [s for s in sizes if results.robust_accuracy(s, norm).estimate >= half]
    return float(max(left, default=min(sizes)))


def _customary(norm: Norm, epsilon: float, x: Array, bounds: Bounds) -> float:
    """A change of every feature that comes to about `epsilon`, in input units."""
    features = math.prod(x.shape[1:])
    least, most = bounds.width / 255, bounds.width / 4
    size = 8 / 255 * bounds.width
    if norm.name == "linf":
        size = epsilon
    elif norm.name == "l2":
        size = epsilon / math.sqrt(features)
    return min(max(size, least), most)


def _check(
    results: Results,
    criterion: Any,
    budget: int | None,
    draws: int,
) -> None:
    config = results.run["config"]
    if config["access"] != results.run["model"]["access"]:
        raise BadInput(
            "remedies use all that a model shows, and this evaluation was limited to "
            f"{config['access']}s; evaluate without that limit"
        )
    if config["criterion"] is not None and criterion is None:
        raise BadInput(
            f"the evaluation had a criterion of your own ({config['criterion']}); give "
            "it again"
        )
    if budget is not None and budget < 1:
        raise BadInput(f"the budget must be at least 1 pass; got {budget}")
    if draws < 10:
        raise BadInput(f"fewer than 10 draws confirm nothing; got {draws}")


def _silent(_: str) -> None:
    return None
