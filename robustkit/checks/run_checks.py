"""Checks of what a run found: attacks held against each other, and against reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from robustkit.checks.advice import beside_auto
from robustkit.checks.baselines import baselines
from robustkit.checks.finding import Finding, Severity, of_samples
from robustkit.checks.sizes import of_interest, reach
from robustkit.engine.attack import edge
from robustkit.evaluation.curve import Curve, Interval, proportion
from robustkit.evaluation.results import Results
from robustkit.models.base import Access, as_access
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["Side", "check_run", "half_the_width", "sides"]

_Choice: TypeAlias = Callable[[str | None, Access], bool]
"""Whether an attack that is such a baseline, with that access, belongs to a side."""

# Nearer by less is rounding and luck.
_NEARER = 0.99
_SIDES: dict[str, tuple[_Choice, _Choice]] = {
    "C3": (
        lambda kind, access: kind == "single step",
        lambda kind, access: access is Access.GRADIENT and kind != "single step",
    ),
    "C5": (
        lambda kind, access: access < Access.GRADIENT and kind != "noise",
        lambda kind, access: access is Access.GRADIENT,
    ),
    "C6": (
        lambda kind, access: kind == "noise",
        lambda kind, access: access is Access.GRADIENT,
    ),
}


@dataclass(frozen=True)
class Side:
    """Some attacks of a run together.

    Attributes:
        attacks: Their names.
        distance: (n,) the least of their distances; infinite: they found none.
    """

    attacks: tuple[str, ...]
    distance: Array


def check_run(results: Results) -> list[Finding]:
    """All findings about a run, norm by norm.

    Args:
        results: A run, finished or not.
    """
    checks = (
        _nothing_found,
        _better_than_chance,
        _without_gradients,
        _noise_wins,
        _single_step_wins,
        _one_attack_is_not_all,
        _unwarranted,
        _does_not_hold,
    )
    found: list[Finding] = []
    for norm in results.norms:
        for check in checks:
            found += check(results, norm)
    return found + _little_variety(results) + _accuracy(results)


def _nothing_found(results: Results, norm: str) -> list[Finding]:
    """S4: a minimum-norm attack may go as far as the box is wide."""
    if _reach(results, norm) < np.inf:
        # None of them is one.
        return []
    missing = np.isinf(results.distances(norm))
    if not missing.any():
        return []
    share = float(missing.mean())
    surely = _can_be_met(results)
    why = "Other originals are adversarials for them, so attacks have failed there"
    if not surely:
        why = (
            "Unless nothing within the bounds is adversarial for them, attacks have "
            "failed"
        )
    without = ""
    if Access.GRADIENT in _access(results).values():
        without = f", or attack without gradients ({beside_auto([norm], blind=True)})"
    return [
        Finding(
            "S4",
            Severity.INVALIDATES if share > 0.05 and surely else Severity.SUSPICIOUS,
            f"{norm}: no adversarial of any size was found for {missing.sum()} of "
            f"{len(missing)} samples. {why}",
            f"give them more passes, start from other samples (--pool){without}",
            {"share": share},
            _at(results, missing),
            norms=(norm,),
        )
    ]


def _can_be_met(results: Results) -> bool:
    """Whether the answers to the originals show that every sample has an adversarial.

    A model that answers one and the same everywhere has none, and no attack fails.
    """
    config, model = results.run["config"], results.run["model"]
    seen = np.unique(results.prediction[results.prediction >= 0])
    if model.get("abstains"):
        seen = seen[seen < model["classes"]]
    if config["criterion"]:
        return False
    target = config["target"]
    if isinstance(target, int):
        return target in seen
    return len(seen) > 1 if target is None else len(seen) >= model["classes"]


def _better_than_chance(results: Results, norm: str) -> list[Finding]:
    """C2: with half the box's width every input can be made plain grey."""
    config, model = results.run["config"], results.run["model"]
    if norm != "linf" or config["target"] is not None or config["criterion"]:
        return []
    if model.get("abstains"):
        # The grey may be refused, which is no adversarial.
        return []
    bounds = Bounds(*config["bounds"])
    half = bounds.width / 2
    if _reach(results, norm) < half:
        return []
    left, chance = half_the_width(
        results.distances(norm), results.label, model["classes"], bounds
    )
    if left.lower <= chance:
        return []
    return [
        Finding(
            "C2",
            Severity.INVALIDATES,
            f"linf: {100 * left.estimate:.0f} % of the samples stand perturbations of "
            f"half the bounds' width ({half:g}), which can make every input the same "
            f"grey. More than chance ({100 * chance:.0f} %) is impossible, so attacks "
            "have failed",
            "look for masked gradients (robustkit check); attack without gradients",
            {"robust accuracy": left.estimate, "chance": chance},
            norms=(norm,),
        )
    ]


