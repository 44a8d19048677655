"""Which figures a report has, and what is on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betaincinv

from robustkit.evaluation.curve import CONFIDENCE, Curve
from robustkit.evaluation.envelope import Envelope
from robustkit.evaluation.power_law import PowerLaw
from robustkit.evaluation.results import Results
from robustkit.numerics.tensors import Array
from robustkit.report import words
from robustkit.report.chart import Axis, Chart, Mark, Series, axis
from robustkit.report.spectrum import Spectrum

__all__ = [
    "Named",
    "attack_order",
    "curve_chart",
    "envelope_chart",
    "joint_confidence",
    "passes_charts",
    "power_law_chart",
    "spectrum_chart",
]

# A farthest perturbation that many times the median leaves no room for the others.
_LONG_TAIL = 12
_DECADES = 4
# So many samples are enough to see an envelope.
_SAMPLES = 200
_LAW_PLACES = 40


@dataclass(frozen=True)
class Named:
    """A run and what the report calls it.

    Attributes:
        name: Short, and different from those of the other runs.
        results: Of the run.
    """

    name: str
    results: Results

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in summary.json; it takes a while, so it is made once."""
        return self.results.summary()


def attack_order(results: Results) -> list[str]:
    """Names of all attacks of a run, each once."""
    names = (name for norm in results.norms for name in results.attacks(norm))
    return list(dict.fromkeys(names))


def joint_confidence(runs: int) -> float:
    """Of each run's band, so that all bands hold at once with `CONFIDENCE`.

    >>> joint_confidence(1), round(joint_confidence(5), 3)
    (0.95, 0.99)
    """
    return 1 - (1 - CONFIDENCE) / max(runs, 1)


def curve_chart(runs: Sequence[Named], norm: str) -> Chart:
    """Robust accuracy against the size of the perturbation.

    Of one run with its attacks, the curve of certified accuracy where there are lower
    bounds, and the sizes asked about; or of several runs. Each with a band that holds
    the whole curve at once, and all bands together.
    """
    curves = [run.results.curve(norm) for run in runs]
    epsilons = runs[0].results.run["config"]["epsilons"][norm]
    sizes = _size_axis(norm, np.concatenate([c.distance for c in curves]), epsilons)
    confidence = joint_confidence(len(runs))
    lines = [
        _steps(run.name, place, curve, sizes, curve.band(confidence))
        for place, (run, curve) in enumerate(zip(runs, curves, strict=True))
    ]
    marks: tuple[Mark, ...] = ()
    if len(runs) == 1:
        results, curve = runs[0].results, curves[0]
        bounds = tuple(results.run["config"]["bounds"])
        attacks = _attack_lines(results, norm, sizes)
        name = "nearest adversarial" + (" of all attacks" if attacks else "")
        lines = [*attacks, replace(lines[0], style=None, name=name)]
        marks = tuple(
            Mark(e, words.epsilon(e, norm, bounds)[0], curve.robust_accuracy(e))
            for e in epsilons
            if sizes.low <= e <= sizes.high and len(curve.distance)
        )
    for place, run in enumerate(runs):
        certified = run.results.lower_curve(norm)
        if certified is not None:
            # The other side of the curve: the truth lies between.
            whose = "" if len(runs) == 1 else f"{run.name}, "
            others = attack_order(run.results) if len(runs) == 1 else runs
            style = len(others) + place
            line = _steps(f"{whose}certified", style, certified, sizes, None)
            lines = [line, *lines]
    percent = words.percent(CONFIDENCE, 1)
    return Chart(
        name="curve",
        title=words.norm_name(norm),
        says="Robust accuracy against perturbation size",
        x=sizes,
        y=_share_axis("robust accuracy"),
        series=tuple(lines),
        marks=marks,
        band=f"{percent} band of {'the whole curve' if len(runs) == 1 else 'all'}",
        mark=f"{percent} interval at one size",
    )


def envelope_chart(
    run: Named, norm: str, found: Envelope, order: Sequence[str]
) -> Chart | None:
    """Each sample's distance by each attack, the samples in the order of the nearest.

    None for a single attack, or where nothing was found.

    Args:
        run: Whose attacks are shown.
        norm: Whose distances.
        found: Their envelope.
        order: Names of the attacks of all runs shown, which gives each its style.
    """
    finite = int(np.isfinite(found.nearest).sum())
    if len(found.distance) < 2 or finite == 0:
        return None
    places = np.linspace(0, finite - 1, min(finite, _SAMPLES)).round().astype(int)
    places = np.unique(places)
    nearest = found.nearest[places]
    shares = (places + 0.5) / len(found.nearest)
    heights = _size_axis(norm, found.nearest[:finite], ())
    hazes, dots = [], []
    for name, distance in found.distance.items():
        own = distance[places]
        style = order.index(name)
        wins = own == nearest
        near = ~wins & (own <= heights.high)
        hazes.append(Series("", style, "haze", shares[near], own[near]))
        dots.append(Series(name, style, "dots", shares[wins], own[wins]))
    line = Series("nearest of all", None, "line", shares, nearest)
    return Chart(
        name="envelope",
        title=run.name,
        says="The distance of each sample by each attack, and the nearest of all",
        x=_share_axis("samples attacked, from the nearest to the farthest"),
        y=replace(heights, label=f"{words.norm_name(norm)} size"),
        series=(*hazes, line, *(d for d in dots if len(d.x))),
    )


