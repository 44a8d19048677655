"""Checks of what happened on an attack's way, sample by sample."""

import numpy as np

from robustkit.checks.baselines import baselines
from robustkit.checks.finding import Finding, Severity, of_samples
from robustkit.engine.trace import Trace
from robustkit.evaluation.results import Results
from robustkit.evaluation.traces import TRACED, Traced
from robustkit.numerics.tensors import Array

__all__ = ["check_traces", "ends_seen", "lost", "unfinished"]

# Of the first margin: the last question is far from adversarial.
_FAR = 0.5
# The last part of the steps, and the fall in it that says there is more to come: of the
# margin, as a share of its whole fall; of the distance, as a share of what it was.
_LAST, _MARGIN_FALL, _DISTANCE_FALL = 0.1, 0.05, 0.02
_SOME = 0.05
_MANY = 0.2
# Of fewer samples a share says nothing.
_ENOUGH = 5


def check_traces(results: Results) -> list[Finding]:
    """All findings about how attacks moved, of the samples that a run traced.

    Args:
        results: A run, finished or not; an old one without traces has none.
    """
    found = []
    access, kinds = results.run.get("attack_access", {}), baselines(results)
    for norm in results.norms:
        for name in results.attacks(norm):
            traced = results.traced(name, norm)
            # Noise tries one point after another: no way to speak of. (And whatever
            # follows no gradients, to the end, asks about proposals, which may be far
            # off then.)
            if len(traced) == 0 or kinds.get(name) == "noise":
                continue
            if access.get(name) == "gradient":
                blind = results.blind_steps(name, norm) > 0
                place = np.searchsorted(results.index, traced.index)
                sighted = traced.at(np.flatnonzero(~blind[place]))
                found += lost(sighted, name, norm, min(len(results.index), TRACED))
            found += unfinished(_where_nearest(results, norm, name), name, norm)
    return found


def ends_seen(results: Results) -> bool:
    """Whether S2 could speak up: it says nothing of an attack with fewer samples."""
    kinds = baselines(results)
    return any(
        len(_where_nearest(results, norm, name)) >= _ENOUGH
        for norm in results.norms
        for name in results.attacks(norm)
        if kinds.get(name) != "noise"
    )


def _where_nearest(results: Results, norm: str, attack: str) -> Traced:
    """Where another attack came nearer, the last steps of this one do not matter."""
    traced = results.traced(attack, norm)
    place = np.searchsorted(results.index, traced.index)
    own, nearest = (results.distances(norm, name)[place] for name in (attack, None))
    return traced.at(np.flatnonzero(~(own > nearest)))


def lost(traced: Traced, attack: str, norm: str, samples: int) -> list[Finding]:
    """S1: adversarials were seen, and the attack ended far from any.

    Args:
        traced: Samples that the attack worked on.
        attack: Its name.
        norm: Whose distance it minimised.
        samples: How many were evaluated up to the last of them; those that are
            adversarial from the start are among them, and have no trace.
    """
    trace = traced.trace
    broken = trace.first_adversarial >= -1
    away = broken & (trace.first_margin > 0)
    away &= trace.last_margin > _FAR * trace.first_margin
    share = float(away.sum() / max(broken.sum(), 1))
    of_all = float(away.sum() / samples)
    if share <= _SOME or broken.sum() < _ENOUGH:
        return []
    return [
        Finding(
            "S1",
            Severity.NOTE,
            f"{norm}: {attack} had an adversarial and ended far from it, at "
            f"{of_samples(away.sum(), broken.sum())}. The number here stands, since "
            "the nearest of all questions counts; by the attack's last points alone, "
            "as many packages report, robust accuracy would be up to "
            f"{100 * of_all:.0f} points higher",
            "smaller steps towards the end; report the best point of a run, never the "
            "last",
            {"share": share, "last not adversarial": of_all},
            _at(traced, away),
            norms=(norm,),
            attack=attack,
        )
    ]


def unfinished(traced: Traced, attack: str, norm: str) -> list[Finding]:
    """S2: the attack was still getting somewhere when its steps were over.

    Args:
        traced: Samples that the attack worked on, those where it came nearest.
        attack: Its name.
        norm: Whose distance it minimised.
    """
    if len(traced) < _ENOUGH:
        return []
    margin, distance = falls(traced.trace)
    still = (margin > _MARGIN_FALL) | (distance > _DISTANCE_FALL)
    share = float(still.mean())
    if share <= _MANY:
        return []
    steps = int(np.median(traced.trace.steps))
    # Of fewer than ten the last one is more than that.
    last = "tenth of its steps" if steps >= 1 / _LAST else "of its steps"
    return [
        Finding(
            "S2",
            Severity.SUSPICIOUS,
            f"{norm}: {attack} was still getting nearer in the last {last} "
            f"({steps} in the median), at {of_samples(still.sum(), len(traced))}: it "
            "was stopped before it was done",
            "give it more steps (--budget), or a larger first step",
            {
                "share": share,
                "largest fall of the distance": float(distance.max()),
                "largest fall of the margin": float(margin.max()),
                "steps": steps,
            },
            _at(traced, still),
            norms=(norm,),
            attack=attack,
        )
    ]


def falls(trace: Trace) -> tuple[Array, Array]:
    """(n,) each, how much fell in the last tenth of the steps; 0 where it does not say.

    Of fewer than ten steps it is the last one that counts.

    Of samples without an adversarial the lowest margin, as a share of all that it fell
    from the first question on; of the others the best distance, as a share of what it
    was before: all of it where that was infinite.
    """
    rows = np.arange(len(trace.steps))
    last = np.maximum(trace.points() - 1, 0)
    early = np.floor((1 - _LAST) * (trace.steps - 1) / trace.stride).astype(int)
    early = np.clip(early, 0, last)
    # Too few points to speak of a last tenth.
    known = (last >= 2) & (early < last)
    low, lower = (trace.lowest_margin[rows, k] for k in (early, last))
    # Of what stays infinite there is no fall to speak of.
    with np.errstate(invalid="ignore"):
        whole, part = trace.first_margin - lower, low - lower
    fell = (whole > 0) & np.isfinite(part)
    margin = np.where(fell, part / np.where(fell, whole, 1), np.isposinf(part))
    far, near = (trace.best_distance[rows, k] for k in (early, last))
    found = np.isfinite(near)
    with np.errstate(invalid="ignore"):
        fall = np.where(far > 0, 1 - near / np.where(far > 0, far, 1), 0)
    distance = np.where(found & known, fall, 0)
    return np.where(~found & known, margin, 0), distance


def _at(traced: Traced, chosen: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in traced.index[chosen])