def half_the_width(
    distance: Array, label: Array, classes: int, bounds: Bounds
) -> tuple[Interval, float]:
    """Robust accuracy within half the width in Linf, and the most that is possible.

    Args:
        distance: (n,) in Linf.
        label: (n,) the classes of the samples.
        classes: How many there are.
        bounds: Of valid inputs.
    """
    _, counts = np.unique(label, return_counts=True)
    chance = max(1 / classes, float(counts.max(initial=0) / max(len(label), 1)))
    return Curve(distance).robust_accuracy(bounds.width / 2), chance


def _without_gradients(results: Results, norm: str) -> list[Finding]:
    """C5: an attack that sees less may not do better, sample by sample."""
    return _given_up(results, norm) + _nearer(
        results,
        norm,
        "C5",
        "attacks that need no gradients come nearer than all that follow them",
        "gradients mislead here, or the attacks that follow them have too few passes: "
        "run robustkit check, average gradients (Estimated) or replace them, and "
        "report the nearest of all",
    )


def _given_up(results: Results, norm: str) -> list[Finding]:
    """C5 as well: an attack itself went on without gradients."""
    found = []
    for name in results.attacks(norm):
        forwards = results.forward_passes(name, norm)
        # Gradients made of scores take no backward passes; that few of these make poor
        # ones is known.
        lost = results.blind_steps(name, norm) > 0
        lost &= results.passes(name, norm) > forwards
        if lost.sum() <= max(0.05 * (forwards > 0).sum(), 1):
            continue
        found.append(
            Finding(
                "C5",
                Severity.SUSPICIOUS,
                f"{norm}: {name} gave up following gradients at "
                f"{of_samples(lost.sum(), (forwards > 0).sum())}: small steps along "
                "them did not change the margin as they say. It went on by scores and "
                "decisions",
                "what else follows gradients says little here: look for what masks "
                "them (robustkit check), average or replace them (--adaptive), and "
                "report the nearest of all",
                {"share": float(lost.sum() / (forwards > 0).sum())},
                _at(results, lost),
                norms=(norm,),
                attack=name,
            )
        )
    return found


def _noise_wins(results: Results, norm: str) -> list[Finding]:
    """C6: noise is no attack."""
    return _nearer(
        results,
        norm,
        "C6",
        "plain noise comes nearer than all attacks that follow gradients",
        "gradients are useless here: attack without them "
        f"({beside_auto([norm], blind=True)})",
    )


def _single_step_wins(results: Results, norm: str) -> list[Finding]:
    """C3: more steps may not do worse than one."""
    return _nearer(
        results,
        norm,
        "C3",
        "a single step comes nearer than attacks of many",
        "check the many-step attacks' step size and loss; look for masked gradients",
    )


def sides(results: Results, norm: str, id: str) -> tuple[Side, Side] | None:
    """Who is held against whom by the checks C3, C5 and C6.

    Args:
        results: A run.
        norm: Whose distances are compared.
        id: Of the check.

    Returns:
        The weaker and the stronger side; None: one of them has no attack. Where every
        attack of a side ended in an error, both are infinite: nothing is compared.
        Where one side is for a single size, all distances up to it count as that size,
        and larger ones as infinite.
    """
    access, kinds = _access(results), baselines(results)
    names = [name for name in results.attacks(norm) if name in access]
    found = []
    for belongs in _SIDES[id]:
        side = tuple(n for n in names if belongs(kinds.get(n), access[n]))
        if not side:
            return None
        distances = [results.distances(norm, name) for name in side]
        found.append((side, np.fmin.reduce(distances)))
    unknown = np.isnan([distance for _, distance in found]).any(axis=0)
    size = min(
        max(of_interest(results, norm, name) for name in side) for side, _ in found
    )
    weak, strong = (
        Side(side, _at_size(np.where(unknown, np.inf, distance), size))
        for side, distance in found
    )
    return weak, strong


