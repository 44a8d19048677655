import base64
import html
import io
import json
import re
import shlex
import shutil
from fractions import Fraction
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

import robustkit as rk
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.evaluation.results import Results
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import SCHEMA, RunFolder, write_json
from robustkit.evaluation.tables import COLUMNS, as_csv
from robustkit.report import words, write_report
from robustkit.report.charts import Named, curve_chart
from robustkit.report.reproduce import command, python_call

NORMS = ("linf", "l2")
SIZE = {
    "linf": lambda d: np.abs(d).max(),
    "l2": lambda d: np.sqrt((d.astype(np.float64) ** 2).sum()),
}


def description(norms, attacks, **config):
    return {
        "schema": SCHEMA,
        "status": "complete",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:05+00:00",
        "config": {
            "model": "net",
            "data": "set",
            "norms": list(norms),
            "attacks": {n: {a: f"{a}(steps=3)" for a in attacks} for n in norms},
            "epsilons": {n: [8 / 255, 0.1, 1.0] for n in norms},
            "target": None,
            "criterion": None,
            "samples": None,
            "budget": None,
            "access": "gradient",
            "batch_size": 128,
            "seed": 0,
            "bounds": [0.0, 1.0],
            "mean": None,
            "std": None,
            "device": None,
            "pool": None,
            **config,
        },
        "asked": {"model": "net", "data": "set", "attacks": "standard", "pool": None},
        "sources": dict.fromkeys(attacks, "Someone, 2020"),
        "model": {
            "name": "net",
            "adapter": "TorchModel",
            "classes": 10,
            "access": "gradient",
            "fingerprint": "ab" * 32,
        },
        "data": {"name": "set", "class_names": None, "fingerprint": "cd" * 32},
        "versions": {"robustkit": "1.2.3", "numpy": "2.0"},
        "notes": [],
    }


def make_run(
    folder, x, deltas, norms=NORMS, attacks=("one",), statuses=None, **changes
):
    """A run folder whose sample i was changed by deltas[i]; NaN: see statuses."""
    run = {**description(norms, attacks), **changes}
    statuses = statuses or ["found"] * len(x)
    index = np.arange(len(x))
    with RunFolder(folder) as out:
        out.write("run.json", run)
        if len(x):
            out.add_examples(index, x)
        for norm in norms:
            found = [i for i, s in enumerate(statuses) if s == "found"]
            for place, attack in enumerate(attacks):
                rows = [row(i, norm, attack, s, deltas) for i, s in enumerate(statuses)]
                # The first attack is as near as any, and so the one that is kept.
                out.keep(
                    Shard(
                        ShardKey(0, norms.index(norm) * 100 + place, norm, attack, ""),
                        as_csv(rows),
                        index % 10,
                        index[found],
                        index[found] % 10,
                        np.array([SIZE[norm](deltas[i]) for i in found], dtype=float),
                        (x + deltas)[found],
                    )
                )
        out.write_tables()
    return Results(folder)


def row(i, norm, attack, status, deltas):
    distance = {"found": None, "already_misclassified": 0.0, "error": np.nan}
    size = distance.get(status, np.inf)
    values = {name: 1 for name in COLUMNS} | {
        "index": i,
        "label": i % 10,
        "prediction": -1 if status == "error" else i % 10,
        "attack": attack,
        "norm": norm,
        "found": status == "found",
        "distance": float(SIZE[norm](deltas[i])) if size is None else size,
        "seconds": 0.25,
        "status": status,
        "reason": "ValueError: <i>bad</i> & worse" if status == "error" else "",
    }
    return values


def images(count, shape=(3, 6, 8)):
    """Inputs, and one perturbation in ever larger size."""
    rng = np.random.default_rng(count)
    x = (0.25 + 0.5 * rng.random((count, *shape))).astype(np.float32)
    delta = rng.uniform(-0.2, 0.2, shape)
    growing = [size * delta for size in np.linspace(0.1, 1, count)]
    return x, np.array(growing, dtype=np.float32)


