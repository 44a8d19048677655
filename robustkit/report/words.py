"""Numbers as people read them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustkit.evaluation.curve import Interval
from robustkit.evaluation.results import NOT_WARRANTED

__all__ = [
    "DASH",
    "SPACE",
    "axis_label",
    "class_name",
    "cut_off",
    "epsilon",
    "evidence",
    "explanation",
    "factor",
    "in_255ths",
    "interval",
    "norm_name",
    "percent",
    "points",
    "size",
    "symbol",
    "warranted",
    "warrants",
]

# How many of the samples of a finding are named.
_FIRST_SAMPLES = 10

SPACE = "\N{NARROW NO-BREAK SPACE}"
DASH = "\N{EN DASH}"
_ROUNDING = 1e-9

_NORMS = {
    "linf": ("L", "\N{INFINITY}", "largest change of any one value, in input units"),
    "l2": ("L", "2", "Euclidean length of the change, in input units"),
    "l1": ("L", "1", "sum of the changes of all values, in input units"),
    "l0": ("L", "0", "number of values changed"),
    "l0-pixels": ("L", "0 (pixels)", "number of pixels changed"),
}


def symbol(norm: str) -> tuple[str, str]:
    """A norm's letter and its subscript."""
    return _NORMS[norm][:2] if norm in _NORMS else (norm, "")


def norm_name(norm: str) -> str:
    """A norm in plain text."""
    return "".join(symbol(norm))


def explanation(norm: str) -> str:
    """What a norm measures, and its unit."""
    return _NORMS[norm][2] if norm in _NORMS else "norm units"


def cut_off(count: int) -> str:
    """That attacks on so many samples did not come to their end; of none nothing.

    >>> cut_off(0)
    ''
    """
    if count == 0:
        return ""
    return (
        f"on {count:,} sample{'s' if count > 1 else ''} attacks were ended before they "
        "were done, by the time limit or as the model raised; what they had found "
        "counts, and samples.csv has the reasons"
    )


def axis_label(norm: str) -> str:
    """What stands along an axis of perturbation sizes."""
    if norm not in _NORMS:
        return f"size of the perturbation in {norm}"
    if norm.startswith("l0"):
        return explanation(norm)
    return f"{norm_name(norm)} size of the perturbation, in input units"


def percent(share: float, count: int) -> str:
    """A share of `count` samples, without digits that so few do not bear.

    Neither 0 % nor 100 % is said unless it is exactly that.

    >>> percent(0.6338028169, 71).split()
    ['63', '%']
    >>> percent(0.999, 500).split()
    ['>', '99', '%']
    """
    if math.isnan(share):
        return "not known"
    decimals = _decimals(count)
    number, least = 100 * share, 10.0**-decimals
    if share > 0 and round(number, decimals) == 0:
        return f"<{SPACE}{least:.{decimals}f}{SPACE}%"
    if share < 1 and round(number, decimals) == 100:
        return f">{SPACE}{100 - least:.{decimals}f}{SPACE}%"
    return f"{number:.{decimals}f}{SPACE}%"


def points(difference: Interval) -> tuple[str, str]:
    """A difference of two shares in percentage points, and the ends of its interval.

    >>> points(Interval(0.125, -0.25, 0.5))
    ('+12.5', '-25.0 to +50.0')
    """
    at, low, high = (
        f"{100 * value:+.1f}"
        for value in (difference.estimate, difference.lower, difference.upper)
    )
    return at, f"{low} to {high}"


def interval(value: Interval, count: int) -> str:
    """The ends of an interval, rounded outwards.

    >>> interval(Interval(0.5, 0.4161, 0.5839), 60)[:5].replace(DASH, "-")
    '41-59'
    """
    decimals = _decimals(count)
    scale = 10.0**decimals
    lower = math.floor(100 * value.lower * scale + _ROUNDING) / scale
    upper = math.ceil(100 * value.upper * scale - _ROUNDING) / scale
    return f"{lower:.{decimals}f}{DASH}{upper:.{decimals}f}{SPACE}%"


def size(value: float) -> str:
    """A perturbation size with three digits, or fewer where they say it exactly.

    >>> size(0.10981), size(0.1), size(3.0)
    ('0.110', '0.1', '3')
    """
    if math.isnan(value):
        return "not known"
    if math.isinf(value):
        return "not found"
    short = f"{value:.3g}"
    if float(short) == value and "e" not in short:
        return short
    if not 1e-4 <= abs(value) < 1e4:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(digits, 0)}f}"


def in_255ths(value: float, norm: str, bounds: tuple[float, float]) -> str:
    """A size in grey levels of 8 bits, where that is customary; else nothing.

    >>> in_255ths(0.1, "linf", (0, 1))
    '25.5/255'
    """
    if norm != "linf" or tuple(bounds) != (0, 1) or not 0 <= value < 1:
        return ""
    levels = 255 * value
    if abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{size(levels)}/255"


def epsilon(value: float, norm: str, bounds: tuple[float, float]) -> tuple[str, str]:
    """A size that was asked about: the form people use first, then the other."""
    levels = in_255ths(value, norm, bounds)
    if levels and "." not in levels and round(value, 3) != value:
        return levels, size(value)
    return size(value), levels


def class_name(label: int, names: Sequence[str] | None) -> str:
    """A class as people call it; its number where it has no name."""
    return names[label] if names and 0 <= label < len(names) else str(label)


def factor(ratio: Interval) -> str:
    """A ratio and its interval.

    >>> factor(Interval(1.25, 1.1, 1.5))
    '1.250 (1.100 to 1.500)'
    """
    return f"{ratio.estimate:.3f} ({ratio.lower:.3f} to {ratio.upper:.3f})"


def warranted(attacks: Mapping[str, Any]) -> bool:
    """Whether some attack of a norm's summary passed its active test."""
    return any(attack["warrant"]["verdict"] == "PASS" for attack in attacks.values())


def warrants(attacks: Mapping[str, Any]) -> str:
    """What active tests say about the attacks of a norm's summary, in a sentence."""
    tests = {name: attack["warrant"] for name, attack in attacks.items()}
    if all(test["verdict"] == NOT_WARRANTED for test in tests.values()):
        return (
            "Not warranted: no active test was run that shows whether these attacks "
            "could have found adversarials of this model (robustkit eval --warrant)."
        )
    said = []
    for name, test in tests.items():
        at = "" if test["epsilon"] is None else f" at {size(test['epsilon'])}"
        rate = ""
        found, luck = test["success_rate"], test["random_rate"]
        # Without a witness there is a rate of nothing.
        if found and luck and None not in (found["estimate"], luck["estimate"]):
            rate = (
                f" (found {100 * found['estimate']:.0f} % of the adversarials known "
                f"to exist, random search {100 * luck['estimate']:.0f} %)"
            )
        said.append(f"{name} {test['verdict']}{at}{rate}")
    start = "Warrant" if warranted(attacks) else "Not warranted"
    return f"{start}, by active tests: {'; '.join(said)}."


def _decimals(count: int) -> int:
    return 0 if count < 1000 else 1


def evidence(finding: Mapping[str, Any]) -> str:
    """The numbers that a finding rests on, and at how many samples it was seen."""
    parts = [
        f"{name} not known" if value is None else f"{name} {value:.4g}"
        for name, value in finding["evidence"].items()
    ]
    samples = finding["samples"]
    if samples:
        first = ", ".join(map(str, samples[:_FIRST_SAMPLES]))
        more = " and others" if len(samples) > _FIRST_SAMPLES else ""
        parts.append(f"at {len(samples)} samples: {first}{more}")
    return "; ".join(parts)
