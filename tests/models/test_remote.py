import base64
import io
import sqlite3
import subprocess
import sys
import time
from email.utils import formatdate

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import robustkit as rk
from robustkit.cli import main
from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.encodings import Picture
from robustkit.models.http import Unreachable
from robustkit.models.isolated import isolated
from robustkit.models.load import ExampleNeeded, load_model
from robustkit.models.remote import RemoteModel, Template, filled_address
from robustkit.models.wrappers import Preprocessed, WithStrategy
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from tests.models.server import Server

QUICK = {"pause": 0.01, "timeout": 0.3}


def images(count=5, seed=1):
    return np.random.default_rng(seed).random((count, 1, 4, 4)).astype(np.float32)


def asked(model, x):
    return model.logits(as_tensor(x)).numpy()


def data(server, count=6):
    """Images on the grid of 8 bits, and what the server says of them."""
    x = (images(count) * 255).round() / 255
    x = x.astype(np.float32)
    return x, server.scores(x).argmax(axis=1)


class TestAnswers:
    def test_scores(self):
        with Server() as server:
            out = asked(RemoteModel(server.url), images())
            np.testing.assert_allclose(out, server.scores(images()), rtol=1e-6)
            assert out.dtype == np.float32
            assert [len(body["inputs"]) for body in server.requests] == [5]

    def test_labels_and_the_classes_that_the_response_names(self):
        names = ["cat", "dog", "bird"]

        def answer(scores):
            return {"labels": [names[k] for k in scores.argmax(1)], "classes": names}

        with Server(answer) as server:
            out = asked(RemoteModel(server.url), images())
            assert (out.argmax(1) == server.scores(images()).argmax(1)).all()
            assert (np.sort(out, axis=1) == [0, 0, 0, 1]).all()

    def test_the_best_few(self):
        def answer(scores):
            order = np.argsort(-scores, axis=1)[:, :2]
            return {
                "top": [
                    [{"label": int(k), "score": float(row[k])} for k in places]
                    for row, places in zip(scores, order, strict=True)
                ]
            }

        with Server(answer) as server:
            out = asked(RemoteModel(server.url, classes=3), images())
            exact = server.scores(images())
            np.testing.assert_allclose(np.sort(out)[:, 1:], np.sort(exact)[:, 1:], 1e-6)

    @pytest.mark.parametrize(
        ("answer", "classes", "scores"),
        [
            ([0.5, None], 2, [0.5, np.nan]),
            (2, 4, [0, 0, 1, 0]),
            ("2", 4, [0, 0, 1, 0]),
            ("dog", ["cat", "dog"], [0, 1, 0]),
            (1, ["cat", "dog"], [0, 1, 0]),
            ("fish", ["cat", "dog"], [0, 0, 1]),
            ({"dog": 0.9}, ["cat", "dog"], [0.9, 0.9, 0.9]),
            ({"1": 0.9, "0": 0.2}, 3, [0.2, 0.9, 0.2]),
            ([{"label": 1, "score": 3.0}], 2, [3.0, 3.0]),
        ],
    )
    def test_every_form_of_an_answer(self, answer, classes, scores):
        # The key is one that all forms may stand under.
        with Server(lambda _: {"top": [answer]}) as server:
            model = RemoteModel(server.url, classes=classes)
            out = asked(model, images(1))[0]
        labelled = classes if isinstance(classes, int) else len(classes)
        assert model.unlabelled == len(out) - labelled
        np.testing.assert_allclose(out, scores, atol=1e-5)
        others = np.ones(len(out), dtype=bool)
        others[np.nanargmax(out)] = False
        assert (np.isnan(out[others]) | (out[others] < np.nanmax(out))).all()

    def test_no_class_is_listed_twice(self):
        with (
            Server(lambda _: {"top": [{"1": 0.9, "01": 0.2}]}) as server,
            pytest.raises(BadInput, match="each once"),
        ):
            asked(RemoteModel(server.url, classes=3), images(1))

    def test_batches(self):
        with Server() as server:
            model = RemoteModel(server.url, (0, 1), batch_size=2)
            np.testing.assert_allclose(
                asked(model, images()), server.scores(images()), rtol=1e-6
            )
            assert [len(body["inputs"]) for body in server.requests] == [2, 2, 1]
            assert (model.inputs_sent, model.requests_sent) == (5, 3)

    def test_headers(self):
        with Server() as server:
            model = RemoteModel(server.url, headers={"Authorization": "Bearer 7"})
            asked(model, images())
            assert server.headers[0]["Authorization"] == "Bearer 7"
            assert server.headers[0]["Content-Type"] == "application/json"
            assert "Bearer" not in repr(vars(model))

    @pytest.mark.parametrize("value", ["sesame-4711\n", "sesame-4711\u20ac"])
    def test_headers_that_cannot_be_sent_are_not_repeated(self, value):
        with pytest.raises(BadInput, match="'X-Key' must be a text of one") as raised:
            RemoteModel("http://127.0.0.1:1/", headers={"X-Key": value})
        assert "sesame" not in str(raised.value)

    def test_classes_may_be_a_number_of_numpys(self):
        with Server(lambda scores: {"labels": scores.argmax(1).tolist()}) as server:
            model = RemoteModel(server.url, classes=np.int64(3))
            assert asked(model, images()).shape == (5, 3)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ({"scores": [[1.0, 2.0]]}, "list of 5 answers.*1 answers"),
            ({"results": []}, "one of scores, labels, top"),
            ({"labels": [0] * 5}, "how many there are"),
            ({"scores": [["a", "b"]] * 5}, "all scores as a list of numbers"),
            ({"scores": [[1, 10**400]] * 5}, "all scores as a list of numbers"),
            ({"top": [{"0": 10**400}] * 5, "classes": 3}, "expected a mapping"),
            ({"scores": [[1.0]] * 4 + [[1.0, 2.0]]}, "different numbers of scores"),
            ([], "one of scores, labels, top"),
            ({"labels": ["1" * 5000] * 5, "classes": 3}, "expected the number of a"),
            ({"top": [[{"label": 0, "score": 1.0}, 2]] * 5, "classes": 3}, "best few"),
            ({"labels": [0] * 5, "classes": "cat"}, "their names, each once"),
            ({"scores": [[1.0, 2.0]] * 5, "classes": 2.5}, "their names, each once"),
        ],
    )
    def test_other_responses_are_refused(self, answer, message):
        with (
            Server(lambda scores: answer) as server,
            pytest.raises(BadInput, match=message),
        ):
            asked(RemoteModel(server.url), images())

    def test_json_too_deep_to_be_read(self):
        with (
            Server(script=[b"[" * 100_000]) as server,
            pytest.raises(BadInput, match="did not answer with JSON"),
        ):
            asked(RemoteModel(server.url), images())

    def test_whether_they_name_one_class(self):
        def told(answer):
            with Server(answer) as server:
                model = RemoteModel(server.url, classes=3, access="decision")
                asked(model, images())
                return model.one_class

        assert told(lambda scores: {"labels": scores.argmax(1).tolist()})
        assert not told(lambda scores: {"scores": scores.tolist()})


