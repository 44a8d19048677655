"""The results as tables for a terminal."""

import itertools
import math

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustkit.adaptive.adaptation import Adaptation, Step
from robustkit.checks.check import Findings
from robustkit.checks.finding import Severity, as_json
from robustkit.evaluation.compare import Comparison
from robustkit.evaluation.curve import Interval
from robustkit.evaluation.results import NOT_WARRANTED, Results
from robustkit.report import words

__all__ = ["print_adaptation", "print_comparison", "print_findings", "print_results"]

# As many sizes as fit on a terminal beside the rest.
_SIZES = 4

_STYLES = {
    Severity.INVALIDATES: "bold red",
    Severity.SUSPICIOUS: "yellow",
    Severity.NOTE: "dim",
}


def print_results(results: Results, console: Console) -> None:
    """Print clean accuracy, and for each norm its robust accuracies and attacks."""
    summary = results.summary()
    clean = Interval(**summary["clean_accuracy"])
    console.print(f"\nclean accuracy {_share(clean)} on {summary['samples']} samples")
    for norm, found in summary["norms"].items():
        console.print(_accuracies(norm, found))
        console.print(_attacks(found))
        style = None if words.warranted(found["attacks"]) else "yellow"
        said = words.warrants(found["attacks"])
        console.print(said, style=style, highlight=False, markup=False)
        if found["errors"]:
            console.print(
                f"{found['errors']} samples ended in an error and count as not robust; "
                "samples.csv has the reasons",
                style="bold red",
            )
        if stopped := words.cut_off(int(results.cut_off(norm).sum())):
            console.print(stopped, style="yellow", highlight=False)
    for note in results.run["notes"]:
        # Text of others: brackets in it are no markup.
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)


def print_findings(found: Findings, console: Console) -> None:
    """Print what the checks found, the worst first."""
    if not found.findings:
        console.print(
            f"no symptom that the checks know, on {found.samples} samples; that is no "
            "proof that the evaluation is sound"
        )
    for finding in found.findings:
        console.print(
            f"\n{finding.id} {finding.severity.name.lower()}",
            style=_STYLES[finding.severity],
            markup=False,
        )
        evidence = words.evidence(as_json(finding))
        for text in (finding.diagnosis, f"evidence: {evidence}", finding.remedy):
            console.print(Padding.indent(Text(text), 2))


def print_adaptation(found: Adaptation, console: Console) -> None:
    """Print what each remedy changed: number, finding, remedy, new number."""
    for norm, sizes in found.epsilons.items():
        shown = _chosen(sizes, found.epsilon[norm])
        table = Table(
            title=f"\n{norm}: robust accuracy as the findings are answered",
            title_justify="left",
        )
        for name in ("finding", "remedy"):
            table.add_column(name)
        for name in (*(f"at {size:.4g}" for size in shown), "passes", "nearer"):
            table.add_column(name, justify="right")
        for step in found.of(norm):
            table.add_row(
                ", ".join(step.findings),
                step.remedy,
                *(_percent(step.robust_accuracy(size).estimate) for size in shown),
                _each(step.forwards, found),
                f"{step.nearer}",
            )
        console.print(table)
        for step in found.of(norm):
            for line in _about(step):
                console.print(line, highlight=False, markup=False)
        console.print(_cost(found, norm), highlight=False, markup=False)
        for one in found.left_out:
            if one.norm == norm:
                console.print(
                    f"left out: {one.remedy}, for {', '.join(one.findings)}: it might "
                    f"have taken {_each(one.most, found)} passes per sample more",
                    style="yellow",
                    highlight=False,
                )
        if (enough := found.enough(norm)) is not None:
            console.print(
                f"with --adaptive-budget {enough} none of these had been left out",
                style="yellow",
                highlight=False,
            )
    if found.draws > 1:
        console.print(
            f"the model's answers are random: an adversarial counts if it is one in "
            f"more than half of {found.draws} fresh draws, at 95 % confidence",
            highlight=False,
        )


def _cost(found: Adaptation, norm: str) -> str:
    """What the remedies took, and what they might have."""
    plain, remedies = found.spent(norm)
    return (
        f"passes per sample: {_each(plain, found)} of the plain evaluation, "
        f"{_each(remedies, found)} of all remedies, of {found.total:,} at most; for "
        "measuring and confirming some more"
    )


def _each(passes: int, found: Adaptation) -> str:
    return f"{passes / len(found.index):,.0f}"