def _reach(results: Results, norm: str) -> float:
    """The largest size that any attack has looked at; mostly infinite."""
    names = results.attacks(norm)
    return max((reach(results, norm, name) for name in names), default=np.inf)


def _at_size(distance: Array, size: float) -> Array:
    """Distances (n,) as whoever is for one size only can tell them."""
    if size == np.inf:
        return distance
    inside = np.where(distance <= edge(size), size, np.inf)
    return np.where(distance > 0, inside, distance)


def _nearer(
    results: Results, norm: str, id: str, what: str, remedy: str
) -> list[Finding]:
    """A finding where weaker attacks beat all that should be stronger."""
    compared = sides(results, norm, id)
    if compared is None:
        return []
    weak, strong = compared
    lesser, greater = weak.distance, strong.distance
    wins = (lesser < _NEARER * greater) & (lesser > 0)
    attacked = int((np.minimum(lesser, greater) > 0).sum())
    share = float(wins.sum() / max(attacked, 1))
    gap = _largest_gap(results, norm, greater, np.where(wins, lesser, greater))
    if share <= 0.05 and gap <= 0.002:
        return []
    both = wins & np.isfinite(greater)
    ratio = float(np.median(lesser[both] / greater[both])) if both.any() else 0.0
    bad = share > 0.25 or gap > 0.05
    return [
        Finding(
            id,
            Severity.INVALIDATES if bad and id != "C3" else Severity.SUSPICIOUS,
            f"{norm}: {what} ({', '.join(weak.attacks)} against "
            f"{', '.join(strong.attacks)}), at "
            f"{of_samples(wins.sum(), attacked)}",
            remedy,
            {
                "share": share,
                "ratio of distances there": ratio,
                "robust accuracy lost": gap,
            },
            _at(results, wins),
            norms=(norm,),
        )
    ]


def _little_variety(results: Results) -> list[Finding]:
    """C9, once for all norms that it is true of."""
    access = _access(results)
    names = {norm: set(results.attacks(norm)) for norm in results.norms}
    weak = [n for n, ran in names.items() if ran and ran <= baselines(results).keys()]
    kinds = {n: {access[a] for a in names[n] if a in access} for n in results.norms}
    alike = [n for n in results.norms if kinds[n] == {Access.GRADIENT}]
    alike = [n for n in alike if n not in weak and not _given_up(results, n)]
    found = []
    if weak:
        ran = sorted(set().union(*(names[n] for n in weak)))
        found.append(
            Finding(
                "C9",
                Severity.SUSPICIOUS,
                f"{', '.join(weak)}: only {', '.join(ran)} was run, which says little",
                "run auto, and an attack without gradients beside it",
                {"attacks": len(ran)},
                norms=tuple(weak),
            )
        )
    if alike:
        ran = sorted(set().union(*(names[n] for n in alike)))
        found.append(
            Finding(
                "C9",
                Severity.NOTE,
                f"{', '.join(alike)}: every attack followed gradients. If the model "
                "hides them, none can tell",
                f"add an attack without gradients: {beside_auto(alike, blind=True)}",
                {"attacks": len(ran)},
                norms=tuple(alike),
            )
        )
    return found


def _one_attack_is_not_all(results: Results, norm: str) -> list[Finding]:
    """C10: the least of the attacks' accuracies is above that of the nearest of all."""
    names = results.attacks(norm)
    if len(names) < 2:
        return []
    epsilons = results.run["config"]["epsilons"][norm]
    together = _accuracies(results.distances(norm), epsilons)
    alone = np.min(
        [_accuracies(results.distances(norm, name), epsilons) for name in names], axis=0
    )
    gap = float((alone - together).max(initial=0.0))
    if gap <= 0.01:
        return []
    return [
        Finding(
            "C10",
            Severity.NOTE,
            f"{norm}: the best single attack leaves up to {100 * gap:.1f} points more "
            "robust accuracy than all of them together, sample by sample",
            "report the nearest of all attacks, as robustkit does; never the best "
            "attack's own number",
            {"gap": gap},
            norms=(norm,),
        )
    ]