class TestTemplates:
    def test_one_input_per_request_and_an_answer_deep_inside(self):
        template = Template(
            {"instance": {"image": "{input}"}, "k": 2}, "out.0", "name", "confidence"
        )

        def answer(scores):
            pairs = [{"name": k, "confidence": v} for k, v in enumerate(scores[0])]
            return {"out": [pairs]}

        read = lambda body: [body["instance"]["image"]]  # noqa: E731
        with Server(answer, read=read) as server:
            model = RemoteModel(server.url, classes=3, template=template)
            out = asked(model, images())
            np.testing.assert_allclose(out, server.scores(images()), rtol=1e-6)
            assert len(server.requests) == 5
            assert server.requests[0]["k"] == 2

    def test_the_documented_format_one_by_one(self):
        read = lambda body: [body["x"]]  # noqa: E731
        with Server(read=read) as server:
            model = RemoteModel(server.url, template=Template({"x": "{input}"}))
            out = asked(model, images(2))
            np.testing.assert_allclose(out, server.scores(images(2)), rtol=1e-6)

    @pytest.mark.parametrize("scores", [[], [1.5, -0.2]])
    def test_one_by_one_the_answer_comes_in_a_list(self, scores):
        read = lambda body: [body["x"]]  # noqa: E731
        with Server(lambda _: {"scores": scores}, read=read) as server:
            model = RemoteModel(server.url, template=Template({"x": "{input}"}))
            with pytest.raises(BadInput, match="expected a list of 1 answers"):
                asked(model, images(1))

    def test_mistakes(self):
        with pytest.raises(BadInput, match=r"either '\{inputs\}' or '\{input\}'"):
            Template({"x": 1})
        with Server() as server:
            model = RemoteModel(server.url, template=Template(answers="a.b"))
            with pytest.raises(BadInput, match=r"no 'a' on the way to 'a\.b'"):
                asked(model, images())


