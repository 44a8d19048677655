"""Figures for print."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from robustkit.evaluation.shards import write_atomically
from robustkit.report.chart import Chart, Series

__all__ = ["FORMATS", "save_charts"]

FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's colours, which all common forms of colour vision tell apart.
_BEST = "#0072b2"
_COLORS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")
_INK, _MUTED = "#222222", "#767676"
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8,
    "pdf.fonttype": 42,  # Letters as letters, which many publishers ask for.
    "svg.hashsalt": "robustkit",  # Else the names in the file are random.
    "text.color": _INK,
    "xtick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}
_PANEL = (4.4, 3.3)  # Inches.
_ACROSS = 3
# Lines of so many places have a dot at each.
_MARKED = {1, *range(3, 30)}
# No date and no version of a library: equal results are equal bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def save_charts(
    charts: Sequence[Chart], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Write charts of one kind side by side, under the name of that kind.

    Args:
        charts: One or more; one panel each.
        folder: To write to.
        formats: Some of `FORMATS`.

    Returns:
        The files; equal charts are equal bytes.

    Raises:
        OSError: One cannot be written.
    """
    files = []
    # The user's own matplotlib settings stay out of it, and as they are. Names come
    # from others: a dollar sign in one is no formula.
    with (
        style.context(["default", _SETTINGS]),
        matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}),
    ):
        across = min(len(charts), _ACROSS)
        down = -(-len(charts) // across)
        figure = Figure(
            figsize=(_PANEL[0] * across, _PANEL[1] * down), layout="constrained"
        )
        FigureCanvasAgg(figure)
        for place, chart in enumerate(charts):
            _draw(figure.add_subplot(down, across, place + 1), chart)
        _legend(figure)
        for kind in formats:
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=220, metadata=_METADATA[kind])
            path = folder / f"{charts[0].name}.{kind}"
            with write_atomically(path) as file:
                file.write(content.getbuffer())
            files.append(path)
    return files


def _draw(axes: Any, chart: Chart) -> None:
    for series in chart.series:
        _draw_series(axes, series, chart)
    if chart.marks:
        middle, lower, upper = np.array([mark.y for mark in chart.marks]).T
        axes.errorbar(
            [mark.x for mark in chart.marks],
            middle,
            [middle - lower, upper - middle],
            fmt="o",
            color=_INK,
            markersize=2.6,
            linewidth=0.8,
            clip_on=False,
            zorder=4,
            label=chart.mark,
        )
    for axis, side in ((chart.x, "x"), (chart.y, "y")):
        if axis.logarithmic:
            getattr(axes, f"set_{side}scale")("log")
        room = 0.0 if axis.logarithmic else 0.01 * (axis.high - axis.low)
        high = axis.high + (room if side == "y" else 0.0)
        getattr(axes, f"set_{side}lim")(axis.low, high)
        places, labels = [tick for tick, _ in axis.ticks], [w for _, w in axis.ticks]
        getattr(axes, f"set_{side}ticks")(places, labels)
        getattr(axes, f"set_{side}label")(axis.label)
    axes.minorticks_off()
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(chart.title, fontsize=10, loc="left")


def _draw_series(axes: Any, series: Series, chart: Chart) -> None:
    main, number = series.style is None, series.style or 0
    color = _BEST if main else _COLORS[number % len(_COLORS)]
    if series.lower is not None and series.upper is not None:
        open_ended = np.isnan(series.upper)
        axes.fill_between(
            series.x,
            series.lower,
            np.where(open_ended, chart.y.high, series.upper),
            step="post" if series.look == "steps" else None,
            color=color,
            alpha=0.14,
            linewidth=0,
            label=chart.band if main or chart.series[-1] is series else None,
        )
    # Matplotlib leaves out of a legend what begins with an underscore.
    label = series.name or "_nameless"
    if series.look in ("dots", "haze"):
        size = 2.6 if series.look == "dots" else 1.4
        axes.plot(
            series.x,
            series.y,
            linestyle="none",
            marker="o",
            markersize=size,
            markeredgewidth=0,
            color=color,
            alpha=1.0 if series.look == "dots" else 0.35,
            label=label,
            zorder=3 if series.look == "dots" else 1,
        )
        return
    axes.plot(
        series.x,
        series.y,
        drawstyle="steps-post" if series.look == "steps" else "default",
        color=color,
        linestyle="-" if main else _DASHES[number % len(_DASHES)],
        linewidth=1.6 if main else 1.0,
        # Not on a line between two places that were not measured.
        marker="o" if series.look == "line" and len(series.x) in _MARKED else None,
        markersize=2.4,
        label=label,
        zorder=3 if main else 2,
    )


def _legend(figure: Figure) -> None:
    """One for all panels, below them, where no curve can run through it."""
    known: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            known.setdefault(label, handle)
    if not known:
        return
    # Bands belong to all the lines before them.
    named = sorted(known.items(), key=lambda one: isinstance(one[1], PolyCollection))
    columns = min(len(known), 3 * min(len(figure.axes), _ACROSS))
    # As many as are not cut off.
    for count in range(columns, 0, -1):
        legend = figure.legend(
            [handle for _, handle in named],
            [label for label, _ in named],
            loc="outside lower left",
            ncols=count,
            frameon=False,
            fontsize=7,
        )
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
