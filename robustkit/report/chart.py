"""A figure as data, whoever draws it: the page as SVG, matplotlib for print."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from robustkit.evaluation.curve import Interval
from robustkit.numerics.tensors import Array
from robustkit.report import words

__all__ = ["Axis", "Chart", "Look", "Mark", "Series", "axis"]

Look: TypeAlias = Literal["steps", "line", "dots", "haze"]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What is measured, and its unit.
        low: Where it starts.
        high: Where it ends.
        logarithmic: Whether equal lengths are equal ratios.
        ticks: Places to label, and their labels.
    """

    label: str
    low: float
    high: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour.

    Attributes:
        name: For the legend; empty: it has no place there.
        style: Number of its colour and dashes; None: it is the main one.
        look: "steps" (each height holds up to the next place), "line", "dots", or
            "haze" (small faint dots).
        x: (m,) places, ascending.
        y: (m,) heights.
        lower: (m,) of a band around it; None: it has none.
        upper: (m,) likewise; NaN where there is no upper end.
    """

    name: str
    style: int | None
    look: Look
    x: Array
    y: Array
    lower: Array | None = None
    upper: Array | None = None


@dataclass(frozen=True)
class Mark:
    """A place asked about, with an interval.

    Attributes:
        x: The place.
        label: Above it.
        y: The interval.
    """

    x: float
    label: str
    y: Interval


@dataclass(frozen=True)
class Chart:
    """A figure of one panel.

    Attributes:
        name: Of its kind, for files: "curve", "queries", ...
        title: Of the panel.
        says: What it shows, for those who do not see it.
        x: Axis.
        y: Axis.
        series: What is drawn, the hindmost first.
        marks: Places asked about.
        band: What the bands around the series are, for the legend; empty: nothing.
        mark: What the marks are, likewise.
    """

    name: str
    title: str
    says: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    band: str = ""
    mark: str = ""


def axis(
    label: str,
    low: float,
    high: float,
    *,
    logarithmic: bool = False,
    show: Callable[[float], str] = words.size,
) -> Axis:
    """An axis with ticks at round numbers.

    Args:
        label: What is measured.
        low: Its start, positive if logarithmic.
        high: Its end, beyond `low`.
        logarithmic: Whether it is.
        show: How to write the numbers at the ticks.

    >>> [label for _, label in axis("size", 0, 1).ticks]
    ['0', '0.2', '0.4', '0.6', '0.8', '1']
    """
    decades = math.log10(high / low) if logarithmic else 0.0
    if decades < 1:
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    else:
        steps = (1,) if decades > 2 else (1, 2, 5)
        values = LogLocator(subs=steps, numticks=7).tick_values(low, high)
    # Rounded, since 3 * 0.2 is not 0.6.
    inside = [float(f"{v:.12g}") for v in np.asarray(values) if low <= v <= high]
    ticks = tuple((v, show(v)) for v in inside)
    return Axis(label, low, high, logarithmic, ticks)
