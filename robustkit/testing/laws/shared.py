"""What laws share: what is required, parts of tasks and verdicts, and words."""

from dataclasses import replace

import numpy as np

from robustkit.active_tests.planted import Planted
from robustkit.numerics.tensors import Array
from robustkit.testing.trial import Trial, Verdict

__all__ = [
    "DOUBLE",
    "SINGLE",
    "all_features",
    "box_of",
    "listed",
    "part_of",
    "range_of",
    "require_found",
    "require_near",
    "require_same",
    "require_sound",
    "rows_of",
    "run_again",
    "skip_unless_comparable",
]

# Rounding in the double and the single precision of the tasks.
DOUBLE, SINGLE = 1e-9, 1e-4


def run_again(t: Trial, task: Planted, v: Verdict) -> Verdict:
    """Another run, within the same epsilon as the first."""
    return t.run(task, epsilon=v.epsilon if np.isfinite(v.epsilon) else None)


def skip_unless_comparable(t: Trial) -> None:
    """Skip an attack of which no two runs are the same."""
    if t.unrepeatable:
        t.skip(f"runs cannot be compared: {t.unrepeatable}")


def require_sound(t: Trial, v: Verdict) -> None:
    """What is promised of a usual task, of another one."""
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if t.complete:
        require_found(t, v)
    require_near(t, v)


def require_found(t: Trial, v: Verdict) -> None:
    """An adversarial of everybody who has one within reach."""
    exact = v.task.exact(t.norm)
    v.require(
        v.success | ~t.within_reach(v),
        f"an adversarial, for there are some at the distances {listed(exact)}",
        "none",
    )


def require_near(t: Trial, v: Verdict) -> None:
    """The median is within the factor: single samples may be led astray."""
    if not np.isfinite(t.factor) or t.subject.bounded:
        return
    exact = v.task.exact(t.norm)
    reached = v.success & np.isfinite(exact)
    if not reached.any():
        return
    ratio = np.where(reached, v.distance / np.maximum(exact, 1e-300), 1.0)
    if np.median(ratio[reached]) > t.factor * (1 + SINGLE):
        raise AssertionError(
            f"{v.task.name}: expected distances of at most {t.factor:g} x the minimum "
            f"in the median; got {np.median(ratio[reached]):.6g} x: "
            f"{listed(v.distance)}, where {listed(exact)} is possible"
        )


def require_same(t: Trial, got: Verdict, other: Verdict, expected: str) -> None:
    """Equal, but for rounding."""
    width = got.task.bounds.width
    near = 1e-2 if got.task.x.dtype == np.float32 else 1e-6
    close = np.isclose(got.points, other.points, rtol=0, atol=near * width)
    both = np.isnan(got.points) & np.isnan(other.points)
    got.require(
        all_features(close | both),
        expected,
        f"distances {listed(got.distance)} instead of {listed(other.distance)}",
    )


def rows_of(task: Planted, rows: slice | Array) -> Planted:
    """Some samples of a task."""
    numbers = np.arange(len(task.x))[rows]
    return replace(
        task,
        x=task.x[rows].copy(),
        y=task.y[rows].copy(),
        targets=None if task.targets is None else task.targets[rows].copy(),
        regions=[task.regions[i] for i in numbers],
    )


def part_of(v: Verdict, rows: slice) -> Verdict:
    """Some samples of a verdict, as far as they are compared."""
    return replace(
        v,
        task=rows_of(v.task, rows),
        points=v.points[rows],
        finite=v.finite[rows],
        inside=v.inside[rows],
        adversarial=v.adversarial[rows],
        distance=v.distance[rows],
    )


def all_features(good: Array) -> Array:
    """(n,) for whom all features are good."""
    return np.asarray(good.reshape(len(good), -1).all(axis=1))


def box_of(task: Planted) -> str:
    """The bounds of a task."""
    return f"[{task.bounds.lower:g}, {task.bounds.upper:g}]"


def range_of(v: Verdict) -> list[str]:
    """Of each point the least and the largest value."""
    flat = v.points.reshape(len(v.points), -1)
    return [f"values from {row.min():.6g} to {row.max():.6g}" for row in flat]


def listed(values: Array) -> str:
    """A list of numbers."""
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
