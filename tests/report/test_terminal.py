import io
import json

import numpy as np
import pytest
from rich.console import Console

import robustkit as rk
from robustkit.adaptive.adaptation import Adaptation, Step
from robustkit.checks.check import Findings
from robustkit.checks.finding import Finding, Severity
from robustkit.report.adaptations import adaptations
from robustkit.report.terminal import (
    print_adaptation,
    print_comparison,
    print_findings,
    print_results,
)


def nearest(results):
    """What the table of attacks says of them all together, and of the first."""
    console = Console(width=120, file=io.StringIO())
    print_results(results, console)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()
    ]
    of_all = next(row for row in rows if row and row[0].startswith("nearest of all"))
    return of_all, next(row for row in rows if row and row[0] == "fmn")


@pytest.mark.parametrize("broken", [False, True])
def test_errors_are_told_where_they_count_otherwise_than_beside_it(broken):
    def answers(x):
        out = x[:, :2].copy()
        out[broken & (x[:, 2] > 0.5)] = np.nan
        return out

    model = rk.NumPyModel(answers, gradient=lambda x, s: np.pad(s, ((0, 0), (0, 1))))
    x = np.array([[0.9, 0.5, 0.0], [0.9, 0.5, 1.0]], np.float32)
    results = rk.evaluate(model, (x, np.zeros(2, int)), attacks=["fmn"])
    of_all, fmn = nearest(results)
    assert of_all[0] == "nearest of all" + (", errors as 0" if broken else "")
    assert (of_all[2] == fmn[2]) is not broken


def test_where_nothing_is_attacked_nothing_is_called_not_found():
    model = rk.NumPyModel(lambda x: x, gradient=lambda x, s: s)
    x = np.array([[0.9, 0.5], [0.9, 0.4]], np.float32)
    results = rk.evaluate(model, (x, np.ones(2, int)), attacks=["fmn"])
    for row in nearest(results):
        assert row[2] == "-"


def test_passes_of_remedies_are_counted_per_sample_everywhere():
    x = np.full((4, 2), 0.5, np.float32)
    model = rk.NumPyModel(lambda x: x, gradient=lambda x, s: s)
    results = rk.evaluate(model, (x, np.zeros(4, int)), attacks=["fmn"])
    settings = {
        "norm": "linf",
        "findings": (),
        "what": "",
        "details": "",
        "attacks": {},
    }
    settings |= {"backwards": 0, "seconds": 0.0, "nearer": 0}
    settings |= {"distance": np.ones(4), "expected": np.zeros(4)}
    steps = (
        Step(remedy="plain", attacked=4, forwards=400, **settings),
        Step(remedy="more passes", attacked=1, forwards=80, **settings),
    )
    found = Adaptation(
        steps=steps,
        epsilons={"linf": (0.1,)},
        epsilon={"linf": 0.1},
        findings=(),
        best={},
        index=np.arange(4),
        label=np.zeros(4, int),
        draws=1,
        budget=100,
        total=2000,
    )
    (results.path / "adaptive.json").write_text(json.dumps(found.to_json()))
    (told,) = adaptations(results)
    assert [step["passes"] for step in told["steps"]] == ["100", "20"]
    assert "100 of the plain evaluation, 20 of all remedies" in told["cost"]
    console = Console(width=120, file=io.StringIO())
    print_adaptation(found, console)
    text = console.file.getvalue()
    rows = [line.split("│")[1:-1] for line in text.splitlines() if "│" in line]
    assert [row[3].strip() for row in rows] == ["100", "20"]
    assert "100 of the plain evaluation, 20 of all remedies" in text


def test_findings_are_indented_on_every_line():
    console = Console(width=40, file=io.StringIO())
    finding = Finding("O1", Severity.NOTE, "[b]word " * 12, "do " * 20, {"share": 0.5})
    print_findings(Findings((finding,), 4), console)
    _, first, *lines = console.file.getvalue().splitlines()
    assert first == "O1 note"
    assert len(lines) > 4
    assert all(line.startswith("  ") for line in lines)
    assert "[b]word" in lines[0]


def test_names_that_begin_alike_are_told_apart_on_a_narrow_terminal(tmp_path):
    model = rk.NumPyModel(lambda x: x, gradient=lambda x, slopes: slopes)
    data = np.array([[0.9, 0.5]], np.float32), np.array([0])
    names = [f"a-search-along-a-{way}" for way in ("line", "plane")]
    attacks = {name: rk.UniformNoise(steps=2) for name in names}
    runs = [
        rk.evaluate(
            model, data, attacks=attacks, out=tmp_path / f"on-a-{'long-' * 5}{n}"
        )
        for n in ("day", "night")
    ]
    console = Console(width=60, file=io.StringIO())
    print_results(runs[0], console)
    print_comparison(rk.compare(runs), console)
    assert "\N{HORIZONTAL ELLIPSIS}" not in console.file.getvalue()