def _unwarranted(results: Results, norm: str) -> list[Finding]:
    """T1: the attack unit tests, where they were run."""
    tests = {name: results.warrant(norm, name) for name in results.attacks(norm)}
    verdicts = {name: test["verdict"] for name, test in tests.items()}
    failed = [name for name, verdict in verdicts.items() if verdict == "FAIL"]
    if not failed:
        return []
    passed = [name for name, verdict in verdicts.items() if verdict == "PASS"]
    # Baselines may fail: a run rests on them only where there is nothing else.
    strong = [name for name in verdicts if name not in baselines(results)]
    strong = strong or list(verdicts)
    unsettled = [name for name in strong if name not in failed]
    severity = Severity.NOTE
    rates = [(tests[name].get("success_rate") or {}).get("estimate") for name in failed]
    said = (
        f"{norm}: {', '.join(failed)} missed adversarials that are known to exist, "
        "built into the last layer of this very model"
    )
    if passed:
        said += f"; {', '.join(passed)} did not"
    elif unsettled:
        said += f"; whether {', '.join(unsettled)} would is not settled"
        if set(strong) & set(failed):
            severity = Severity.SUSPICIOUS
    else:
        said += ". So what these attacks do not find here says nothing"
        severity = Severity.INVALIDATES
    return [
        Finding(
            "T1",
            severity,
            said,
            "try other attacks, losses or step sizes until one passes (robustkit "
            "test), and report the numbers of those that do",
            {
                f"success rate of {name}": float(rate)
                for name, rate in zip(failed, rates, strict=True)
                if rate is not None
            },
            norms=(norm,),
        )
    ]


def _does_not_hold(results: Results, norm: str) -> list[Finding]:
    """S3, at the verification of a run's own adversarials."""
    undone = results.undone(norm)
    nobody = np.isnan(results.distances(norm))
    attacked = int((results.distances(norm) != 0).sum())
    share = float(undone.sum() / max(attacked, 1))
    if share <= 0.02:
        return []
    return [
        Finding(
            "S3",
            Severity.INVALIDATES if share > 0.1 else Severity.SUSPICIOUS,
            f"{norm}: what attacks called adversarial did not hold when the model was "
            f"asked again, at {of_samples(undone.sum(), attacked)} (at "
            f"{(undone & nobody).sum()} nothing else was found): the model that "
            "was attacked is not the one that answers, or it answers at random",
            "if it is random, let several draws decide (MajorityVote) and average "
            "gradients over them (EOT); attack the model as it is used, end to end",
            {"share": share},
            _at(results, undone),
            norms=(norm,),
        )
    ]


def _accuracy(results: Results) -> list[Finding]:
    """C11."""
    known, classes = results.prediction >= 0, results.run["model"]["classes"]
    if not known.any():
        return []
    right = (results.prediction == results.label)[known]
    clean = proportion(int(right.sum()), len(right))
    better = clean.lower > 1 / classes or clean.upper > 1.5 / classes
    if better and clean.estimate > 0:
        return []
    what = (
        f"the clean accuracy is {100 * clean.estimate:.0f} %, no better than chance: "
        "labels, bounds or normalisation do not belong to this model"
    )
    if better:
        what = (
            f"none of {len(right)} sample{'s are' if len(right) != 1 else ' is'} "
            "classified as labelled, so nothing is said of robustness. Of so few that "
            "may be chance; or labels, bounds or normalisation do not belong to this "
            "model"
        )
    return [
        Finding(
            "C11",
            Severity.SUSPICIOUS if clean.estimate > 0 else Severity.INVALIDATES,
            what,
            "check --bounds, --mean, --std and the order of the classes",
            {"clean accuracy": clean.estimate},
        )
    ]


def _access(results: Results) -> Mapping[str, Access]:
    """What each attack needed, as run.json has it."""
    said = results.run.get("attack_access", {})
    return {name: as_access(level) for name, level in said.items()}


def _accuracies(distance: Array, epsilons: list[float]) -> Array:
    curve = Curve(distance)
    return np.array([curve.robust_accuracy(e).estimate for e in epsilons])


def _largest_gap(results: Results, norm: str, strong: Array, both: Array) -> float:
    """How much more robust accuracy the stronger side leaves, at worst, than both."""
    epsilons = results.run["config"]["epsilons"][norm]
    gaps = _accuracies(strong, epsilons) - _accuracies(both, epsilons)
    return float(gaps.max()) if len(gaps) else 0.0


def _at(results: Results, chosen: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in results.index[chosen])