class TestTrouble:
    @pytest.mark.parametrize(
        "script",
        [
            [500, 503],
            ["drop"],
            ["hang"],
            [(429, {"Retry-After": "0.05"})],
            [(503, {"Retry-After": formatdate(0, usegmt=True)})],
            [(429, {"Retry-After": "soon"})],
        ],
    )
    def test_it_is_asked_again(self, script):
        with Server(script=list(script)) as server:
            model = RemoteModel(server.url, **QUICK)
            np.testing.assert_allclose(
                asked(model, images()), server.scores(images()), rtol=1e-6
            )
            assert model.requests_sent == len(script) + 1

    def test_pauses_grow_and_the_servers_word_counts(self):
        with Server(script=[500, 500, (429, {"Retry-After": "0.4"})]) as server:
            asked(RemoteModel(server.url, pause=0.05, timeout=1), images(1))
            first, second, third = np.diff(server.times)
            assert first >= 0.05
            assert second >= 0.1
            assert third >= 0.4

    def test_names_of_headers_are_read_in_any_spelling(self):
        with Server(script=[(429, {"retry-after": "0.4"})]) as server:
            asked(RemoteModel(server.url, **QUICK), images(1))
            assert np.diff(server.times)[0] >= 0.4

    def test_a_limited_rate(self):
        with Server() as server:
            asked(RemoteModel(server.url, batch_size=1, rate=20), images(5))
            assert server.times[-1] - server.times[0] >= 4 / 20 - 0.01

    def test_it_gives_up(self):
        with Server(script=[500] * 9) as server:
            model = RemoteModel(server.url, retries=2, **QUICK)
            with pytest.raises(Unreachable, match="3 times; last status 500: out of"):
                asked(model, images())

    def test_it_does_not_wait_for_ever(self):
        with Server(script=[(429, {"Retry-After": "3600"})]) as server:
            start = time.monotonic()
            with pytest.raises(Unreachable, match="asks to wait 3600 s"):
                asked(RemoteModel(server.url, **QUICK), images())
            assert time.monotonic() - start < 2

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_a_refusal_is_final(self, status):
        with Server(script=[status]) as server:
            model = RemoteModel(server.url, **QUICK)
            with pytest.raises(BadInput, match=f"status {status}: out of order"):
                asked(model, images())
            assert model.requests_sent == 1

    def test_moved_and_no_json(self):
        with Server(script=[(301, {"Location": "/new"}), "nonsense"]) as server:
            with pytest.raises(BadInput, match="moved to /new"):
                asked(RemoteModel(server.url), images())
            with pytest.raises(BadInput, match=r"not answer with JSON.*welcome"):
                asked(RemoteModel(server.url), images())

    def test_nobody_there(self):
        with Server() as server:
            url = server.url
        with pytest.raises(Unreachable, match="ConnectionRefused"):
            asked(RemoteModel(url, retries=1, **QUICK), images())

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"url": "ftp://example.org"}, "expected an address"),
            ({"url": "http://localhost:99999/"}, "expected an address"),
            ({"url": "http://localhost:one/"}, "expected an address"),
            ({"url": "http://[::1/"}, "expected an address"),
            ({"url": f"https://{'a' * 70}.com/"}, "expected an address"),
            ({"url": "https://a..com/"}, "expected an address"),
            ({"url": "http://localhost/größe"}, "expected an address"),
            ({"url": "http://localhost/?größe"}, "expected an address"),
            ({"url": "http://localhost/a b"}, "expected an address"),
            ({"rate": 0}, "rate must be more than 0"),
            ({"rate": "2"}, "rate must be a number"),
            ({"timeout": 0}, "time-out must be more than 0"),
            ({"timeout": "30"}, "time-out must be a number"),
            ({"retries": 2.5}, "number of retries must be a whole number"),
            ({"pause": -1}, "pause must be at least 0"),
            ({"longest": float("nan")}, "longest pause must be a finite number"),
            ({"batch_size": 0}, "batch size must be at least 1"),
            ({"batch_size": "3"}, "batch size must be a whole number"),
            ({"classes": 1}, "at least 2"),
            ({"classes": "cat"}, "their names, each once"),
            ({"classes": ["cat", "cat"]}, "their names, each once"),
            ({"template": {"x": "{inputs}"}}, "must be a Template"),
            ({"encoding": "png"}, r"such as Picture\('png'\)"),
            ({"headers": ["X-Key"]}, "mapping from names to values"),
            ({"headers": {"X Key": "a"}}, "no header can be called 'X Key'"),
            ({"headers": {"X-Key": None}}, "'X-Key' must be a text"),
            ({"access": Access.GRADIENT}, "no gradients"),
            ({"access": "gradient"}, "no gradients"),
            ({"access": "labels"}, "unknown access 'labels'"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(BadInput, match=message):
            RemoteModel(**{"url": "http://127.0.0.1:1/", **settings})


class TestCache:
    def test_nothing_is_asked_twice(self, tmp_path):
        with Server() as server:
            first = RemoteModel(server.url, cache=tmp_path / "deep" / "answers.db")
            twice = np.concatenate([images(3), images(3)])
            out = asked(first, twice)
            assert first.inputs_sent == 3
            again = RemoteModel(server.url, cache=tmp_path / "deep" / "answers.db")
            np.testing.assert_array_equal(asked(again, twice), out)
            assert again.inputs_sent == 0
            asked(again, images(4, seed=2))
            assert again.inputs_sent == 4

    def test_other_requests_have_answers_of_their_own(self, tmp_path):
        cache = tmp_path / "answers.db"
        template = Template({"inputs": "{inputs}", "version": 2})
        with Server() as server:
            asked(RemoteModel(server.url, cache=cache), images())
            for other in (
                RemoteModel(server.url + "?v=2", cache=cache),
                RemoteModel(server.url, cache=cache, template=template),
            ):
                asked(other, images())
                assert other.inputs_sent == 5

    def test_what_came_before_the_trouble_is_kept(self, tmp_path):
        cache = tmp_path / "answers.db"
        with Server(script=[None, None, 500]) as server:
            model = RemoteModel(server.url, cache=cache, batch_size=2, retries=0)
            with pytest.raises(Unreachable):
                asked(model, images(6))
            again = RemoteModel(server.url, cache=cache, batch_size=2)
            asked(again, images(6))
            assert again.inputs_sent == 2

    def test_a_killed_run_goes_on_where_it_was(self, tmp_path):
        code = (
            "import sys, numpy as np; from robustkit.models.remote import RemoteModel;"
            "from robustkit.numerics.tensors import as_tensor;"
            "x = np.random.default_rng(1).random((40, 1, 4, 4)).astype(np.float32);"
            "url, cache = sys.argv[1:];"
            "model = RemoteModel(url, cache=cache, batch_size=1, rate=50);"
            "model.logits(as_tensor(x))"
        )
        cache = tmp_path / "answers.db"
        with Server() as server:
            process = subprocess.Popen([sys.executable, "-c", code, server.url, cache])
            while len(server.requests) < 10:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            before = len(server.requests)
            model = RemoteModel(server.url, cache=cache)
            asked(model, images(40))
            # The last answer may have been on its way.
            assert 40 - before <= model.inputs_sent <= 40 - before + 1

    def test_the_classes_are_remembered_too(self, tmp_path):
        def answer(scores):
            return {"labels": scores.argmax(1).tolist(), "classes": 3}

        with Server(answer) as server:
            asked(RemoteModel(server.url, cache=tmp_path / "a.db"), images())
            again = RemoteModel(server.url, cache=tmp_path / "a.db")
            assert asked(again, images()).shape == (5, 3)
            assert again.inputs_sent == 0

    def test_classes_that_another_process_was_told_are_known(self, tmp_path):
        def answer(scores):
            return {"labels": scores.argmax(1).tolist(), "classes": 3}

        with Server(answer) as server:
            waiting = RemoteModel(server.url, cache=tmp_path / "a.db")
            asked(RemoteModel(server.url, cache=tmp_path / "a.db"), images())
            assert asked(waiting, images()).shape == (5, 3)
            assert waiting.inputs_sent == 0

    def test_a_full_disk_ends_the_run_and_is_no_answer(self, tmp_path):
        with Server() as server:
            model = RemoteModel(server.url, cache=tmp_path / "a.db")
            asked(model, images())
            # What SQLite says of a file that may not grow is the same.
            model._cache._base.execute("PRAGMA max_page_count=1")
            with pytest.raises(BadInput, match=r"as a cache .*\(.*full\); see that"):
                asked(isolated(model), images(40, seed=2))
            assert len(server.requests) == 2

    def test_answers_that_make_no_sense_are_not_kept(self, tmp_path):
        answers = [{"scores": [["x", "y"]] * 5}, {"scores": [[1.0, 2.0]] * 5}]
        with Server(lambda scores: answers.pop(0)) as server:
            model = RemoteModel(server.url, cache=tmp_path / "a.db")
            with pytest.raises(BadInput, match="all scores as a list of numbers"):
                asked(model, images())
            assert asked(model, images()).shape == (5, 2)

    def test_no_cache_file(self, tmp_path):
        (tmp_path / "a.db").write_text("a text, much longer than nothing" * 9)
        with pytest.raises(BadInput, match=r"cannot use .* as a cache"):
            RemoteModel("http://127.0.0.1:1/", cache=tmp_path / "a.db")


class TestPictures:
    def test_png_rounds_to_levels_and_the_server_sees_the_point_recorded(self):
        with Server() as server:
            model = RemoteModel(server.url, encoding=Picture("png"))
            x, y = data(server)
            problem = Problem(
                model, as_tensor(x), Misclassification(as_tensor(y)), get_norm("linf")
            )
            a = problem.score(as_tensor(x + np.float32(0.005)))
            np.testing.assert_allclose(a.point.numpy(), server.inputs[-1], atol=1e-7)
            levels = a.point.numpy() * 255
            np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
            # 0.005 is 1.3 levels; one is sent. None is, where white stays white.
            np.testing.assert_allclose(a.distance.numpy(), 1 / 255, rtol=1e-5)

    def test_data_of_8_bits_come_through_as_they_are(self):
        x = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
        for lower, width in ((0.0, 1.0), (-1.0, 2.0), (0.0, 255.0)):
            values = (lower + width * (np.arange(256) / 255)).astype(np.float32)
            bounds = rk.Bounds(lower, lower + width)
            shown = Picture("png").shown(values.reshape(1, 1, 16, 16), bounds)
            np.testing.assert_array_equal(shown.ravel(), values)
        assert x.shape == (256,)

    def test_jpeg_a_point_shown_stays_and_its_own_file_is_sent(self):
        with Server() as server:
            model = RemoteModel(server.url, encoding=Picture("jpeg", quality=50))
            shown = model.shown(as_tensor(images(8)))
            assert np.abs(shown.numpy() - images(8)).max() > 0.01
            np.testing.assert_array_equal(model.shown(shown).numpy(), shown.numpy())
            asked(model, shown.numpy())
            np.testing.assert_allclose(server.inputs[-1], shown.numpy(), atol=1e-7)

    def test_colours_last_and_first(self):
        x = images(1)[:, :, :3, :3].repeat(3, axis=1) * [[[[0.2]], [[0.5]], [[0.9]]]]
        first = Picture("png").shown(x, rk.Bounds())
        last = Picture("png", channels_first=False)
        turned = last.shown(x.transpose(0, 2, 3, 1), rk.Bounds())
        np.testing.assert_array_equal(turned.transpose(0, 3, 1, 2), first)
        for kind in ("png", "jpeg"):
            assert Picture(kind).encode(x[0], rk.Bounds())
            with pytest.raises(BadInput, match="1 or 3 channels"):
                Picture(kind).encode(np.zeros((2, 4, 4)), rk.Bounds())

    def test_bad_settings(self):
        with pytest.raises(BadInput, match="png or jpeg"):
            Picture("gif")
        with pytest.raises(BadInput, match="1 to 100"):
            Picture("jpeg", quality=0)

    def test_wrapped_the_grid_is_that_of_the_input(self):
        inner = RemoteModel("http://127.0.0.1:1/", encoding=Picture("png"))
        x = as_tensor(images())
        model = WithStrategy(inner, lambda ask, points: ask(points))
        np.testing.assert_array_equal(model.shown(x).numpy(), inner.shown(x).numpy())
        scaled = Preprocessed(inner, [0.0], [2.0])
        levels = scaled.shown(x).numpy() / 2 * 255
        assert np.abs(levels - levels.round()).max() < 1e-3
        assert np.abs(scaled.shown(x).numpy() - x.numpy()).max() <= 1 / 255 + 1e-6
        plain = Preprocessed(RemoteModel("http://127.0.0.1:1/"), [0.1], [0.9])
        assert plain.shown(x) is x

    @pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (0.1, 0.9), (-0.5, 1.0)])
    def test_hold_no_inputs_that_were_normalised_out_of_their_bounds(self, mean, std):
        inner = RemoteModel("http://127.0.0.1:1/", encoding=Picture("png"))
        with pytest.raises(BadInput, match="leave out mean and std"):
            Preprocessed(inner, [mean], [std]).shown(as_tensor(images()))


