"""Checks of what an attack can do when it is let: larger sizes, more steps, targets."""

import numpy as np

from robustkit.checks.finding import Finding, Severity, of_samples
from robustkit.checks.luck import LUCK, at_least, by_luck
from robustkit.checks.trials import Trials
from robustkit.numerics.tensors import Array

__all__ = ["check_trials"]

_POINT = 0.01
_MUCH = 0.25
# Of success where nothing stands in the way.
_ENOUGH = 0.9
# Of success within four epsilons, of a model that nothing protects.
_HALF = 0.5


def check_trials(t: Trials) -> list[Finding]:
    """All findings about an attack that was tried on a model.

    Args:
        t: What came of it.
    """
    checks = (
        _falls_with_size,
        _steps_help,
        _fails_when_fixed,
        _fails_undefended,
        _targets_help,
        _unbounded_fails,
    )
    return [finding for check in checks for finding in check(t)]


def _falls_with_size(t: Trials) -> list[Finding]:
    """C1, for every pair of sizes; the worst counts."""
    worst, pair = LUCK, None
    sizes = len(t.epsilons)
    for small in range(sizes):
        for large in range(small + 1, sizes):
            chance = by_luck(t.broken[:, small], t.broken[:, large])
            # Of so many pairs, one is lucky.
            chance *= sizes * (sizes - 1) / 2
            if chance < worst:
                worst, pair = chance, (small, large)
    if pair is None:
        return []
    (one, other), (few, more) = (
        (t.epsilons[list(pair)].tolist()),
        t.broken[:, list(pair)].mean(axis=0).tolist(),
    )
    lost = t.broken[:, pair[0]] & ~t.broken[:, pair[1]]
    return [
        Finding(
            "C1",
            Severity.SUSPICIOUS,
            f"{t.norm}: {_name(t)} succeeds less often where it is allowed more: at "
            f"{100 * few:.0f} % of the samples within {one:.3g}, at {100 * more:.0f} % "
            f"within {other:.3g}. What is within the one is within the other, so the "
            "attack fails for reasons of its own, such as its step size, or gradients "
            "that do not hold at a distance",
            "choose the step size per model, start from what smaller sizes found "
            "(minimum-norm attacks do), and attack without gradients too",
            {"success small": few, "success large": more, "chance": worst},
            _at(t, lost),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _steps_help(t: Trials) -> list[Finding]:
    """C4."""
    gained = t.doubled & ~t.broken[:, t.at]
    least = at_least(int(gained.sum()), len(gained))
    if least <= _POINT:
        return []
    return [
        Finding(
            "C4",
            Severity.SUSPICIOUS,
            f"{t.norm}: with twice the steps, {_name(t)} breaks {gained.sum()} of "
            f"{len(gained)} samples more: with so few it has not converged"
            + (", or has met fewer lucky draws of the model" if t.random else ""),
            "give it more steps, or restarts, until more change nothing",
            {
                "gain": float(gained.mean()),
                "gain at least": least,
                "epsilon": float(t.epsilons[t.at]),
            },
            _at(t, gained),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _fails_when_fixed(t: Trials) -> list[Finding]:
    """C7, of random models."""
    if t.fixed is None or not _fails(t.fixed):
        return []
    return [
        Finding(
            "C7",
            Severity.SUSPICIOUS,
            f"{t.norm}: {_name(t)} may go anywhere within the bounds and fails at "
            f"{100 * (1 - t.fixed.mean()):.0f} % of the samples even with the model's "
            "randomness held still, so it is not the randomness that it fails for",
            "break the model with its randomness fixed first; then average over draws "
            "(EOT)",
            {"success": float(t.fixed.mean())},
            _at(t, ~t.fixed),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _fails_undefended(t: Trials) -> list[Finding]:
    """C7, of a model without its defense."""
    if t.undefended is None:
        return []
    near, anywhere = t.undefended.mean(axis=0).tolist()
    weak = _fails(t.undefended[:, 1])
    if near >= _HALF and not weak:
        return []
    size = float(t.epsilons[-2:][0])
    return [
        Finding(
            "C7",
            Severity.INVALIDATES if weak else Severity.NOTE,
            f"{t.norm}: on the model without its defense, which nothing protects, "
            f"{_name(t)} breaks {100 * near:.0f} % of the samples within {size:.3g}, "
            f"and {100 * anywhere:.0f} % where it may go anywhere. "
            + (
                "An attack that fails there says nothing about the defense"
                if weak
                else "Unless that model is sturdy by itself at such sizes, the attack "
                "is too weak to tell what the defense adds"
            ),
            "mend the attack on the undefended model first: more steps, other step "
            "sizes, another loss; and compare at sizes at which that model breaks",
            {"success": near, "success anywhere": anywhere, "epsilon": size},
            _at(t, ~t.undefended[:, 0]),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _targets_help(t: Trials) -> list[Finding]:
    """C8, at equal numbers of passes."""
    chance = by_luck(t.targeted, t.patient)
    better = t.targeted & ~t.patient
    # Several goals help a little on any model.
    if chance >= LUCK or better.mean() <= _MUCH:
        return []
    return [
        Finding(
            "C8",
            Severity.SUSPICIOUS,
            f"{t.norm}: aimed at one of {t.targets} classes after the other, "
            f"{_name(t)} breaks {better.sum()} of {len(better)} samples that it does "
            "not break with as many steps and no target: what it descends misleads it",
            "use targets (APGD with targets, fab-targeted), or another loss",
            {
                "share": float(better.mean()),
                "success targeted": float(t.targeted.mean()),
                "success untargeted": float(t.patient.mean()),
                "chance": chance,
            },
            _at(t, better),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _unbounded_fails(t: Trials) -> list[Finding]:
    """S4: within the widest size lies every input of every class."""
    left = np.asarray(~t.broken.any(axis=1))
    least = at_least(int(left.sum()), len(left))
    if least <= _POINT:
        return []
    bad = left.mean() > 0.5 and t.several
    return [
        Finding(
            "S4",
            Severity.INVALIDATES if bad else Severity.SUSPICIOUS,
            f"{t.norm}: {_name(t)} may go anywhere within the bounds and still fails "
            f"at {of_samples(left.sum(), len(left))}: attack, loss or gradients are "
            "broken"
            + ("" if t.several else ", or the model answers the same everywhere"),
            "look at the findings about gradients first; start from other samples "
            "(--pool), or attack without gradients (--access decision)",
            {"share": float(left.mean())},
            _at(t, left),
            norms=(t.norm,),
            trial=True,
        )
    ]


def _fails(broken: Array) -> bool:
    """Whether an attack fails more often than it may, surely."""
    return at_least(int((~broken).sum()), len(broken)) > 1 - _ENOUGH


def _name(t: Trials) -> str:
    whose = "of the run, started anew" if t.own else "the check's own trial"
    return f"{t.attack.partition('(')[0]} ({whose})"


def _at(t: Trials, chosen: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in t.index[chosen])
