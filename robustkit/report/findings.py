"""A picture for each finding that has one: what the check looked at."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import LogLocator, MaxNLocator

from robustkit.checks.effort_checks import after_half
from robustkit.checks.run_checks import sides
from robustkit.evaluation.results import Results
from robustkit.numerics.tensors import Array
from robustkit.report import words

__all__ = ["picture"]

# Room for letters as large as a narrow screen needs them.
_WIDTH, _HEIGHT = 600, 284
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 568, 16, 250
_ROOM = 84
_THIN = 12
# Off the scale of a picture, in the direction of its sign.
_FARTHEST = 3.0


def picture(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """A figure in HTML with an inline SVG, in the colours of the report's page.

    Args:
        results: The run that the finding is about.
        finding: As in findings.json.
        measured: As there.

    Returns:
        Empty where there is nothing to draw.
    """
    draw = _PICTURES.get(finding["id"])
    return Markup() if draw is None else draw(results, finding, measured)


def _traces(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """S1, S2: margin and distance against steps, of the samples it was seen at."""
    norm, attack = _subject(results, finding)
    if not attack:
        return Markup()
    traced = results.traced(attack, norm)
    seen = traced.at(np.flatnonzero(np.isin(traced.index, finding["samples"])))
    if len(seen) == 0:
        return Markup()
    trace = seen.trace
    steps = np.arange(trace.margin.shape[1]) * trace.stride[:, None]
    first = np.where(trace.first_margin > 0, trace.first_margin, np.nan)[:, None]
    # The last question of all belongs to it.
    margin = np.column_stack([trace.margin, trace.last_margin]) / first
    ends = np.column_stack([steps, trace.steps - 1])
    found = bool((trace.first_adversarial >= -1).mean() > 0.5)
    distance = np.where(np.isfinite(trace.best_distance), trace.best_distance, np.nan)
    across = f"step of {attack}"
    label = "margin, as a share of the first"
    figures = [_lines(ends, margin.clip(-1, 1.5), label, 0.0, across)]
    if found:
        label = f"distance of the nearest adversarial, {words.norm_name(norm)}"
        figures.append(_lines(steps, distance, label, math.nan, across))
    says = (
        f"{len(seen)} samples that it was seen at, {min(len(seen), _THIN)} of them "
        "thin; thick: the median. Below zero a margin is adversarial."
    )
    return _figure(figures, says)


def _gradients(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """G3: what the margin does along its gradient, over what the gradient says."""
    kept = measured.get("gradients")
    if not kept:
        return Markup()
    shares = np.array(kept["shares"], dtype=float)
    ratio = np.array(kept["ratio"], dtype=float).reshape((-1, len(shares)))
    sizes = shares * kept["epsilon"]
    low, high = float(sizes[0]) / 2, float(sizes[-1]) * 2
    axes = _Axes(low, high, -_FARTHEST, _FARTHEST, logarithmic=True)
    body = _grid(axes, sizes.tolist(), [-3, -2, -1, 0, 1, 2, 3])
    body += _path("best", axes, np.array([low, high]), np.ones(2))
    for place, size in enumerate(sizes.tolist()):
        column = ratio[:, place]
        column = np.sort(column[np.isfinite(column)]).clip(-_FARTHEST, _FARTHEST)
        # Side by side, so that equal ones can be told apart.
        spread = np.exp(np.linspace(-0.5, 0.5, len(column)))
        body += _dots(axes, size * spread, column, "pip")
    label = "length of the step along the gradient's sign, input units; logarithmic"
    says = (
        "What the margin did along its gradient, over what the gradient says: a dot "
        "for each sample, cut off at 3. On the line at 1 they agree; below 0 the "
        "gradient points the wrong way."
    )
    return _figure([_svg(body, label, "change seen over change told")], says)


def _success(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """C1, C4, C7, C8, S4: success of the trials, or of the run, against epsilon."""
    kept = measured.get("trials")
    if not finding.get("trial"):
        # C1, C4 and S4 are findings about a run's own attacks, too.
        of_run = _halves if finding["id"] == "C4" else _accuracy
        return of_run(results, finding, measured)
    if not kept:
        return Markup()
    sizes = np.array(kept["epsilons"], dtype=float)
    success = np.array(kept["success"], dtype=float)
    low, high = float(sizes[0]) / 1.3, float(sizes[-1]) * 1.3
    axes = _Axes(low, high, 0, 1, logarithmic=True)
    body = _grid(axes, sizes.tolist(), [0, 0.25, 0.5, 0.75, 1], percent=True)
    body += _path("best", axes, sizes, success) + _dots(axes, sizes, success)
    marks = [("twice the steps", kept["at"], kept["doubled"])]
    marks += [("targets", kept["at"], kept["targeted"])]
    if kept["fixed"] is not None:
        marks.append(("randomness held still", sizes[-1], kept["fixed"]))
    for share, size in zip(kept["undefended"] or (), sizes[-2:], strict=False):
        marks.append(("without the defense", size, share))
    names = list(dict.fromkeys(name for name, *_ in marks))
    for name, size, share in marks:
        x, y = axes.place(np.array([size]), np.array([share]))
        style = names.index(name)
        body += Markup(
            '<circle class="attack c{}" fill="none" cx="{}" cy="{}" r="{}"/>'
        ).format(style, x[0], y[0], 7 + 3 * style)
    attack = kept["attack"].partition("(")[0]
    said = ", ".join(f"{name} (ring {place + 1})" for place, name in enumerate(names))
    says = (
        f"How many of {kept['samples']} samples {attack} breaks within each size, with "
        f"a fresh start at each; success may not fall. Rings, from the inside: {said}."
    )
    label = f"{words.axis_label(kept['norm'])}; logarithmic"
    return _figure([_svg(body, label, "samples broken")], says)


def _halves(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """C4: success against size after half of a run's steps, and after all."""
    norm, _ = _subject(results, finding)
    known = after_half(results, norm) if norm else None
    if known is None:
        return Markup()
    index, half, whole = known
    finite = np.concatenate([d[np.isfinite(d) & (d > 0)] for d in (half, whole)])
    high = 1.1 * float(finite.max()) if len(finite) else 1.0
    axes = _Axes(0.0, high, 0, 1)
    body = _grid(axes, _even(0, high), [0, 0.25, 0.5, 0.75, 1], percent=True)
    grid = np.linspace(0, high, 200)
    for kind, distance in (("attack c0", half), ("best", whole)):
        share = (distance[None] <= grid[:, None]).mean(axis=1)
        body += _path(kind, axes, grid, share)
    says = (
        f"Success against size of {len(index)} samples with traces: after half of the "
        "steps of all attacks (thin), and after all of them (thick). Of attacks that "
        "are done, both are the same."
    )
    return _figure([_svg(body, words.axis_label(norm), "samples broken")], says)


