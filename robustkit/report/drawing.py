"""A figure as shapes of an inline SVG, which follows the page's colours."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.numerics.tensors import Array
from robustkit.report.chart import Axis, Chart, Mark, Series

__all__ = ["draw"]

WIDTH, HEIGHT = 600, 392
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 588, 38, 326
# A label needs that much width, in units of the drawing; more on a narrow screen,
# where letters are larger.
_ROOM, _NARROW_ROOM = 50, 80


@dataclass(frozen=True)
class _Scale:
    """From what a chart's axes measure to places in the drawing."""

    chart: Chart

    def x(self, values: Array) -> Array:
        share = np.clip(_share(self.chart.x, values), 0, 1)
        return np.round(_LEFT + (_RIGHT - _LEFT) * share, 1)

    def y(self, values: Array) -> Array:
        share = np.clip(_share(self.chart.y, values), 0, 1)
        return np.round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)


def draw(chart: Chart) -> dict[str, Any]:
    """Paths, ticks and labels for the template."""
    scale = _Scale(chart)
    shapes = [_shape(series, scale) for series in chart.series]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": _RIGHT,
        "top": _TOP,
        "bottom": _BOTTOM,
        "says": chart.says,
        "x_ticks": _ticks(chart.x, scale.x, _NARROW_ROOM),
        "y_ticks": _ticks(chart.y, scale.y, 0),
        "x_label": _label(chart.x),
        "y_label": "" if chart.marks else _label(chart.y),
        "series": shapes,
        # What matters most is drawn last, and named first.
        "legend": sorted(
            (shape for shape in shapes if shape["name"]),
            key=lambda shape: not shape["main"],
        ),
        "band": chart.band if any(shape["band"] for shape in shapes) else "",
        "mark": chart.mark if chart.marks else "",
        "marks": _marks(chart.marks, scale),
    }


def _share(axis: Axis, values: Array) -> Array:
    if axis.logarithmic:
        above = np.log(np.maximum(values, axis.low) / axis.low)
        return np.asarray(above / math.log(axis.high / axis.low))
    return np.asarray((values - axis.low) / (axis.high - axis.low))


def _label(axis: Axis) -> str:
    return axis.label + (", logarithmic" if axis.logarithmic else "")


def _ticks(axis: Axis, scale: Any, room: int) -> list[dict[str, Any]]:
    ticks: list[dict[str, Any]] = []
    free = -math.inf
    for value, label in axis.ticks:
        at = float(scale(np.array(value)))
        # On a narrow screen, labels that would touch the one before are left out.
        ticks.append({"at": at, "label": label, "extra": at < free})
        if at >= free:
            free = at + room
    return ticks


def _shape(series: Series, scale: _Scale) -> dict[str, Any]:
    return {
        "name": series.name,
        "main": series.style is None,
        "style": series.style or 0,
        "look": series.look,
        "path": _dots(series, scale)
        if series.look in ("dots", "haze")
        else _path(series.x, series.y, series.look, scale),
        "band": _band(series, scale),
    }


def _dots(series: Series, scale: _Scale) -> str:
    """Strokes without a length, which round line ends make dots."""
    places = zip(scale.x(series.x), scale.y(series.y), strict=True)
    return "".join(f"M{x:g},{y:g}h0" for x, y in dict.fromkeys(places))


def _corners(x: Array, y: Array, scale: _Scale) -> list[tuple[float, float]]:
    """Places of steps; of several in the same place, the last counts."""
    across, up = scale.x(x), scale.y(y)
    last = np.append(across[1:] != across[:-1], True)
    return [(float(a), float(b)) for a, b in zip(across[last], up[last], strict=True)]


def _path(x: Array, y: Array, look: str, scale: _Scale) -> str:
    if len(x) == 0:
        return ""
    start = f"M{scale.x(x[:1])[0]:g},{scale.y(y[:1])[0]:g}"
    if look == "steps":
        return start + "".join(f"H{a:g}V{b:g}" for a, b in _corners(x, y, scale))
    if len(x) == 1:
        return start + "h0"
    return start + "".join(f"L{a:g},{b:g}" for a, b in _corners(x[1:], y[1:], scale))


def _band(series: Series, scale: _Scale) -> str:
    if series.lower is None or series.upper is None or len(series.x) == 0:
        return ""
    # Where there is no upper end, the band is open: it goes up to the frame.
    upper = np.where(np.isnan(series.upper), np.inf, series.upper)
    upper = np.minimum(upper, scale.chart.y.high)
    back = []
    for x, y in reversed(_corners(series.x, series.lower, scale)):
        # Backwards, a step's height holds from the next place down to its own.
        back.append(f"V{y:g}H{x:g}" if series.look == "steps" else f"L{x:g},{y:g}")
    look = "steps" if series.look == "steps" else "line"
    return _path(series.x, upper, look, scale) + "".join(back) + "Z"


def _marks(marks: tuple[Mark, ...], scale: _Scale) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    free = free_if_narrow = 0.0
    for mark in marks:
        x = float(scale.x(np.array(mark.x)))
        label = mark.label if x >= free else ""
        extra = bool(label) and x < free_if_narrow
        if label:
            free = x + _ROOM
        if label and not extra:
            free_if_narrow = x + _NARROW_ROOM
        at, low, high = (float(y) for y in scale.y(np.array(mark.y)))
        place = {"x": x, "low": low, "at": at, "high": high}
        drawn.append({**place, "label": label, "extra": extra})
    return drawn
