from xml.etree import ElementTree

import numpy as np
import pytest

import robustkit as rk
from robustkit.checks.check import Findings
from robustkit.checks.finding import Finding, Severity, as_json
from robustkit.report.findings import picture

ODD = "<odd> & $co"


@pytest.fixture(scope="module")
def results(plant, tmp_path_factory):
    planted = plant(seed=7, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    attacks = {
        name: rk.get_attack(name) for name in ("fgsm", "square", "uniform-noise")
    }
    attacks["square"] = attacks["square"].within(80)
    attacks[ODD] = rk.get_attack("fmn").within(30)
    out = tmp_path_factory.mktemp("runs") / "run"
    return rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=attacks, out=out
    )


MEASURED = {
    "gradients": {
        "shares": [0.01, 0.1, 0.5],
        "epsilon": 0.1,
        "index": [0, 1],
        "ratio": [[1.0, 0.5, -9.0], [1.0, None, 0.2]],
    },
    "trials": {
        "norm": "linf",
        "attack": "PGD(steps=20)",
        "samples": 8,
        "epsilons": [0.1, 0.2, 1.0],
        "success": [0.25, 0.125, 1.0],
        "at": 0.2,
        "doubled": 0.5,
        "targeted": 0.25,
        "fixed": 0.75,
        "undefended": [1.0, 1.0],
    },
}


def drawn(results, id, samples=(0, 1, 2, 3), measured=MEASURED, **about):
    """The figure, read as XML, which it must be."""
    told = Finding(id, Severity.NOTE, "so", "do it", {"share": 0.5}, samples, **about)
    figure = picture(results, as_json(told), measured)
    return ElementTree.fromstring(str(figure)) if figure else None


def shapes(figure, tag, kind):
    return [e for e in figure.iter(tag) if e.get("class", "").split()[:1] == [kind]]


def test_traces_are_drawn_for_the_samples_of_the_finding(results):
    attacked = results.traced(ODD).index[:4].tolist()
    figure = drawn(results, "S2", attacked, norms=("linf",), attack=ODD)
    margins, distances = figure.iter("svg")
    for panel in (margins, distances):
        assert len(shapes(panel, "path", "best")) == 1
        assert len(shapes(panel, "path", "attack")) == 4
    assert f"step of {ODD}" in [name.text for name in figure.iter("div")]


def test_the_last_question_is_drawn(results):
    traced = results.traced(ODD)
    one = traced.index[:1].tolist()
    figure = drawn(results, "S1", one, norms=("linf",), attack=ODD)
    line = shapes(next(figure.iter("svg")), "path", "attack")[0].get("d")
    assert line.count("L") == traced.trace.points()[0]


def test_gradients_against_finite_differences(results):
    figure = drawn(results, "G3")
    places = [float(c.get("cy")) for c in shapes(figure, "circle", "pip")]
    # Five that are known; the one at -9 is at the lower end.
    assert len(places) == 5
    assert max(places) == 250.0


def test_success_against_epsilon(results):
    figure = drawn(results, "C1", norms=("linf",), trial=True)
    heights = [float(c.get("cy")) for c in shapes(figure, "circle", "dot")]
    expected = [250 - 234 * share for share in (0.25, 0.125, 1.0)]
    assert heights == pytest.approx(expected, abs=0.051)
    # Twice the steps, targets, held still, and twice the undefended model.
    assert len(shapes(figure, "circle", "attack")) == 5
    own = drawn(results, "S4", norms=("linf",))
    assert not shapes(own, "circle", "dot")
    assert len(shapes(own, "path", "attack")) == 4


def test_success_after_half_of_the_steps(results):
    figure = drawn(results, "C4", norms=("linf",))
    (thin,), (thick,) = (shapes(figure, "path", kind) for kind in ("attack", "best"))
    assert thin.get("d") != ""
    assert "30 samples with traces" in "".join(figure.itertext())
    ends = [float(p.get("d").rpartition(",")[2]) for p in (thin, thick)]
    # No later than after all, and there nearly all are broken.
    assert ends[0] >= ends[1] >= 16.0


@pytest.mark.parametrize("id", ["C3", "C5", "C6"])
def test_weaker_against_stronger(results, id):
    figure = drawn(results, id, norms=("linf",))
    marks = shapes(figure, "circle", "pip") + shapes(figure, "circle", "ring")
    assert len(marks) >= (results.distance > 0).sum() - 3


def test_findings_without_a_picture(results):
    assert drawn(results, "R1") is None
    assert drawn(results, "G3", measured={}) is None
    assert drawn(results, "S4", measured={}, norms=("linf",), trial=True) is None
    assert drawn(results, "S2", norms=("linf",), attack="nobody") is None
    assert drawn(results, "C5", norms=("l2",)) is None
    assert drawn(results, "C10", norms=("linf", "l2")) is None


def test_the_page_has_them(results):
    told = [
        Finding("C5", Severity.SUSPICIOUS, "nearer", "x", {"a": 1.0}, norms=("linf",)),
        Finding("R2", Severity.NOTE, "rugged", "x", {"a": 1.0}),
    ]
    Findings(tuple(told), 30, MEASURED).save(results.path)
    page = results.report().read_text()
    assert page.count('class="of-finding"') == 1
    assert "<odd>" not in page
