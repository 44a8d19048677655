"""What more room and more steps brought, by a run's own records."""

import numpy as np

from robustkit.checks.finding import Finding, Severity, of_samples
from robustkit.checks.luck import LUCK, at_least, by_luck
from robustkit.checks.sizes import only_size
from robustkit.engine.attack import edge
from robustkit.evaluation.results import Results
from robustkit.evaluation.traces import Traced
from robustkit.numerics.tensors import Array

__all__ = ["after_half", "check_effort"]

# What the second half of the steps may bring, at any size.
_GAIN, _SURELY = 0.05, 0.01


def check_effort(results: Results) -> list[Finding]:
    """Whether a run's attacks do better with more room, and are done with their steps.

    Args:
        results: A run, finished or not.
    """
    found: list[Finding] = []
    for norm in results.norms:
        found += _falls_with_size(results, norm) + _half_the_steps(results, norm)
    return found


def _falls_with_size(results: Results, norm: str) -> list[Finding]:
    """C1, of attacks that were run at several sizes, and are the same else."""
    alike: dict[str, list[tuple[float, str]]] = {}
    shown = results.run["config"]["attacks"][norm]
    for name in results.attacks(norm):
        told = only_size(shown.get(name, ""))
        if told is not None:
            size, rest = told
            alike.setdefault(rest, []).append((size, name))
    found = []
    for rest, sized in alike.items():
        kind = rest.partition("(")[0]
        sized.sort()
        worst, pair = LUCK, None
        pairs = [(a, b) for i, a in enumerate(sized) for b in sized[i + 1 :]]
        for one, other in pairs:
            # Of so many pairs, one is lucky.
            chance = len(pairs) * by_luck(*_compared(results, norm, one, other)[:2])
            if chance < worst:
                worst, pair = chance, (one, other)
        if pair is None:
            continue
        (small, first), (large, second) = pair
        few, more, known = _compared(results, norm, *pair)
        found.append(
            Finding(
                "C1",
                Severity.SUSPICIOUS,
                f"{norm}: {kind}, run at several sizes, succeeds less often where it "
                f"is allowed more: {first} at {of_samples(few.sum(), known)} "
                f"within {small:.3g}, {second} at {more.sum()} within {large:.3g}. "
                "What is within the one is within the other, so the attack fails for "
                "reasons of its own",
                "choose the step size per model, start from what smaller sizes found "
                "(minimum-norm attacks do), and attack without gradients too",
                {
                    "success small": float(few.sum() / known),
                    "success large": float(more.sum() / known),
                    "chance": worst,
                },
                _at(results.index, few & ~more),
                norms=(norm,),
            )
        )
    return found


def _half_the_steps(results: Results, norm: str) -> list[Finding]:
    """C4: what the second half of all attacks' steps brought, together."""
    known = after_half(results, norm)
    if known is None:
        return []
    index, half, whole = known
    sizes = results.run["config"]["epsilons"][norm]
    gained = [(half > size) & _reached(whole, size) for size in sizes]
    if not gained:
        return []
    best = int(np.argmax([one.sum() for one in gained]))
    gain = gained[best]
    least = at_least(int(gain.sum()), len(gain))
    if gain.mean() <= _GAIN or least <= _SURELY:
        return []
    names = ", ".join(results.attacks(norm))
    return [
        Finding(
            "C4",
            Severity.SUSPICIOUS,
            f"{norm}: the second half of the steps ({names}) broke "
            f"{of_samples(gain.sum(), len(gain))} more within {sizes[best]:.3g}. "
            "Unless the model answers at random and they were lucky draws, the attacks "
            "have not converged, and more steps may break more",
            "give them more steps (--budget), or restarts, until more change nothing",
            {
                "gain": float(gain.mean()),
                "gain at least": least,
                "epsilon": float(sizes[best]),
            },
            _at(index, gain),
            norms=(norm,),
        )
    ]


def after_half(results: Results, norm: str) -> tuple[Array, Array, Array] | None:
    """Distances known after half of all attacks' steps, and after all of them.

    Args:
        results: A run.
        norm: Whose distances.

    Returns:
        Positions in the data (m,) of the samples that have traces of every attack, and
        the distances (m,) of their nearest adversarials, in norm units; None: there is
        no such sample.
    """
    parts = [results.traced(name, norm) for name in results.attacks(norm)]
    if not parts:
        return None
    common = parts[0].index
    for part in parts[1:]:
        common = np.intersect1d(common, part.index)
    if len(common) == 0:
        return None
    halves = [_halfway(part, common) for part in parts]
    place = np.searchsorted(results.index, common)
    whole = results.distances(norm)[place]
    fine = ~np.isnan(whole)
    # What was verified may be a hair nearer than what was recorded.
    half = np.maximum(np.min(halves, axis=0), whole)
    return common[fine], half[fine], whole[fine]


def _halfway(part: Traced, index: Array) -> Array:
    """(m,) the best distance of the given samples after half of an attack's steps."""
    order = np.argsort(part.index)
    rows = order[np.searchsorted(part.index, index, sorter=order)]
    trace = part.trace
    planned = int(trace.steps.max(initial=0))
    # Who had finished by then has its last point.
    last = np.maximum(trace.points() - 1, 0)
    middle = np.minimum(np.maximum(planned // 2 - 1, 0) // trace.stride, last)
    return np.asarray(trace.best_distance[rows, middle[rows]], dtype=np.float64)


def _compared(
    results: Results, norm: str, one: tuple[float, str], other: tuple[float, str]
) -> tuple[Array, Array, int]:
    """Whom each of two attacks broke within its size, of so many that both tried.

    An attack that ended in an error has not failed for reasons of its own.
    """
    distances = [results.distances(norm, name) for _, name in (one, other)]
    known = ~np.isnan(distances).any(axis=0)
    few, more = (
        known & _reached(distance, size)
        for distance, (size, _) in zip(distances, (one, other), strict=True)
    )
    return few, more, int(known.sum())


def _reached(distance: Array, size: float) -> Array:
    return np.asarray(distance <= edge(size))


def _at(index: Array, chosen: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in index[chosen])
