import numpy as np
import pytest

import robustkit as rk
from robustkit.report import words
from robustkit.report.chart import Axis, Chart, Series
from robustkit.report.charts import Named, passes_charts
from robustkit.report.tables import queries_table


def scores(x):
    margin = (x * [1, -2, 1, 0.5, -1, 0.2]).sum(axis=1, keepdims=True)
    return np.concatenate([margin, -margin], axis=1)


def model():
    w = np.array([1, -2, 1, 0.5, -1, 0.2])
    return rk.NumPyModel(
        scores, gradient=lambda x, s: (s[:, :1] - s[:, 1:]) * w.astype(x.dtype)
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    x = np.random.default_rng(0).random((9, 6)).astype(np.float32)
    return rk.evaluate(
        model(),
        (x, scores(x).argmax(axis=1)),
        norm=["l2", "linf"],
        attacks=["square", "gaussian-noise", "fmn"],
        budget=60,
        out=tmp_path_factory.mktemp("run") / "run",
    )


def test_lines_are_those_of_attacks_without_gradients(results):
    lines = passes_charts([Named("run", results)], "l2")[0].series
    assert [line.name for line in lines] == ["square", "gaussian-noise"]
    for line in lines:
        curves = results.queries(line.name, "l2")
        medians = [curves[count].quantile(0.5) for count in line.x.tolist()]
        np.testing.assert_array_equal(line.y, medians)
        assert (line.lower <= line.y).all()
        assert (line.y <= np.nan_to_num(line.upper, nan=np.inf)).all()
    # Their places in the run, so that an attack looks the same everywhere.
    assert [line.style for line in lines] == [0, 1]


def test_all_attacks_are_in_the_chart_of_passes(results):
    run = [Named("run", results)]
    lines = passes_charts(run, "l2")[1].series
    assert [(line.name, line.style) for line in lines] == [
        ("square", 0),
        ("gaussian-noise", 1),
        ("fmn", 2),
    ]
    assert all(line.lower is None for line in lines)
    several = passes_charts([Named("a", results), Named("b", results)], "l2")[1].series
    assert [line.name for line in several][2:4] == ["a: fmn", "b: square"]
    assert len({line.style for line in several}) == 6


def test_the_report_has_a_figure_and_a_table(results, tmp_path):
    page = results.report(tmp_path / "one").read_text()
    assert page.count("<h3>Size against queries</h3>") == 2
    line = passes_charts([Named("run", results)], "l2")[0].series[0]
    table = page.split("<h3>Size against queries</h3>")[1].split("</table>")[0]
    assert words.size(line.y[-1]) in table
    assert ">60<" in table
    assert ">100<" not in table
    assert ">fmn<" not in table
    for name in ("queries.svg", "queries.png"):
        assert (tmp_path / "one" / name).stat().st_size > 5000
    results.report(tmp_path / "two")
    for name in ("queries.svg", "queries.png", "report.html"):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_columns_are_numbers_after_which_each_attack_is_known():
    def line(name, counts):
        sizes = np.linspace(0.9, 0.1, len(counts))
        return Series(
            name, 0, "line", x=np.array(counts), y=sizes, lower=sizes, upper=sizes
        )

    short, long = line("short", [5, 10, 18]), line("long", [5, 10, 20, 50, 60])
    axis = Axis("", 0, 1, logarithmic=False, ticks=())
    table = queries_table(Chart("queries", "", "", axis, axis, (short, long)))
    assert table.columns == ("Attack", "5", "10", "20", "50", "60")
    texts = {cells[0].text: [cell.text for cell in cells[1:]] for cells in table.rows}
    assert texts["short"] == ["0.9", "0.5", "0.1", "0.1", "0.1"]
    assert texts["long"] == ["0.9", "0.7", "0.5", "0.300", "0.1"]


def test_gradient_attacks_alone_have_none(tmp_path):
    x = np.random.default_rng(0).random((3, 6)).astype(np.float32)
    run = rk.evaluate(model(), (x, scores(x).argmax(axis=1)), attacks=["fmn"])
    page = run.report(tmp_path).read_text()
    assert "Size against queries" not in page
    assert not (tmp_path / "queries.svg").exists()