def passes_charts(
    runs: Sequence[Named], norm: str
) -> tuple[Chart | None, Chart | None]:
    """Distances against passes, in two charts.

    The first has the medians and quartiles of the attacks that took no backward pass,
    None where there are none; the second the medians of all attacks, None where the
    first shows all of them.
    """
    lines = _against_passes(runs, norm)
    queries = [line for line, gradient in lines if not gradient]
    every = [replace(line, lower=None, upper=None) for line, _ in lines]
    return (
        _passes("queries", norm, queries, "median size, with quartiles", "quartiles"),
        _passes("passes", norm, every, "median size", "")
        if len(queries) < len(lines)
        else None,
    )


def power_law_chart(
    runs: Sequence[Named], norm: str, laws: Sequence[PowerLaw | None]
) -> Chart | None:
    """The error that an adversary adds against epsilon, both logarithmic, and its law.

    None where no run has a law.
    """
    series: list[Series] = []
    for place, (run, law) in enumerate(zip(runs, laws, strict=True)):
        if law is None:
            continue
        style = None if len(runs) == 1 else place
        positive = np.sort(_added(run.results.distances(norm)))
        total = len(run.results.index)
        # As far again as the law was fitted, to see where it ends.
        shown = positive[: 2 * law.samples + 1]
        rows = np.geomspace(1, len(shown), _LAW_PLACES).round().astype(int)
        counts = np.unique(rows)
        tail = (1 - CONFIDENCE) / 2
        series.append(
            Series(
                name="law" if style is None else "",
                style=0 if style is None else place,
                look="line",
                x=(ends := np.array([shown[0], law.limit])),
                y=law.error(ends),
            )
        )
        series.append(
            Series(
                name="observed" if style is None else run.name,
                style=style,
                look="dots",
                x=shown[counts - 1],
                y=counts / total,
                lower=betaincinv(counts, total - counts + 1, tail),
                upper=betaincinv(counts + 1, total - counts, 1 - tail),
            )
        )
    if not series:
        return None
    x = np.concatenate([line.x for line in series])
    y = np.concatenate([line.y for line in series])
    low = min(float(line.lower.min()) for line in series if line.lower is not None)
    return Chart(
        name="power-law",
        title=words.norm_name(norm),
        says="The error an adversary adds against the size of the perturbation, both "
        "on logarithmic axes, with the power law fitted to it",
        x=axis(
            words.axis_label(norm),
            float(x.min()) / 1.1,
            1.1 * float(x.max()),
            logarithmic=True,
        ),
        y=axis(
            "samples with an adversarial",
            max(low, float(y.min()) / 10),
            min(1.0, 1.6 * float(y.max())),
            logarithmic=True,
            show=_percent,
        ),
        series=tuple(series),
        band=f"{words.percent(CONFIDENCE, 1)} interval at one size",
    )


def spectrum_chart(
    runs: Sequence[Named],
    spectra: Sequence[Spectrum | None],
    inputs: Spectrum | None,
) -> Chart | None:
    """Relative power of perturbations, and of the inputs, by spatial frequency.

    None where there are no images.
    """
    series = [
        Series(
            name="perturbations" if len(runs) == 1 else run.name,
            style=None if len(runs) == 1 else place,
            look="line",
            x=found.frequency,
            y=found.median,
            lower=found.lower,
            upper=found.upper,
        )
        for place, (run, found) in enumerate(zip(runs, spectra, strict=True))
        if found is not None
    ]
    if not series:
        return None
    if inputs is not None:
        style = 0 if len(runs) == 1 else len(runs)
        series.insert(
            0,
            Series("the inputs", style, "line", inputs.frequency, inputs.median),
        )
    values = np.concatenate([np.concatenate([s.y, _band(s)]) for s in series])
    positive = values[values > 0]
    high = max(2.0, 1.3 * float(positive.max()))
    low = min(0.5, max(float(positive.min()) / 1.3, high / 1e6))
    return Chart(
        name="spectrum",
        title="",
        says="Power by spatial frequency, relative to white noise",
        x=axis("spatial frequency, in cycles per pixel", 0.0, 0.5),
        y=axis("power (white noise: 1)", low, high, logarithmic=True),
        series=tuple(series),
        band="quartiles over samples",
    )