def _accuracy(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """S4, C2, C10: success of a run's attacks against epsilon."""
    norm, _ = _subject(results, finding)
    if not norm:
        return Markup()
    names = results.attacks(norm)
    every = [results.distances(norm)] + [results.distances(norm, n) for n in names]
    finite = np.concatenate([d[np.isfinite(d) & (d > 0)] for d in every])
    high = 1.1 * float(finite.max()) if len(finite) else 1.0
    if finding["id"] == "C2":
        lower, upper = results.run["config"]["bounds"]
        high = max(high, 0.55 * (upper - lower))
    axes = _Axes(0.0, high, 0, 1)
    body = _grid(axes, _even(0, high), [0, 0.25, 0.5, 0.75, 1], percent=True)
    grid = np.linspace(0, high, 200)
    for place, distance in enumerate(every):
        known = distance[~np.isnan(distance)]
        success = (
            (known[None] <= grid[:, None]).mean(axis=1) if len(known) else 0 * grid
        )
        kind = "best" if place == 0 else f"attack c{(place - 1) % 5}"
        body += _path(kind, axes, grid, success)
    says = (
        f"Success against size: all attacks together (thick), {', '.join(names)} "
        "(thin). At the right end every sample should be broken."
    )
    return _figure([_svg(body, words.axis_label(norm), "samples broken")], says)


def _versus(
    results: Results, finding: Mapping[str, Any], measured: Mapping[str, Any]
) -> Markup:
    """C3, C5, C6: the weaker side's distances against the stronger's."""
    norm, _ = _subject(results, finding)
    compared = sides(results, norm, finding["id"]) if norm else None
    if compared is None:
        return Markup()
    weak, strong = compared
    one, other = weak.distance, strong.distance
    finite = np.concatenate([d[np.isfinite(d) & (d > 0)] for d in (one, other)])
    if len(finite) == 0:
        return Markup()
    low, high = float(finite.min()) / 1.2, float(finite.max()) * 1.5
    axes = _Axes(low, high, low, high, logarithmic=True, upright=True)
    ticks = [t for t in _decades(low, high)]
    body = _grid(axes, ticks, ticks)
    ends = np.array([low, high])
    body += _path("axis", axes, ends, ends)
    both = (one > 0) & (other > 0) & (np.isfinite(one) | np.isfinite(other))
    x, y = (np.where(np.isfinite(d), d, high)[both] for d in (other, one))
    wins = one[both] < 0.99 * other[both]
    body += _dots(axes, x[~wins], y[~wins], "ring") + _dots(
        axes, x[wins], y[wins], "pip"
    )
    says = (
        f"A dot for each sample: {', '.join(strong.attacks)} (across) against "
        f"{', '.join(weak.attacks)} (upwards). Dark dots, below the diagonal, are "
        "nearer by the side that should be the weaker one; at the edge: none found."
    )
    label = f"{words.norm_name(norm)} distance by the stronger side; logarithmic"
    return _figure([_svg(body, label, "distance by the weaker side")], says)


_Draw = Callable[[Results, Mapping[str, Any], Mapping[str, Any]], Markup]
_PICTURES: dict[str, _Draw] = {
    "G3": _gradients,
    "S1": _traces,
    "S2": _traces,
    "S4": _success,
    "C1": _success,
    "C2": _accuracy,
    "C3": _versus,
    "C4": _success,
    "C5": _versus,
    "C6": _versus,
    "C7": _success,
    "C8": _success,
    "C10": _accuracy,
}


def _subject(results: Results, finding: Mapping[str, Any]) -> tuple[str, str]:
    """The one norm of the run, and the attack, that a finding is about; empty: none."""
    norms = finding.get("norms", ())
    if len(norms) != 1 or norms[0] not in results.norms:
        return "", ""
    attack = finding.get("attack")
    return norms[0], attack if attack in results.attacks(norms[0]) else ""


@dataclass(frozen=True)
class _Axes:
    """From values to places in the drawing."""

    left: float
    right: float
    bottom: float
    top: float
    logarithmic: bool = False
    upright: bool = False

    def place(self, x: Array, y: Array) -> tuple[Array, Array]:
        across = _share(x, self.left, self.right, self.logarithmic)
        up = _share(y, self.bottom, self.top, self.upright)
        return (
            np.round(_LEFT + (_RIGHT - _LEFT) * across, 1),
            np.round(_BOTTOM - (_BOTTOM - _TOP) * up, 1),
        )


def _share(values: Array, low: float, high: float, logarithmic: bool) -> Array:
    values = np.asarray(values, dtype=float)
    if logarithmic:
        values, low, high = (
            np.log(np.maximum(values, low)),
            math.log(low),
            math.log(high),
        )
    return np.clip((values - low) / (high - low), 0, 1)


def _lines(
    steps: Array, values: Array, label: str, level: float, across: str
) -> Markup:
    """Thin lines for the first samples, and the median of all."""
    known = np.isfinite(values)
    if not known.any():
        return Markup()
    low, high = float(values[known].min()), float(values[known].max())
    low, high = (min(low, level), max(high, level)) if level == level else (low, high)
    pad = 0.05 * (high - low or 1.0)
    last = max(float(steps[known].max()), 1.0)
    axes = _Axes(0.0, last, low - pad, high + pad)
    body = _grid(axes, _even(0, last), _even(low - pad, high + pad))
    if level == level:
        body += _path("axis", axes, np.array([0.0, last]), np.full(2, level))
    for row in range(min(len(values), _THIN)):
        chosen = known[row]
        body += _path("attack c4", axes, steps[row][chosen], values[row][chosen])
    grid = np.unique(steps[known])
    at = [
        np.interp(grid, s[k], v[k], right=np.nan)
        for s, v, k in zip(steps, values, known, strict=True)
        if k.any()
    ]
    middle = np.nanmedian(at, axis=0)
    return _svg(body + _path("best", axes, grid, middle), across, label)


def _grid(
    axes: _Axes, across: Sequence[float], up: Sequence[float], *, percent: bool = False
) -> Markup:
    out = Markup()
    free = 0.0
    for value in up:
        _, y = axes.place(np.array([axes.left]), np.array([value]))
        said = f"{100 * value:.0f}{words.SPACE}%" if percent else _short(value)
        out += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            '<text x="{}" y="{}" text-anchor="end">{}</text>'
        ).format(_LEFT, _RIGHT, y[0], y[0], _LEFT - 8, y[0] + 4.5, said)
    for value in across:
        x, _ = axes.place(np.array([value]), np.array([axes.bottom]))
        out += Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            x[0], x[0], _BOTTOM, _BOTTOM + 5
        )
        if x[0] >= free:
            free = float(x[0]) + _ROOM
            out += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x[0], _BOTTOM + 26, _short(value)
            )
    return out


