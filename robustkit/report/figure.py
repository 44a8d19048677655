"""Figures for print: minimum-perturbation curves, and distances against queries."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustkit.evaluation.results import Results
from robustkit.report import words
from robustkit.report.panel import Panel, QueryLine, look_at, query_lines

__all__ = ["save_figure", "save_queries"]

# Okabe and Ito's colours, which all common forms of colour vision tell apart.
_BEST = "#0072b2"
_ATTACKS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")
_INK, _MUTED = "#222222", "#767676"
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8,
    "svg.hashsalt": "robustkit",  # Else the names in the file are random.
    "text.color": _INK,
    "xtick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}
_PANEL = (4.4, 3.3)  # Inches.


def save_figure(results: Results, folder: Path) -> None:
    """Write curve.png and curve.svg: one panel per norm; equal results, equal bytes."""
    panels = [look_at(results, norm) for norm in results.norms]
    # The user's own matplotlib settings stay out of it, and as they are.
    with style.context(["default", _SETTINGS]):
        figure = Figure(
            figsize=(_PANEL[0] * len(panels), _PANEL[1]), layout="constrained"
        )
        FigureCanvasAgg(figure)
        # Names come from the user: a dollar sign in one is no formula.
        with matplotlib.rc_context({"text.parse_math": False}):
            for place, panel in enumerate(panels):
                axes = figure.add_subplot(1, len(panels), place + 1)
                _draw(axes, panel)
            _legend(figure)
            figure.savefig(folder / "curve.png", dpi=220, metadata={"Software": None})
            figure.savefig(folder / "curve.svg", metadata={"Date": None})


def save_queries(results: Results, folder: Path) -> bool:
    """Write queries.png and queries.svg, for attacks that took no backward pass.

    One panel per norm: the median distance and its quartiles against forward passes.

    Returns:
        Whether there was any such attack with something to show.
    """
    panels = {
        norm: lines for norm in results.norms if (lines := query_lines(results, norm))
    }
    if not panels:
        return False
    with style.context(["default", _SETTINGS]):
        figure = Figure(
            figsize=(_PANEL[0] * len(panels), _PANEL[1]), layout="constrained"
        )
        FigureCanvasAgg(figure)
        with matplotlib.rc_context({"text.parse_math": False}):
            for place, (norm, lines) in enumerate(panels.items()):
                axes = figure.add_subplot(1, len(panels), place + 1)
                _draw_queries(axes, norm, lines)
            _legend(figure)
            figure.savefig(folder / "queries.png", dpi=220, metadata={"Software": None})
            figure.savefig(folder / "queries.svg", metadata={"Date": None})
    return True


def _draw_queries(axes: Any, norm: str, lines: tuple[QueryLine, ...]) -> None:
    for line in lines:
        color = _ATTACKS[line.style % len(_ATTACKS)]
        axes.fill_between(
            line.counts, line.lower, line.upper, color=color, alpha=0.14, linewidth=0
        )
        axes.plot(
            line.counts,
            line.median,
            color=color,
            linestyle=_DASHES[line.style % len(_DASHES)],
            linewidth=1.2,
            marker="o",
            markersize=2.4,
            label=line.name,
        )
    axes.set_xscale("log")
    if norm != "l0" and min(line.median.min() for line in lines) > 0:
        axes.set_yscale("log")
    axes.minorticks_off()
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(words.norm_name(norm), fontsize=10, loc="left")
    axes.set_xlabel("forward passes per sample")
    axes.set_ylabel("median size, with quartiles")


def _draw(axes: Any, panel: Panel) -> None:
    best, percents = panel.best, 100 * panel.best.shares
    half = 100 * panel.band
    axes.fill_between(
        best.sizes,
        np.clip(percents - half, 0, 100),
        np.clip(percents + half, 0, 100),
        step="post",
        color=_BEST,
        alpha=0.14,
        linewidth=0,
        label=f"95{words.SPACE}% band, whole curve",
    )
    axes.step(
        best.sizes,
        percents,
        where="post",
        color=_BEST,
        linewidth=1.6,
        label=best.name,
        zorder=3,
    )
    for line in panel.attacks:
        axes.step(
            line.sizes,
            100 * line.shares,
            where="post",
            color=_ATTACKS[line.style % len(_ATTACKS)],
            linestyle=_DASHES[line.style % len(_DASHES)],
            linewidth=0.8,
            label=line.name,
        )
    if panel.marks:
        sizes = [size for size, _ in panel.marks]
        middle, lower, upper = 100 * np.array([share for _, share in panel.marks]).T
        axes.errorbar(
            sizes,
            middle,
            [middle - lower, upper - middle],
            fmt="o",
            color=_INK,
            markersize=2.6,
            linewidth=0.8,
            clip_on=False,
            zorder=4,
            label=f"95{words.SPACE}% interval at one size",
        )
    if panel.logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(panel.low, panel.high)
    axes.set_xticks(panel.ticks, [words.size(tick) for tick in panel.ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(words.norm_name(panel.norm), fontsize=10, loc="left")
    axes.set_xlabel(words.axis_label(panel.norm))
    axes.set_ylabel("robust accuracy (%)")


def _legend(figure: Figure) -> None:
    """One for all panels, below them, where no curve can run through it."""
    known: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            known.setdefault(label, handle)
    columns = min(len(known), 3 * len(figure.axes))
    figure.legend(
        list(known.values()),
        list(known),
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=7,
    )