def _band(series: Series) -> Array:
    ends = [end for end in (series.lower, series.upper) if end is not None]
    return np.concatenate(ends) if ends else np.zeros(0)


def _attack_lines(results: Results, norm: str, sizes: Axis) -> list[Series]:
    """Of each attack, if there are several."""
    names, order = results.attacks(norm), attack_order(results)
    if len(names) < 2:
        return []
    return [
        _steps(name, order.index(name), curve, sizes, None)
        for name in names
        for curve in [Curve.of_attack(results.distances(norm, name))]
    ]


def _added(distance: Array) -> Array:
    return distance[np.isfinite(distance) & (distance > 0)]


def _size_axis(norm: str, distance: Array, epsilons: Sequence[float]) -> Axis:
    """One for perturbation sizes, on which the distances can be told apart."""
    positive = _added(distance)
    if len(positive) == 0:
        positive = np.array(epsilons or [1.0], dtype=float)
    # At least one of the sizes asked about is shown.
    high = 1.05 * max(float(positive.max()), min(epsilons, default=0.0))
    logarithmic = bool(high > _LONG_TAIL * np.median(positive))
    low = max(float(positive.min()) / 1.2, high / 10**_DECADES) if logarithmic else 0.0
    return axis(words.axis_label(norm), low, high, logarithmic=logarithmic)


def _share_axis(label: str) -> Axis:
    ticks = tuple((k / 4, f"{25 * k}{words.SPACE}%") for k in range(5))
    return Axis(label, 0.0, 1.0, False, ticks)


def _percent(share: float) -> str:
    return f"{100 * share:g}{words.SPACE}%"


def _steps(
    name: str, style: int, curve: Curve, sizes: Axis, band: float | None
) -> Series:
    """A curve cut to the axis; its first and last corners are the axis's ends."""
    if len(curve.distance) == 0:
        return Series(name, style, "steps", np.zeros(0), np.zeros(0))
    corners, shares = curve.steps()
    inside = (corners > sizes.low) & (corners < sizes.high)
    ends = np.array([sizes.low, sizes.high])
    at_low, at_high = shares[np.searchsorted(corners, ends, side="right") - 1]
    y = np.concatenate([[at_low], shares[inside], [at_high]])
    return Series(
        name=name,
        style=style,
        look="steps",
        x=np.concatenate([ends[:1], corners[inside], ends[1:]]),
        y=y,
        lower=None if band is None else (y - band).clip(0, 1),
        upper=None if band is None else (y + band).clip(0, 1),
    )


def _against_passes(runs: Sequence[Named], norm: str) -> list[tuple[Series, bool]]:
    """Median distances and quartiles after so many passes, from where there is one.

    Returns:
        For each attack its line, and whether it took backward passes.
    """
    lines, several = [], len(runs) > 1
    for place, run in enumerate(runs):
        results = run.results
        order = attack_order(results)
        before = sum(len(r.results.attacks(norm)) for r in runs[:place])
        for number, name in enumerate(results.attacks(norm)):
            style = before + number if several else order.index(name)
            curves = results.queries(name, norm)
            quartiles = np.array(
                [
                    [curve.quantile(q) for q in (0.25, 0.5, 0.75)]
                    for curve in curves.values()
                ]
            ).reshape((-1, 3))
            shown = np.isfinite(quartiles[:, 1])
            if not shown.any():
                continue
            lower, median, upper = quartiles[shown].T
            line = Series(
                name=f"{run.name}: {name}" if several else name,
                style=style,
                look="line",
                x=np.array(list(curves))[shown],
                y=median,
                lower=lower,
                upper=np.where(np.isfinite(upper), upper, np.nan),
            )
            lines.append((line, results.backward_passes(name, norm) > 0))
    return lines


def _passes(
    name: str, norm: str, lines: Sequence[Series], label: str, band: str
) -> Chart | None:
    if not lines:
        return None
    counts = np.concatenate([line.x for line in lines])
    values = np.concatenate([np.concatenate([line.y, _band(line)]) for line in lines])
    values = values[np.isfinite(values)]
    medians = np.concatenate([line.y for line in lines])
    low, high = 0.0, 1.05 * max(float(values.max()), 1e-300)
    logarithmic = not norm.startswith("l0") and float(medians.min()) > 0
    if logarithmic:
        positive = values[values > 0]
        low = max(float(positive.min()) / 1.1, float(medians.min()) / 10)
    return Chart(
        name=name,
        title=words.norm_name(norm),
        says=f"{label.capitalize()}, against forward passes",
        x=axis(
            "forward passes per sample",
            float(counts.min()) / 1.1,
            1.1 * float(counts.max()),
            logarithmic=True,
            show=lambda count: f"{round(count):,}",
        ),
        y=axis(
            f"{label} ({words.norm_name(norm)})", low, high, logarithmic=logarithmic
        ),
        series=tuple(lines),
        band=band,
    )