class Page(HTMLParser):
    """Elements, their attributes and all visible text; fails on bad nesting."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split()).replace(words.SPACE, " ")

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and attributes.items() <= found.items()
        ]


def page_of(results, **options):
    return Page(write_report(results, **options).read_text(encoding="utf-8"))


@pytest.fixture
def demo(tmp_path):
    return rk.evaluate(
        "digits",
        "digits",
        attacks=["fmn"],
        norm=["linf", "l2"],
        samples=8,
        budget=20,
        out=tmp_path / "run",
    )


class TestFiles:
    def test_a_real_run(self, demo):
        path = write_report(demo)
        assert path == demo.path / "report.html"
        with Image.open(demo.path / "curve.png") as picture:
            assert picture.width > 1500
        page = Page(path.read_text(encoding="utf-8"))
        # Eight samples have no five nearest beside those across the range.
        assert len(page.all("img")) == 2 * 5 * 3
        assert "Robustness of digits 8 samples of digits" in page.text
        assert "--attacks fmn --samples 8 --budget 20 --seed 0" in page.text

    def test_examples_are_originals(self, demo):
        x, _ = next(rk.load_data("digits", samples=8).batches(8))
        with np.load(demo.path / "examples.npz", allow_pickle=False) as kept:
            np.testing.assert_array_equal(kept["x"], x)
            np.testing.assert_array_equal(kept["index"], np.arange(8))

    def test_nothing_is_loaded_from_elsewhere(self, demo):
        text = write_report(demo).read_text(encoding="utf-8")
        page = Page(text)
        for _, attributes in page.elements:
            assert attributes.keys().isdisjoint({"srcset", "action", "data"})
            assert attributes.get("href", "#").startswith("#")
            if "src" in attributes:
                assert attributes["src"].startswith("data:image/png;base64,")
        assert not page.all("script")
        assert not page.all("link")
        assert "url(" not in text
        assert "@import" not in text
        assert "http" not in text

    def test_equal_results_equal_bytes(self, demo, tmp_path):
        first, second = tmp_path / "first", tmp_path / "deep" / "second"
        write_report(demo, first)
        with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other"}):
            write_report(demo, str(second))
        for name in ("curve.svg", "curve.png", "report.html"):
            assert (first / name).read_bytes() == (second / name).read_bytes()
        assert "dc:date" not in (first / "curve.svg").read_text()

    def test_a_place_that_cannot_be_written(self, demo, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(BadInput, match="cannot write the report"):
            write_report(demo, tmp_path / "file" / "below")


class TestContents:
    def test_all_text_is_escaped(self, tmp_path):
        evil = "<script>alert('$x_1$')</script>"
        x, deltas = images(12)
        run = description(NORMS, (evil, "two"), model=evil, data=evil)
        run["asked"] |= {"model": evil, "data": evil}
        run["data"] |= {"name": evil, "class_names": [evil] * 10}
        run["model"]["name"] = evil
        results = make_run(
            tmp_path / "run",
            x,
            deltas,
            attacks=(evil, "two"),
            config=run["config"],
            asked=run["asked"],
            data=run["data"],
            model=run["model"],
            sources={evil: evil},
            notes=[evil],
            failure=evil,
            status="failed",
        )
        path = write_report(results)
        page = Page(path.read_text(encoding="utf-8"))
        assert not page.all("script")
        assert page.text.count(f"label {evil}") == 2 * (5 + 5)
        assert f"Robustness of {evil} 12 samples of {evil}" in page.text
        assert "alert(" in (results.path / "curve.svg").read_text(encoding="utf-8")

    def test_every_kind_of_row(self, tmp_path):
        x, deltas = images(10)
        statuses = ["found"] * 4 + ["already_misclassified"] * 2
        statuses += ["not_found"] * 3 + ["error"]
        page = page_of(make_run(tmp_path / "run", x, deltas, statuses=statuses))
        assert page.text.count("Adversarial found 4 ") == 2
        assert page.text.count("None found 3 ") == 2
        assert page.text.count("Misclassified without any change 2 ") == 2
        assert page.text.count("Error, counted as not robust 1 ") == 2
        assert (
            "1 for L\N{INFINITY}, 1 for L2. ValueError: <i>bad</i> & worse (2"
            in page.text
        )
        # 4 of 8 attacked were found, and one was an error.
        assert page.text.count("4 of 8 1 error") == 2
        assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)

    def test_not_found_for_half(self, tmp_path):
        x, deltas = images(6)
        statuses = ["found", "found"] + ["not_found"] * 4
        page = page_of(make_run(tmp_path / "run", x, deltas, statuses=statuses))
        assert page.text.count("not found for half of the samples") == 2
        assert "No adversarial was found for at least half" in page.text

    @pytest.mark.parametrize("status", ["not_found", "already_misclassified", "error"])
    def test_no_adversarial_at_all(self, tmp_path, status):
        x, deltas = images(3)
        results = make_run(tmp_path / "run", x, deltas, statuses=[status] * 3)
        page = page_of(results)
        assert not page.all("img")
        robust = "100 %" if status == "not_found" else "0 %"
        assert page.text.count(f"8/255 0.0314 {robust}") == 1

    def test_an_upper_bound_is_claimed_only_where_it_is_one(self, demo):
        """Draws that were lucky, and errors, count as not robust."""
        text = page_of(demo).text
        assert (
            "the true robust accuracy is the one stated or lower, unless the model "
            "answers at random, or samples ended in errors" in text
        )

    def test_one_sample(self, tmp_path):
        x, deltas = images(1)
        page = page_of(make_run(tmp_path / "run", x, deltas))
        assert "1 sample of set" in page.text
        assert len(page.all("img")) == 2 * 3
        assert page.text.count("The only one") == 2

    def test_a_run_interrupted_before_the_first_row(self, tmp_path):
        run = description(NORMS, ())
        results = make_run(
            tmp_path / "run",
            np.zeros((0, 3)),
            np.zeros((0, 3)),
            attacks=(),
            status="interrupted",
            config=run["config"],
        )
        assert not (results.path / "examples.npz").exists()
        page = page_of(results)
        assert "The run was interrupted" in page.text
        assert "No sample was evaluated" in page.text
        assert "not known" in page.text

    def test_findings_are_shown_and_are_no_markup(self, tmp_path):
        x, deltas = images(3)
        results = make_run(tmp_path / "run", x, deltas)
        assert "Findings" not in Page(write_report(results).read_text("utf-8")).text
        finding = {
            "id": "G2",
            "severity": "invalidates",
            "diagnosis": "zero <script>alert(1)</script>",
            "remedy": "look",
            "evidence": {"share": 0.25},
            "samples": list(range(12)),
        }
        write_json(results.path / "findings.json", {"schema": 1, "findings": [finding]})
        html = write_report(results).read_text("utf-8")
        text = Page(html).text
        assert "<script>alert" not in html
        assert "zero <script>alert(1)</script>." in text
        assert "share 0.25; at 12 samples: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and" in text

    def test_an_interrupted_run(self, tmp_path):
        def stop(progress):
            if progress.norm == "l2" and progress.first >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rk.evaluate(
                "digits",
                "digits",
                attacks=["fmn"],
                norm=["linf", "l2"],
                samples=8,
                batch_size=4,
                budget=20,
                out=tmp_path / "run",
                progress=stop,
            )
        page = page_of(Results(tmp_path / "run"))
        assert "The run was interrupted" in page.text
        assert "8 samples reached so far" in page.text

    def test_a_killed_run(self, tmp_path):
        x, deltas = images(3)
        results = make_run(tmp_path / "run", x, deltas, status="running")
        (results.path / "best.npz").unlink()
        page = page_of(results)
        assert "was killed" in page.text
        assert not page.all("img")

    def test_notes_are_warnings_and_their_absence_is_silence(self, tmp_path):
        x, deltas = images(3)
        quiet = page_of(make_run(tmp_path / "quiet", x, deltas))
        assert not quiet.all("div", **{"class": "warning"})
        loud = page_of(make_run(tmp_path / "loud", x, deltas, notes=["probabilities"]))
        assert len(loud.all("div", **{"class": "warning"})) == 1
        assert "probabilities" in loud.text

    def test_a_refusal_is_not_called_a_wrong_answer(self, tmp_path):
        network = rk.TorchModel(rk.load_model("digits").module)
        guarded = rk.Abstaining(network, lambda x: x.flatten(1).std(dim=1) - 0.38)
        results = rk.evaluate(
            guarded, "digits", attacks=["gaussian-noise"], samples=8, budget=5
        )
        assert (results.prediction == 10).any()
        assert "Misclassified or refused without any change" in page_of(results).text

    def test_with_a_target_nobody_is_called_misclassified(self, tmp_path):
        x, deltas = images(3)
        run = description(NORMS, ("one",), target=4)
        page = page_of(make_run(tmp_path / "run", x, deltas, config=run["config"]))
        assert "Misclassified without any change" not in page.text
        assert "Adversarial without any change" in page.text


class TestExamples:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (8, 8, 1), (5, 7, 3)])
    def test_pictures_show_what_they_say(self, tmp_path, shape):
        x, deltas = images(5, shape)
        page = page_of(make_run(tmp_path / "run", x, deltas, norms=("linf",)))
        sources = [found["src"] for found in page.all("img", **{"class": "tiny"})]
        assert len(sources) == 15
        for place, values in ((0, x[0]), (1, x[0] + deltas[0]), (12, x[4])):
            data = base64.b64decode(sources[place].partition(",")[2])
            with Image.open(io.BytesIO(data)) as picture:
                shown = np.array(picture)
            wanted = np.moveaxis(values, 0, 2) if shape[0] in (1, 3) else values
            wanted = np.round(255 * wanted.squeeze()).astype(np.uint8)
            np.testing.assert_array_equal(shown, wanted)

    def test_the_perturbation_is_amplified_as_stated(self, tmp_path):
        x, deltas = images(1)
        deltas *= np.float32(0.03) / np.abs(deltas).max()
        page = page_of(make_run(tmp_path / "run", x, deltas, norms=("linf",)))
        assert "perturbation \N{MULTIPLICATION SIGN} 10" in page.text
        source = page.all("img")[2]["src"]
        with Image.open(
            io.BytesIO(base64.b64decode(source.partition(",")[2]))
        ) as found:
            shown = np.array(found) / 255
        wanted = 0.5 + 10 * np.moveaxis(deltas[0], 0, 2)
        assert np.abs(shown - wanted).max() <= 1 / 255

    def test_large_pictures_are_reduced_and_smooth(self, tmp_path):
        x, deltas = images(1, (3, 400, 500))
        page = page_of(make_run(tmp_path / "run", x, deltas, norms=("linf",)))
        assert len(page.all("img")) == 3
        assert not page.all("img", **{"class": "tiny"})
        assert (tmp_path / "run" / "report.html").stat().st_size < 1_000_000

    @pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 8, 8), (3, 1, 9)])
    def test_other_data_as_tables(self, tmp_path, shape):
        x, deltas = images(6, shape)
        deltas[0].flat[3] = -0.25
        results = make_run(tmp_path / "run", x, deltas, norms=("linf",))
        page = page_of(results)
        assert not page.all("img")
        assert len(page.all("table", **{"class": "changes"})) == 5
        place = ", ".join(map(str, np.unravel_index(3, shape)))
        before = words.size(float(x[0].flat[3]))
        moved = (x + deltas)[0].flat[3] - x[0].flat[3]
        change = words.size(abs(float(moved)))
        assert f"{place} {before} \N{MINUS SIGN}{change}" in page.text
        assert f"{x[0].size} of {x[0].size} values changed" in page.text

    def test_across_the_range(self, tmp_path):
        x, deltas = images(9)
        page = page_of(make_run(tmp_path / "run", x, deltas, norms=("l2",)))
        assert re.findall(r"sample (\d+), label", page.text) == [
            "0",
            "2",
            "4",
            "6",
            "8",
        ]

    def test_only_originals_at_hand_unless_all_are_given(self, tmp_path):
        x, deltas = images(400)
        results = make_run(tmp_path / "run", x, deltas, norms=("l2",))
        shown = re.findall(r"sample (\d+), label", page_of(results).text)
        every = page_of(results, originals=(x, np.arange(400) % 10))
        exact = re.findall(r"sample (\d+), label", every.text)
        # The nearest of all are of different classes, and not shown twice.
        assert exact == ["0", "100", "200", "299", "399", *"0123456789"]
        # The nearest and the farthest are kept, and some others at random.
        assert shown[0] == "0"
        assert shown[4:] == exact[4:]
        far = [abs(int(a) - int(b)) for a, b in zip(shown, exact, strict=True)]
        assert 0 < max(far) < 40
        assert "About the median" in page_of(results).text
        assert "bout the" not in every.text

    @pytest.mark.parametrize("change", ["order", "shape", "count"])
    def test_the_originals_of_another_run(self, tmp_path, change):
        x, deltas = images(8)
        results = make_run(tmp_path / "run", x, deltas, norms=("l2",))
        others = {"order": x[::-1].copy(), "shape": x[:, :1].copy(), "count": x[:3]}
        with pytest.raises(BadInput, match="not those of this run: sample"):
            write_report(
                results, originals=(others[change], np.zeros(len(others[change]), int))
            )


def chart_of(results, norm):
    return curve_chart([Named("run", results)], norm)


class TestCurve:
    def test_a_long_tail_gets_a_logarithmic_axis(self, tmp_path):
        x, deltas = images(9, (5,))
        deltas[:] = 0.002
        deltas[-1] = 0.2
        results = make_run(tmp_path / "run", x, deltas)
        axis = chart_of(results, "linf").x
        assert axis.logarithmic
        assert 0 < axis.low < 0.002 < 0.2 < axis.high
        assert "logarithmic" in page_of(results).text

    def test_the_line_is_the_curve(self, tmp_path):
        x, deltas = images(20)
        statuses = ["already_misclassified"] * 2 + ["found"] * 15 + ["not_found"] * 3
        results = make_run(tmp_path / "run", x, deltas, statuses=statuses)
        for norm in NORMS:
            chart, curve = chart_of(results, norm), results.curve(norm)
            (best,) = chart.series
            assert best.x[0] == 0
            assert best.x[-1] == chart.x.high
            for size, share in zip(best.x, best.y, strict=True):
                assert share == curve.robust_accuracy(size).estimate
            np.testing.assert_allclose(
                best.upper, np.minimum(best.y + curve.band(), 1), rtol=1e-12
            )

    def test_a_size_asked_about_is_shown_however_near_all_are(self, tmp_path):
        x, deltas = images(4)
        chart = chart_of(make_run(tmp_path / "run", x, deltas / 100), "linf")
        assert [mark.x for mark in chart.marks] == [8 / 255]

    def test_attacks_keep_their_style_in_all_norms(self, tmp_path):
        x, deltas = images(4)
        results = make_run(tmp_path / "run", x, deltas, attacks=("a", "b", "c"))
        for norm in NORMS:
            lines = chart_of(results, norm).series
            styles = {line.name: line.style for line in lines}
            assert styles == {
                "a": 0,
                "b": 1,
                "c": 2,
                "nearest adversarial of all attacks": None,
            }
        assert len(page_of(results).all("path", **{"class": "line c1 d1"})) == 4

    def test_the_bands_of_several_runs_hold_together(self, tmp_path):
        x, deltas = images(8)
        runs = [
            Named(name, make_run(tmp_path / name, x, size * deltas))
            for name, size in (("a", 1), ("b", 0.5))
        ]
        for line in curve_chart(runs, "l2").series:
            # The inequality of each at the level 0.05 / 2: Bonferroni's.
            half = np.sqrt(np.log(2 / 0.025) / (2 * 8))
            np.testing.assert_allclose(line.lower, np.maximum(line.y - half, 0))
            np.testing.assert_allclose(line.upper, np.minimum(line.y + half, 1))


class TestReproduce:
    def test_the_command_line_says_what_was_run(self):
        run = description(
            ("linf", "l2"),
            ("a b", "c"),
            samples=7,
            budget=50,
            target=3,
            seed=5,
            bounds=[-1.0, 1.0],
            mean=[0.5, 0.25],
            std=[1.0, 0.1],
            batch_size=16,
            access="score",
            device="cpu",
            shard=[3, 16],
            time_limit=2.5,
            compiled=True,
            pool="pool.npz",
            epsilons={"linf": [8 / 255, 0.1], "l2": [0.2, 0.5, 1.0, 2.0, 4.0, 6.0]},
        )
        run["asked"] = {
            "model": "a model.py:net",
            "data": "set.npz",
            "attacks": ["a b", "c"],
            "pool": "pool.npz",
        }
        line = command(run)
        given = shlex.split(line)
        assert given[:2] == ["robustkit", "eval"]
        context = main.commands["eval"].make_context("eval", given[2:])
        said = {k: v for k, v in context.params.items() if v not in (None, (), False)}
        assert said == {
            "model": "a model.py:net",
            "data": "set.npz",
            "engine": "local",
            "norms": ("linf", "l2"),
            "attacks": "a b,c",
            "epsilons": ("linf=8/255,0.1",),
            "target": 3,
            "samples": 7,
            "budget": 50,
            "access": "score",
            "batch_size": 16,
            "seed": 5,
            "shard": (3, 16),
            "time_limit": 2.5,
            "compiled": True,
            "bounds": (-1.0, 1.0),
            "mean": (0.5, 0.25),
            "std": (1.0, 0.1),
            "device": "cpu",
            "pool": "pool.npz",
        }

    def test_sizes_that_attacks_know_of_and_headers_are_said(self):
        run = description(("linf",), ("mine",))
        run["asked"] = {
            "model": "http://localhost/predict",
            "data": "set.npz",
            "attacks": ["auto"],
            "pool": None,
            # Customary, but `auto` looks no farther than the largest one asked about.
            "epsilons": {"linf": run["config"]["epsilons"]["linf"]},
        }
        run["config"]["cache"] = "answers.db"
        run["config"]["headers"] = {"Authorization": "Bearer ENV:API_KEY"}
        words = shlex.split(command(run))
        context = main.commands["eval"].make_context("eval", words[2:])
        (sizes,) = context.params["epsilons"]
        asked = [
            float(Fraction(size)) for size in sizes.removeprefix("linf=").split(",")
        ]
        assert asked == run["asked"]["epsilons"]["linf"]
        assert context.params["headers"] == (("Authorization", "Bearer ENV:API_KEY"),)
        assert context.params["cache"] == "answers.db"
        assert "headers={'Authorization': 'Bearer ENV:API_KEY'}" in python_call(run)
        run["asked"]["epsilons"] = None
        assert "--epsilons" not in command(run)

    @pytest.mark.parametrize("missing", ["model", "data", "attacks"])
    def test_objects_have_no_command_line(self, missing):
        run = description(("linf",), ("mine",))
        run["asked"][missing] = None
        assert command(run) is None
        call = python_call(run)
        shown = {
            "model": "    model,",
            "data": "    (x, y),",
            "attacks": "attacks={'mine': mine(steps=3)}",
        }
        assert shown[missing] in call
        compile(call, "call", "exec")

    @pytest.mark.parametrize(
        ("named", "shown"),
        [
            ("Misclassification", "Misclassification"),
            ("<lambda>", "criterion"),
            ("functools.partial(<function made at 0x7f>, 3)", "criterion"),
        ],
    )
    def test_a_criterion_without_a_name_is_called_one(self, named, shown):
        call = python_call(description(("linf",), ("mine",), criterion=named))
        assert f"    criterion={shown},\n" in call
        compile(call, "call", "exec")

    def test_the_python_call_of_a_real_run(self, tmp_path):
        model = rk.load_model("digits")
        x, y = next(rk.load_data("digits", samples=4).batches(4))
        results = rk.evaluate(
            model,
            (x, y),
            attacks={"short": rk.FMN(steps=5)},
            epsilons=[0.05],
            out=tmp_path / "run",
            seed=3,
        )
        call = python_call(results.run)
        assert html.unescape(call) in html.unescape(
            write_report(results).read_text(encoding="utf-8")
        )
        names = {"model": model, "x": x, "y": y, "FMN": rk.FMN}
        exec(call, names)
        np.testing.assert_array_equal(names["results"].distance, results.distance)
        assert names["results"].run["config"]["epsilons"] == {"linf": [0.05]}


class TestWords:
    @pytest.mark.parametrize(
        ("share", "count", "text"),
        [
            (0.6338028169, 71, "63 %"),
            (0.6338028169, 5000, "63.4 %"),
            (0.0, 71, "0 %"),
            (1.0, 71, "100 %"),
            (0.001, 500, "< 1 %"),
            (0.999, 500, "> 99 %"),
            (0.9999, 20000, "> 99.9 %"),
            (float("nan"), 0, "not known"),
        ],
    )
    def test_percent(self, share, count, text):
        assert words.percent(share, count).replace(words.SPACE, " ") == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0"),
            (3.0, "3"),
            (0.1, "0.1"),
            (0.10981, "0.110"),
            (1234.5, "1234"),
            (12345.6, "1.23e+04"),
            (0.000031, "3.10e-05"),
            (-0.5, "-0.5"),
            (float("inf"), "not found"),
            (float("nan"), "not known"),
            (9.999, "10.00"),
        ],
    )
    def test_size(self, value, text):
        assert words.size(value) == text

    def test_255ths(self):
        assert words.in_255ths(8 / 255, "linf", (0, 1)) == "8/255"
        assert words.in_255ths(0.106024, "linf", [0.0, 1.0]) == "27.0/255"
        assert words.in_255ths(8 / 255, "l2", (0, 1)) == ""
        assert words.in_255ths(8 / 255, "linf", (-1, 1)) == ""
        assert words.in_255ths(1.0, "linf", (0, 1)) == ""
        assert words.in_255ths(float("inf"), "linf", (0, 1)) == ""
        assert words.epsilon(8 / 255, "linf", (0, 1)) == ("8/255", "0.0314")
        assert words.epsilon(0.2, "linf", (0, 1)) == ("0.2", "51/255")


def test_a_copied_folder_is_enough(demo, tmp_path):
    write_report(demo, tmp_path / "here")
    copy = shutil.copytree(demo.path, tmp_path / "copy")
    run = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    assert run["asked"] == {
        "model": "digits",
        "data": "digits",
        "attacks": ["fmn"],
        "epsilons": None,
        "pool": None,
    }
    assert run["sources"].keys() == {"fmn"}
    again = write_report(Results(copy)).read_bytes()
    assert again == (tmp_path / "here" / "report.html").read_bytes()