def _path(kind: str, axes: _Axes, x: Array, y: Array) -> Markup:
    known = np.isfinite(x) & np.isfinite(y)
    across, up = axes.place(np.asarray(x)[known], np.asarray(y)[known])
    points = "L".join(f"{a:g},{b:g}" for a, b in zip(across, up, strict=True))
    return (
        Markup('<path class="{}" fill="none" d="M{}"/>').format(kind, points)
        if (points)
        else Markup()
    )


def _dots(axes: _Axes, x: Array, y: Array, kind: str = "dot") -> Markup:
    across, up = axes.place(x, y)
    return Markup().join(
        Markup('<circle class="{}" cx="{:g}" cy="{:g}" r="3.2"/>').format(kind, a, b)
        for a, b in zip(across.tolist(), up.tolist(), strict=True)
    )


def _svg(body: Markup, across: str, up: str) -> Markup:
    """A drawing between the names of its axes, which may need more than one line."""
    return Markup(
        '<div class="along">{}</div>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<div class="along end">{}</div>'
    ).format(up, _WIDTH, _HEIGHT, f"{up} against {across}", body, across)


def _figure(parts: Sequence[Markup], says: str) -> Markup:
    whole = Markup().join(parts)
    return Markup(
        '<figure class="of-finding">{}<figcaption class="quiet small">{}'
        "</figcaption></figure>"
    ).format(whole, escape(says))


def _even(low: float, high: float) -> list[float]:
    values = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low <= v <= high]


def _decades(low: float, high: float) -> list[float]:
    several = math.log10(high / low) > 2
    values = LogLocator(subs=(1,) if several else (1, 2, 5)).tick_values(low, high)
    return [float(v) for v in values if low <= v <= high]


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