class TestWhole:
    def test_from_the_command_line(self, tmp_path):
        def labels(scores):
            return {"labels": scores.argmax(1).tolist(), "classes": 3}

        with Server(labels) as server:
            x, y = data(server)
            np.savez(tmp_path / "data.npz", x=x, y=y)
            arguments = ["eval", server.url, "--data", str(tmp_path / "data.npz")]
            arguments += ["--norm", "l2", "--out", str(tmp_path / "run")]
            arguments += ["--attacks", "gaussian-noise", "--budget", "40"]
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 0, done.output
            results = rk.Results(tmp_path / "run")
            assert results.run["model"]["access"] == "decision"
            assert results.run["model"]["adapter"] == "RemoteModel"
            assert np.isfinite(results.distance).all()

    def test_keys_come_from_the_environment_and_stay_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SOME_KEY", "sesame-4711")
        with Server() as server:
            x, y = data(server)
            np.savez(tmp_path / "data.npz", x=x, y=y)
            run, cache = tmp_path / "run", tmp_path / "answers.db"
            arguments = ["eval", server.url, "--data", str(tmp_path / "data.npz")]
            arguments += ["--attacks", "gaussian-noise", "--budget", "20"]
            arguments += ["--cache", str(cache), "--out", str(run)]
            arguments += ["--header", "Authorization=Bearer ENV:SOME_KEY"]
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 0, done.output
            sent = [headers["Authorization"] for headers in server.headers]
            assert set(sent) == {"Bearer sesame-4711"}
            config = rk.Results(run).run["config"]
            assert config["headers"] == {"Authorization": "Bearer ENV:SOME_KEY"}
            assert config["cache"] == str(cache)
            for path in tmp_path.rglob("*"):
                assert path.is_dir() or b"sesame" not in path.read_bytes(), path
            # The same again out of the cache, which needs no server.
            arguments[arguments.index(str(run))] = str(tmp_path / "again")
            asked = len(server.requests)
            assert CliRunner().invoke(main, arguments).exit_code == 0
            assert len(server.requests) == asked
            server.headers.clear()
            verified = ["verify", str(run), "--model", server.url]
            verified += ["--data", str(tmp_path / "data.npz")]
            # No key is sent because a run folder says so.
            assert CliRunner().invoke(main, verified).exit_code == 0
            assert not any("Authorization" in sent for sent in server.headers)
            server.headers.clear()
            verified += ["--header", "Authorization=ENV:SOME_KEY"]
            assert CliRunner().invoke(main, verified).exit_code == 0
            sent = {headers["Authorization"] for headers in server.headers}
            assert sent == {"sesame-4711"}

    def test_keys_in_an_address_come_from_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SOME_KEY", "sesame-4711")
        with Server() as server:
            x, y = data(server)
            np.savez(tmp_path / "data.npz", x=x, y=y)
            run, asked = tmp_path / "run", f"{server.url}?v=2&api_key=ENV:SOME_KEY"
            arguments = ["eval", asked, "--data", str(tmp_path / "data.npz")]
            arguments += ["--attacks", "gaussian-noise", "--budget", "20"]
            done = CliRunner().invoke(main, [*arguments, "--out", str(run)])
            assert done.exit_code == 0, done.output
            assert set(server.paths) == {"/predict?v=2&api_key=sesame-4711"}
            assert rk.Results(run).run["config"]["model"] == asked
            for path in tmp_path.rglob("*"):
                assert path.is_dir() or b"sesame" not in path.read_bytes(), path

    @pytest.mark.parametrize(
        ("query", "refused"),
        [
            ("?api_key=sesame", True),
            ("?v=2&Access-Token=sesame", True),
            ("?key=ENV:NO_KEY", True),
            ("?v=2&model=monkey", False),
        ],
    )
    def test_keys_in_an_address_are_not_repeated(self, monkeypatch, query, refused):
        monkeypatch.delenv("NO_KEY", raising=False)
        address = f"http://127.0.0.1:1/{query}"
        if refused:
            with pytest.raises(BadInput, match="environment") as told:
                load_model(address)
            assert "sesame" not in str(told.value)
        else:
            assert filled_address(address) == address

    @pytest.mark.parametrize("act", [404, (301, {"Location": "/?key=sesame"}), "drop"])
    def test_troubles_do_not_repeat_the_query(self, act):
        with Server(script=[act] * 3) as server:
            model = RemoteModel(f"{server.url}?key=sesame", retries=1, **QUICK)
            with pytest.raises((BadInput, Unreachable), match="/predict") as told:
                model.logits(as_tensor(np.zeros((1, 1, 4, 4), np.float32)))
        assert "sesame" not in str(told.value)

    def test_keys_that_would_be_kept_are_refused_and_not_repeated(self, monkeypatch):
        monkeypatch.delenv("NO_KEY", raising=False)
        command = ["eval", "http://127.0.0.1:1/", "--data", "digits"]
        for header, words in (
            ("X-Key=sesame-4711", "must come from the environment"),
            ("X-Key: sesame-4711", "expected NAME=VALUE"),
            ("X-Key=ENV:NO_KEY", "environment variable NO_KEY"),
        ):
            done = CliRunner().invoke(main, [*command, "--header", header])
            assert done.exit_code != 0
            assert words in " ".join(done.output.split())
            assert "sesame" not in done.output
        with pytest.raises(BadInput, match="for models at an address"):
            load_model("digits", cache="answers.db")
        with pytest.raises(BadInput, match="given by its address"):
            rk.evaluate(lambda x: x, "digits", cache="answers.db")

    def test_after_its_server_died_a_run_can_be_had_for_what_is_missing(self, tmp_path):
        settings = {"norm": "l2", "attacks": ["gaussian-noise", "square"], "budget": 20}
        sent = []
        with Server() as server:
            x, y = data(server)
            model = RemoteModel(server.url, retries=1, cache=tmp_path / "a.db", **QUICK)

            def dying(ask, points):
                sent.append(points.shape[0])
                if len(sent) == 25:
                    server.die()
                return ask(points)

            mortal, out = WithStrategy(model, dying), tmp_path / "run"
            with pytest.raises(Unreachable, match="sent 2 times"):
                rk.evaluate(mortal, (x, y), out=out, **settings)
        results = rk.Results(out)
        assert results.run["status"] == "failed"
        assert "gave no answer" in results.run["failure"]
        with sqlite3.connect(tmp_path / "a.db") as base:
            (kept,) = base.execute("SELECT count(*) FROM answers").fetchone()
        base.close()
        with Server(port=server.http.server_port) as server:
            model = RemoteModel(server.url, cache=tmp_path / "a.db")
            again = rk.evaluate(model, (x, y), **settings)
            fresh = RemoteModel(server.url, cache=tmp_path / "b.db")
            whole = rk.evaluate(fresh, (x, y), **settings)
        np.testing.assert_array_equal(again.distance, whole.distance)
        assert kept > 20
        assert model.inputs_sent == fresh.inputs_sent - kept

    def test_what_was_sent_is_what_is_reported(self, tmp_path):
        with Server() as server:
            x, y = data(server)
            model = RemoteModel(server.url, encoding=Picture("png"))
            results = rk.evaluate(
                model, (x, y), norm="linf", attacks=["square"], budget=60
            )
            found = results.adversarials()
            levels = found["x_adversarial"].astype(np.float64) * 255
            np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
            seen = np.concatenate(server.inputs)
            for point, row, size in zip(
                found["x_adversarial"], found["index"], found["distance"], strict=True
            ):
                assert np.abs(seen - point).max(axis=(1, 2, 3)).min() < 1e-6
                assert size == pytest.approx(np.abs(point - x[row]).max(), rel=1e-6)

    def test_what_was_sent_as_jpeg_holds_for_who_has_the_run_folder(self, tmp_path):
        with Server() as server:
            x, y = data(server)
            encoding = Picture("jpeg", quality=60)
            model = RemoteModel(server.url, encoding=encoding)
            settings = {"norm": "l2", "attacks": ["square"], "budget": 60}
            rk.evaluate(model, (x, y), out=tmp_path / "run", **settings)
            server.inputs.clear()
            other = RemoteModel(server.url, encoding=Picture("jpeg", quality=60))
            found = rk.verify(tmp_path / "run", other, (x, y))
        assert found.holds
        stored = rk.Results(tmp_path / "run").adversarials()["x_adversarial"]
        assert len(stored) > 2
        seen = np.concatenate(server.inputs)
        for point in stored:
            assert np.abs(seen - point).max(axis=(1, 2, 3)).min() < 1e-6

    def test_an_address_needs_an_example(self):
        with pytest.raises(ExampleNeeded, match="found out by asking"):
            load_model("http://127.0.0.1:1/")
        with Server() as server:
            model = load_model(server.url, example=images())
            assert (model.access, model.name) == (Access.SCORE, server.url)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 13, 6), (1, 1, 1)])