def _about(step: Step) -> list[str]:
    """What was chosen, and what went wrong."""
    lines = [f"{step.remedy}: {step.details}"] if step.details else []
    if step.appeared:
        lines.append(f"{step.remedy}: then there was {', '.join(step.appeared)}")
    return lines + [f"{step.remedy}: {name} failed: {w}" for name, w in step.failures]


def _chosen(sizes: tuple[float, ...], interest: float) -> list[float]:
    """A few of the sizes, that of most interest among them."""
    if len(sizes) <= _SIZES:
        return sorted({*sizes, interest})
    nearest = sorted(sizes, key=lambda size: abs(math.log(size / interest)))
    return sorted({interest, *nearest[: _SIZES - 1]})


def print_comparison(found: Comparison, console: Console) -> None:
    """Print each run against the first, and every attack against the nearest."""
    for note in found.notes:
        console.print(escape(note))
    for pair in found.pairs:
        table = Table(
            title=f"\n{pair.norm}: {escape(pair.second)} against {escape(pair.first)}",
            title_justify="left",
            caption=f"distances x {words.factor(pair.ratio)}; nearer at "
            f"{_percent(pair.nearer)} of the samples with both; {pair.samples} samples",
            caption_justify="left",
        )
        names = (pair.first, pair.second)
        for name in ("size", *map(escape, names), "difference", "only", "p"):
            table.add_column(name, justify="right", overflow="fold")
        for at in pair.differences:
            points, ends = words.points(at.difference)
            table.add_row(
                f"{at.epsilon:.4g}",
                *map(_percent, at.robust_accuracy),
                f"{points} ({ends})",
                f"{at.only_first} / {at.only_second}",
                f"{at.p_value:.2g}",
            )
        console.print(table)
    table = Table(title="\nattacks against the nearest of all", title_justify="left")
    heads = ("norm", "run", "attack", "local optimality", "passes", "at equal passes")
    for name in heads:
        table.add_column(name, overflow="fold")
    for attack in found.attacks:
        table.add_row(
            attack.norm,
            escape(attack.run),
            escape(attack.attack),
            _percent(attack.local_optimality),
            f"{attack.passes:.0f}",
            "-"
            if attack.at_equal_passes is None
            else f"{_percent(attack.at_equal_passes)} after {attack.equal_passes}",
        )
    console.print(table)


def _accuracies(norm: str, found: dict[str, object]) -> Table:
    table = Table(title=f"\n{norm}: robust accuracy", title_justify="left")
    table.add_column("perturbation size", justify="right")
    table.add_column("robust accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    entries, certified = found["robust_accuracy"], found.get("certified_accuracy", [])
    assert isinstance(entries, list)
    assert isinstance(certified, list)
    if certified:
        table.add_column("certified", justify="right")
    for entry, proven in itertools.zip_longest(entries, certified):
        share = Interval(entry["estimate"], entry["lower"], entry["upper"])
        interval = f"{_percent(share.lower)} to {_percent(share.upper)}"
        cells = [f"{entry['epsilon']:.4g}", _percent(share.estimate), interval]
        if proven is not None:
            cells.append(_percent(proven["estimate"]))
        table.add_row(*cells)
    return table


def _attacks(found: dict[str, object]) -> Table:
    table = Table(title="attacks", title_justify="left")
    columns = ("attack", "found", "median size", "passes", "queries", "seconds")
    for name in (*columns, "warrant"):
        left = name in ("attack", "warrant")
        # Cut off, names that begin alike could not be told apart.
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    attacks = found["attacks"]
    assert isinstance(attacks, dict)
    for name, attack in attacks.items():
        count = max(attack["attacked"], 1)
        verdict = attack["warrant"]["verdict"]
        table.add_row(
            escape(name),
            f"{attack['found']} of {attack['attacked']}",
            _size(attack["median"]),
            f"{attack['forward_passes'] / count:.0f}",
            f"{attack['decision_queries'] / count:.0f}",
            f"{attack['seconds']:.1f}",
            "none" if verdict == NOT_WARRANTED else escape(str(verdict)),
        )
    table.add_section()
    nearest = found["median_of_attacked"]
    assert isinstance(nearest, float)
    # Attacks count errors as infinite, and all of them together as not robust.
    name = "nearest of all" + (", errors as 0" if found["errors"] else "")
    table.add_row(name, "", _size(nearest), "", "", "", "")
    return table


def _share(value: Interval) -> str:
    interval = f"{_percent(value.lower)} to {_percent(value.upper)}"
    return f"{_percent(value.estimate)} ({interval})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _size(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "not found"
