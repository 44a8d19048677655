"""The same curves as shapes of an inline SVG, which follows the page's colours."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustkit.numerics.tensors import Array
from robustkit.report import words
from robustkit.report.panel import Line, Panel

__all__ = ["draw"]

WIDTH, HEIGHT = 600, 372
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 588, 26, 322
# A label needs that much width, in units of the drawing; more on a narrow screen,
# where letters are larger.
_ROOM, _NARROW_ROOM = 50, 76


@dataclass(frozen=True)
class _Scale:
    """From norm units and shares to places in the drawing."""

    panel: Panel

    def x(self, sizes: Array) -> Array:
        low, high = self.panel.low, self.panel.high
        if self.panel.logarithmic:
            share = np.log(np.maximum(sizes, low) / low) / math.log(high / low)
        else:
            share = (sizes - low) / (high - low)
        return np.round(_LEFT + (_RIGHT - _LEFT) * share, 1)

    def y(self, shares: Array) -> Array:
        return np.round(_BOTTOM - (_BOTTOM - _TOP) * np.clip(shares, 0, 1), 1)


def draw(panel: Panel, bounds: tuple[float, float]) -> dict[str, Any]:
    """Paths, ticks and labels for the template."""
    scale = _Scale(panel)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": _RIGHT,
        "top": _TOP,
        "bottom": _BOTTOM,
        "x_ticks": [
            (float(scale.x(np.array(tick))), words.size(tick)) for tick in panel.ticks
        ],
        "y_ticks": [
            (float(scale.y(np.array(k / 4))), f"{25 * k}{words.SPACE}%")
            for k in range(5)
        ],
        "label": words.axis_label(panel.norm),
        "logarithmic": panel.logarithmic,
        "band": _band(panel, scale),
        "best": _path(panel.best, scale),
        "attacks": [
            (line.name, line.style, _path(line, scale)) for line in panel.attacks
        ],
        "marks": _marks(panel, scale, bounds),
    }


def _corners(sizes: Array, shares: Array, scale: _Scale) -> list[tuple[float, float]]:
    """Places of steps; of several in the same place, the last counts."""
    x, y = scale.x(sizes), scale.y(shares)
    last = np.append(x[1:] != x[:-1], True)
    return [(float(a), float(b)) for a, b in zip(x[last], y[last], strict=True)]


def _path(line: Line, scale: _Scale) -> str:
    if len(line.sizes) == 0:
        return ""
    start = f"M{_LEFT},{scale.y(line.shares[:1])[0]:g}"
    return start + "".join(
        f"H{x:g}V{y:g}" for x, y in _corners(line.sizes, line.shares, scale)
    )


def _band(panel: Panel, scale: _Scale) -> str:
    line = panel.best
    if len(line.sizes) == 0:
        return ""
    upper = replace(line, shares=line.shares + panel.band)
    back = []
    for x, y in reversed(_corners(line.sizes, line.shares - panel.band, scale)):
        back.append(f"V{y:g}H{x:g}")
    # Backwards, a step's height holds from the next place down to its own.
    return _path(upper, scale) + "".join(back) + "Z"


def _marks(
    panel: Panel, scale: _Scale, bounds: tuple[float, float]
) -> list[dict[str, Any]]:
    marks: list[dict[str, Any]] = []
    free = free_if_narrow = 0.0
    for size, share in panel.marks:
        x = float(scale.x(np.array(size)))
        label = words.epsilon(size, panel.norm, bounds)[0] if x >= free else ""
        extra = bool(label) and x < free_if_narrow
        if label:
            free = x + _ROOM
        if label and not extra:
            free_if_narrow = x + _NARROW_ROOM
        at, low, high = (float(y) for y in scale.y(np.array(share)))
        mark = {"x": x, "low": low, "at": at, "high": high}
        marks.append({**mark, "label": label, "extra": extra})
    return marks
