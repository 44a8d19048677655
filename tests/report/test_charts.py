import numpy as np
import pytest
from PIL import Image

import robustkit as rk
from robustkit import demo
from robustkit.evaluation.curve import Curve
from robustkit.evaluation.envelope import envelope
from robustkit.evaluation.originals import drawn
from robustkit.evaluation.power_law import fit_power_law
from robustkit.report.chart import axis
from robustkit.report.charts import Named, envelope_chart, power_law_chart
from robustkit.report.content import gather
from robustkit.report.drawing import draw
from robustkit.report.figure import save_charts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    results = rk.evaluate(
        "digits",
        "digits",
        norm=["linf", "l2"],
        attacks=["fmn", "gaussian-noise", "uniform-noise"],
        samples=60,
        budget=20,
        out=tmp_path_factory.mktemp("run") / "run",
    )
    return Named("run", results)


def test_ticks_are_round_and_inside():
    for low, high, logarithmic in (
        (0, 0.37, False),
        (0.002, 0.9, True),
        (1, 1e5, True),
        (0.1, 0.4, True),
    ):
        found = axis("", low, high, logarithmic=logarithmic)
        places = [place for place, _ in found.ticks]
        assert 2 <= len(places) <= 9
        assert places == sorted(places)
        assert low <= places[0]
        assert places[-1] <= high


def test_the_envelope_is_made_of_the_attacks_that_win(run):
    found = envelope(run.results, "l2")
    order = list(found.distance)
    chart = envelope_chart(run, "l2", found, order)
    line = next(s for s in chart.series if s.look == "line")
    dots = [s for s in chart.series if s.look == "dots"]
    finite = found.nearest[np.isfinite(found.nearest)]
    np.testing.assert_array_equal(line.y, finite)
    assert (np.diff(line.x) > 0).all()
    drawn = sorted((x, y) for s in dots for x, y in zip(s.x, s.y, strict=True))
    assert set(drawn) == set(zip(line.x, line.y, strict=True))
    shares = {c.attack: c.nearest for c in found.contributions}
    assert {s.name: len(s.x) for s in dots} == {k: n for k, n in shares.items() if n}
    assert {s.style for s in dots} <= {0, 1, 2}
    # What is drawn small is what lost.
    hazes = [s for s in chart.series if s.look == "haze"]
    for haze in hazes:
        nearest = dict(zip(line.x, line.y, strict=True))
        assert all(y > nearest[x] for x, y in zip(haze.x, haze.y, strict=True))


def test_the_law_is_drawn_through_what_was_observed(run):
    distance = run.results.distances("l2")
    law = fit_power_law(distance)
    chart = power_law_chart([run], "l2", [law])
    line, observed = chart.series
    np.testing.assert_allclose(line.y, law.error(line.x))
    assert line.x[-1] == law.limit
    for x, y, low, high in zip(
        observed.x, observed.y, observed.lower, observed.upper, strict=True
    ):
        assert y == ((distance > 0) & (distance <= x)).sum() / len(distance)
        assert low < y < high
    assert power_law_chart([run], "l2", [None]) is None


def test_all_that_is_drawn_is_within_the_frame(run):
    (part, _) = gather([run.results]).norms
    for chart in part.charts:
        shapes = draw(chart)
        for series in shapes["series"]:
            for path in (series["path"], series["band"]):
                assert "nan" not in path
                assert "inf" not in path
        for tick in (*shapes["x_ticks"], *shapes["y_ticks"]):
            assert 0 <= tick["at"] <= 600
    names = {chart.name for chart in part.charts}
    assert names == {
        *("curve", "envelope", "queries", "passes", "power-law", "spectrum")
    }


def test_nothing_is_cut_off_at_the_edge_of_a_figure(run, tmp_path):
    for part in gather([run.results]).norms:
        for chart in part.charts:
            (file,) = save_charts([chart], tmp_path, ["png"])
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L"))
            edges = pixels[:, :3], pixels[:, -3:], pixels[:3], pixels[-3:]
            assert all((edge == 255).all() for edge in edges), chart.name


def test_classes_are_counted_by_themselves(run):
    part = gather([run.results]).norms[0]
    table = part.classes
    assert table.columns[:2] == ("Class", "Samples")
    results = run.results
    distance = results.distances("linf")
    counts = {row[0].text: row for row in table.rows}
    assert set(counts) == {str(label) for label in np.unique(results.label)}
    for name, row in counts.items():
        rows = results.label == int(name)
        assert row[1].text == str(rows.sum())
        right = (results.prediction[rows] == int(name)).mean()
        assert row[2].text.split("\N{NARROW NO-BREAK SPACE}")[0] in (
            f"{100 * right:.0f}",
            "100",
        )
        median = np.sort(distance[rows])[(rows.sum() + 1) // 2 - 1]
        assert float(row[4].text) == pytest.approx(median, rel=6e-3)


def test_classes_that_stand_alike_are_in_the_order_of_their_medians(run):
    results = rk.Results(run.results.path)
    results.run["config"]["epsilons"] = {"linf": [1e-6], "l2": [1e-6]}
    for part in gather([results]).norms:
        order = [int(row[0].text) for row in part.classes.rows]
        curves = [
            Curve(results.distances(part.norm)[results.label == k]) for k in order
        ]
        standing = [(c.robust_accuracy(1e-6).estimate, c.quantile(0.5)) for c in curves]
        assert standing == sorted(standing)


def test_the_nearest_of_each_class_and_of_all_are_at_hand(run):
    gallery = gather([run.results]).norms[0].galleries[0]
    best = run.results.adversarials("linf")
    labels = [example.label for example in gallery.of_classes]
    assert sorted(labels) == np.unique(best["label"]).tolist()
    for example in gallery.of_classes:
        same = best["label"] == example.label
        assert example.distance == best["distance"][same].min()
    sizes = [example.distance for example in gallery.of_classes]
    assert sizes == sorted(sizes)
    nearest = [example.distance for example in gallery.worst]
    assert nearest == np.sort(best["distance"])[:5].tolist()
    assert gallery.across[-1].distance == best["distance"].max()
    drawn_found = drawn(run.results.index)[np.isin(run.results.index, best["index"])]
    assert len(gallery.changes) == len(gallery.originals) == drawn_found.sum()


def test_runs_on_other_data_and_in_other_units(run):
    x, y = demo.load_data("digits")
    changed = rk.evaluate(
        lambda x: demo.load_model("digits")(x / 255),
        (255 * x[40:60], y[40:60]),
        norm=["l2"],
        attacks=["fmn"],
        budget=10,
        bounds=(0, 255),
    )
    content = gather([run.results, changed])
    (chart,) = (c for c in content.norms[-1].charts if c.name == "spectrum")
    names = [series.name for series in chart.series]
    assert len(names) == 2
    assert "the inputs" not in names
    assert "from 0 to 1; " in content.overview.note
    assert "from 0 to 255." in content.overview.note
    alike = gather([run.results, run.results])
    assert "do not compare" not in alike.overview.note
    (chart,) = (c for c in alike.norms[0].charts if c.name == "spectrum")
    assert chart.series[0].name == "the inputs"
