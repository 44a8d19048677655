"""What a figure of one norm shows, whoever draws it."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from robustkit.evaluation.curve import Curve, Interval
from robustkit.evaluation.results import Results
from robustkit.numerics.tensors import Array

__all__ = ["Line", "Panel", "QueryLine", "attack_order", "look_at", "query_lines"]

# A farthest perturbation that many times the median leaves no room for the others.
_LONG_TAIL = 12
_DECADES = 4


@dataclass(frozen=True)
class Line:
    """A curve of steps.

    Attributes:
        name: Of the attack.
        style: The attack's number in the run, the same for all norms.
        sizes: (m,) where the steps are, ascending; the first and the last are the
            ends of the axis.
        shares: (m,) robust accuracy from each size on.
    """

    name: str
    style: int
    sizes: Array
    shares: Array


@dataclass(frozen=True)
class Panel:
    """The minimum-perturbation curve of one norm, cut to what is shown.

    Attributes:
        norm: Its name.
        low: Start of the axis, in norm units.
        high: End of the axis.
        logarithmic: Whether the axis is.
        ticks: Sizes to label on the axis.
        best: The curve of the nearest adversarials.
        band: Half the height of its simultaneous confidence band.
        attacks: The curve of each attack, if there are several.
        marks: Sizes asked about that are on the axis, with their exact intervals.
    """

    norm: str
    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]
    best: Line
    band: float
    attacks: tuple[Line, ...]
    marks: tuple[tuple[float, Interval], ...]


@dataclass(frozen=True)
class QueryLine:
    """An attack's distances against the forward passes that they took.

    Attributes:
        name: Of the attack.
        style: The attack's number in the run, the same for all norms.
        counts: (m,) forward passes per sample, ascending, from where a median exists.
        median: (m,) distances, in norm units.
        lower: (m,) their lower quartiles.
        upper: (m,) their upper quartiles; NaN where there is none.
    """

    name: str
    style: int
    counts: Array
    median: Array
    lower: Array
    upper: Array


def query_lines(results: Results, norm: str) -> tuple[QueryLine, ...]:
    """Of the attacks that took no backward pass, what their queries brought."""
    order, lines = attack_order(results), []
    for name in results.attacks(norm):
        if results.backward_passes(name, norm):
            continue
        curves = results.queries(name, norm)
        quartiles = np.array(
            [
                [curve.quantile(q) for q in (0.25, 0.5, 0.75)]
                for curve in curves.values()
            ]
        ).reshape((-1, 3))
        shown = np.isfinite(quartiles[:, 1])
        if shown.any():
            lower, median, upper = quartiles[shown].T
            counts = np.array(list(curves))[shown]
            upper = np.where(np.isfinite(upper), upper, np.nan)
            line = QueryLine(name, order.index(name), counts, median, lower, upper)
            lines.append(line)
    return tuple(lines)


def attack_order(results: Results) -> list[str]:
    """Names of all attacks of a run, each once."""
    names = (name for norm in results.norms for name in results.attacks(norm))
    return list(dict.fromkeys(names))


def look_at(results: Results, norm: str) -> Panel:
    """Choose the axis for a norm, and what is on it."""
    curve, names = results.curve(norm), results.attacks(norm)
    order = attack_order(results)
    epsilons = results.run["config"]["epsilons"][norm]
    positive = curve.distance[np.isfinite(curve.distance) & (curve.distance > 0)]
    if len(positive) == 0:
        positive = np.array(epsilons or [1.0], dtype=float)
    # At least one of the sizes asked about is shown.
    high = 1.05 * max(float(positive.max()), min(epsilons, default=0.0))
    logarithmic = bool(high > _LONG_TAIL * np.median(positive))
    low = 0.0
    if logarithmic:
        low = max(float(positive.min()) / 1.2, high / 10**_DECADES)
    several = names if len(names) > 1 else ()
    return Panel(
        norm=norm,
        low=low,
        high=high,
        logarithmic=logarithmic,
        ticks=_ticks(low, high, logarithmic),
        best=_line("nearest adversarial", 0, curve, low, high),
        band=curve.band(),
        attacks=tuple(
            _line(name, order.index(name), results.curve(norm, name), low, high)
            for name in several
        ),
        marks=tuple(
            (size, curve.robust_accuracy(size))
            for size in epsilons
            if low <= size <= high and len(curve.distance)
        ),
    )


def _line(name: str, style: int, curve: Curve, low: float, high: float) -> Line:
    sizes, shares = curve.steps()
    if len(curve.distance) == 0:
        return Line(name, style, np.zeros(0), np.zeros(0))
    inside = (sizes > low) & (sizes < high)
    at_low = shares[np.searchsorted(sizes, low, side="right") - 1]
    before_high = shares[np.searchsorted(sizes, high, side="right") - 1]
    return Line(
        name,
        style,
        np.concatenate([[low], sizes[inside], [high]]),
        np.concatenate([[at_low], shares[inside], [before_high]]),
    )


def _ticks(low: float, high: float, logarithmic: bool) -> tuple[float, ...]:
    if not logarithmic:
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    else:
        several = math.log10(high / low) > 2
        values = LogLocator(subs=(1,) if several else (1, 2, 5)).tick_values(low, high)
    return tuple(float(v) for v in values if low <= v <= high)