@pytest.mark.parametrize("quality", [1, 60, 95, 100])
def test_every_jpeg_shown_can_be_made_anew_by_who_has_the_image_alone(shape, quality):
    x = np.random.default_rng(0).random((4, *shape))
    # Corners of the box are what clipping disturbs most.
    x[2:] = x[2:].round()
    ours, theirs = Picture("jpeg", quality), Picture("jpeg", quality)
    shown = ours.shown(x, Bounds())
    np.testing.assert_array_equal(theirs.shown(shown, Bounds()), shown)
    for image in shown:
        file = base64.b64decode(theirs.encode(image, Bounds()))
        with Image.open(io.BytesIO(file)) as opened:
            pixels = np.array(opened).reshape(*shape[1:], shape[0])
        np.testing.assert_allclose(pixels.transpose(2, 0, 1) / 255, image, atol=1e-9)


def test_a_jpeg_of_whole_blocks_stays_as_near_as_one_file_comes():
    x = np.random.default_rng(0).random((4, 3, 32, 32))
    shown = Picture("jpeg", 90).shown(x, Bounds())
    for image, near in zip(x, shown, strict=True):
        file = io.BytesIO()
        pixels = (255 * image).round().astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(file, "jpeg", quality=90, subsampling=0)
        with Image.open(file) as opened:
            once = np.array(opened).transpose(2, 0, 1) / 255
        assert np.abs(near - image).mean() < 1.1 * np.abs(once - image).mean()


def test_flat_grey_blocks_are_at_rest_after_two_files():
    """Why every image comes to rest in the end, whatever the quality."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = levels.repeat(8, axis=0).repeat(8, axis=1)[:, :, None].repeat(3, axis=2)
    for quality in range(1, 101):
        picture = Picture("jpeg", quality)
        settled = picture._reopened(picture._reopened(x))
        assert (settled == settled[:, :, :1]).all()
        np.testing.assert_array_equal(picture._reopened(settled), settled)


def test_no_password_in_an_address():
    with pytest.raises(BadInput, match="send it in a header") as told:
        RemoteModel("https://me:hunter2@example.org/predict")
    assert "hunter2" not in str(told.value)
