import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import robustkit as rk
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.report.export import export_hf, export_images, export_npz


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("digits", "digits-robust"):
        rk.evaluate(
            name,
            "digits",
            norm=["linf", "l2"],
            attacks=["fmn", "gaussian-noise"],
            samples=50,
            budget=20,
            out=folder / name,
        )
    return folder


@pytest.fixture
def ask(runs, monkeypatch):
    monkeypatch.chdir(runs)

    def asked(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        return done.exit_code, done.stdout, done.stderr

    return asked


def test_one_page_for_several_runs(ask, runs, tmp_path):
    code, out, _ = ask("report", "digits", "digits-robust", "--out", tmp_path / "both")
    assert code == 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert out.strip() == str(tmp_path / "both" / "report.html")
    for said in (
        "Robustness in 2 runs",
        "digits-robust against digits",
        "all bands hold at once",
        "Nearest of all attacks: digits-robust",
        "Attacks against the nearest of all",
        "Spectrum of the perturbations",
    ):
        assert said in page


def test_one_run_gets_the_same_page_as_after_its_evaluation(ask, runs):
    written = rk.Results(runs / "digits").report()
    before = written.read_bytes()
    written.unlink()
    assert ask("report", "digits")[0] == 0
    assert written.read_bytes() == before


@pytest.mark.slow
def test_figures_for_print(ask, tmp_path):
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        code, out, error = ask(
            *("report", "digits", "digits-robust", "--out", folder),
            *("--figures", "png,svg,pdf"),
        )
        assert code == 0, error
        files = sorted(path for path in folder.iterdir() if path.suffix in starts)
        assert {path.stem for path in files} == {
            *("curve", "envelope", "passes", "power-law", "queries", "spectrum")
        }
        assert len(files) == 3 * 6
        assert all(str(path) in out for path in files)
        contents.append({path.name: path.read_bytes() for path in files})
        for path in files:
            assert contents[-1][path.name].startswith(starts[path.suffix])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("form", [(), ("--markdown",), ("--latex",)])
def test_nothing_is_written_where_a_format_is_refused(ask, tmp_path, form):
    folder = tmp_path / "new"
    code, out, error = ask(
        "report", "digits", "--out", folder, "--figures", "bmp", *form
    )
    assert code == 2
    assert "unknown format 'bmp'" in error
    assert out == ""
    assert not folder.exists()


def test_markdown_and_latex_have_the_numbers_of_the_summary(ask, runs):
    code, text, _ = ask("report", "digits", "--markdown")
    assert code == 0
    summary = rk.Results(runs / "digits").summary()
    rows = [line for line in text.splitlines() if line.startswith("| 0.1 (25.5/255)")]
    share = next(
        a["estimate"]
        for a in summary["norms"]["linf"]["robust_accuracy"]
        if a["epsilon"] == 0.1
    )
    assert f"| {100 * share:.0f}" in rows[0]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    # A cell less or more would shift the others.
    assert all(line.endswith("|") for line in tables)
    code, tex, _ = ask("report", "digits", "--latex")
    assert code == 0
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") >= 8
    for block in tex.split(r"\begin{tabular}")[1:]:
        columns = len(block[1 : block.index("}")])
        body = block[: block.index(r"\end{tabular}")]
        rows = [line for line in body.splitlines() if line.rstrip().endswith(r"\\")]
        assert rows
        assert {line.replace(r"\&", "").count("&") + 1 for line in rows} == {columns}


def test_the_checklist_is_printed_run_by_run(ask, runs):
    names = sorted(path.name for path in runs.iterdir())[:2]
    code, text, _ = ask("report", *names, "--checklist")
    assert code == 0
    assert text.count("# Checklist: ") == 2
    assert "**open:**" in text


def test_bad_input_is_told(ask):
    for arguments, message in (
        (
            ["report", "digits", "--markdown", "--latex"],
            "one of --markdown, --latex and --checklist",
        ),
        (["report", "digits", "--figures", "gif"], "unknown format 'gif'"),
        (["report", "nowhere"], "not a run folder"),
        (["compare", "digits", "digits", "--page", "."], "the report to '.'"),
        (["compare", "digits", "digits", "--page", ""], "the report to '.'"),
        (["compare", "digits", "--page", "digits"], "Is a directory: 'digits'"),
        (["export", "digits"], "name one form"),
        (["export", "digits", "--npz", "--hf"], "--npz and --hf"),
    ):
        code, _, error = ask(*arguments)
        assert code == 2, arguments
        assert message in error


def test_the_folder_one_is_in_can_be_exported(runs, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    shutil.copytree(runs / "digits", folder)
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["export", ".", "--npz"])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "mine-npz" / "linf.npz").exists()


def test_pictures_from_all_of_the_data(ask, tmp_path):
    code, _, _ = ask(
        "report", "digits", "--data", "digits", "--out", tmp_path, "--figures", "svg"
    )
    assert code == 0
    indices = (tmp_path / "report.html").read_text()
    assert any(f"sample {index}, label" in indices for index in range(32, 50))


def test_the_page_alone(ask, tmp_path):
    page = tmp_path / "new" / "page.html"
    code, out, _ = ask("report", "digits", "--out", page)
    assert code == 0
    assert out.strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    code, _, _ = ask("report", "digits", "--out", page, "--figures", "svg")
    assert code == 0
    assert (page.parent / "curve.svg").exists()


def test_a_comparison_as_page_and_as_json(ask, tmp_path):
    page = tmp_path / "comparison.html"
    code, out, _ = ask("compare", "digits", "digits-robust", "--json", "--page", page)
    assert code == 0
    found = json.loads(out)
    assert found["attacks"][0]["equal_passes"] == 20
    text = page.read_text()
    assert "Attacks against the nearest of all" in text
    assert "Do it again" not in text
    value = found["pairs"][0]["differences"][0]["difference"][0]
    assert f"{100 * value:+.1f}" in text


def test_names_of_files_need_not_be_text(tmp_path):
    x, y = next(iter(rk.load_data("digits").batches(4)))
    path = tmp_path / os.fsdecode(b"d\xe9.npz")
    try:
        np.savez(path, x=x, y=y)
    except OSError:
        pytest.skip("there are no such names here")
    results = rk.evaluate("digits", path, attacks=["fmn"], out=tmp_path / "run")
    assert rk.Results(tmp_path / "run").run["asked"]["data"] == str(path)
    results.report()
    export_hf(results, tmp_path / "hub")
    assert rk.verify(results, "digits", path).holds


def test_names_of_others_are_no_markup(runs, tmp_path, monkeypatch):
    evil = "[/red]\\input{x}|<b>$&"
    x = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    rk.evaluate(
        rk.NumPyModel(lambda x: x @ w, gradient=lambda x, s: s @ w.T),
        (x, (x @ w).argmax(axis=1)),
        attacks={evil: rk.FMN(steps=5)},
        out=tmp_path / "[bold]run",
    )
    monkeypatch.chdir(tmp_path)

    def answer(*arguments):
        done = CliRunner().invoke(main, [*arguments, "[bold]run"])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    table = answer("compare")
    assert "[bold]run" in table
    assert "[/red]" in table
    assert r"\[/red\]\\input\{x\}\|\<b\>\$\&" in answer("report", "--markdown")
    tex = answer("report", "--latex")
    assert r"{[}/red]\textbackslash{}input\{x\}\textbar{}\textless{}b" in tex
    assert r"\input" not in tex


class TestExport:
    def test_arrays_are_those_of_the_run_and_data_for_another(self, runs, tmp_path):
        results = rk.Results(runs / "digits")
        files = export_npz(results, tmp_path / "npz")
        assert [path.name for path in files] == ["linf.npz", "l2.npz"]
        for path in files:
            expected = results.adversarials(path.stem)
            order = np.argsort(expected["index"])
            with np.load(path, allow_pickle=False) as found:
                for name, column in (
                    ("x", "x_adversarial"),
                    ("y", "label"),
                    ("index", "index"),
                    ("distance", "distance"),
                    ("attack", "attack"),
                ):
                    np.testing.assert_array_equal(found[name], expected[column][order])
        again = rk.evaluate(
            "digits", files[0], attacks=["fmn"], budget=1, batch_size=64
        )
        # What was shown to be adversarial is so from the start.
        assert (again.distance == 0).all()
        export_npz(results, tmp_path / "again")
        assert files[0].read_bytes() == (tmp_path / "again" / "linf.npz").read_bytes()

    def test_images_keep_their_classes(self, runs, tmp_path):
        results = rk.Results(runs / "digits")
        (folder, _) = export_images(results, tmp_path / "images")
        data = rk.load_data(folder)
        _, y = next(data.batches(1000))
        best = results.adversarials("linf")
        assert sorted(y.tolist()) == sorted(best["label"].tolist())
        files = sorted(folder.rglob("*.png"), key=lambda path: path.name)
        rows = np.argsort(best["index"])
        assert [int(path.stem) for path in files] == best["index"][rows].tolist()
        for path, row in zip(files, rows, strict=True):
            with Image.open(path) as picture:
                levels = np.asarray(picture) / 255
            original = best["x_adversarial"][row][0]
            assert np.abs(levels - original).max() <= 0.5001 / 255

    def test_a_data_set_for_the_hub(self, runs, tmp_path):
        results = rk.Results(runs / "digits")
        export_hf(results, tmp_path / "hf")
        lines = [
            json.loads(line)
            for line in (tmp_path / "hf" / "l2" / "test" / "metadata.jsonl")
            .read_text()
            .splitlines()
        ]
        best = results.adversarials("l2")
        assert len(lines) == len(best["index"])
        at = {
            int(i): float(d)
            for i, d in zip(best["index"], best["distance"], strict=True)
        }
        for line in lines:
            assert at[line["index"]] == line["distance"]
            assert (tmp_path / "hf" / "l2" / "test" / line["file_name"]).exists()
        card = (tmp_path / "hf" / "README.md").read_text()
        assert card.startswith("---\npretty_name: ")
        assert 'path: "l2/test/*"' in card
        assert "robustkit eval digits --data digits" in card

    def test_inputs_that_are_no_images(self, tmp_path, plant):
        planted = plant(seed=3, samples=10, dtype=np.float32)
        results = rk.evaluate(
            planted.model(), (planted.x, planted.y), attacks=["fmn"], budget=30
        )
        with pytest.raises(BadInput, match=r"shape \(8,\), and are no images"):
            export_images(results, tmp_path / "images")
        export_hf(results, tmp_path / "hf")
        best = results.adversarials("linf")
        lines = (tmp_path / "hf" / "linf" / "test" / "data.jsonl").read_text()
        rows = [json.loads(line) for line in lines.splitlines()]
        for row in rows:
            place = int(np.flatnonzero(best["index"] == row["index"])[0])
            np.testing.assert_array_equal(
                np.float32(row["x"]), best["x_adversarial"][place]
            )

    @pytest.mark.parametrize("write", [export_npz, export_images, export_hf])
    def test_a_run_that_found_nothing_makes_no_folder(self, tmp_path, write):
        results = rk.evaluate("digits", "digits", attacks=["fgsm"], samples=2, budget=1)
        with pytest.raises(BadInput, match="has no adversarials to export"):
            write(results, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_class_names_are_no_paths(self, runs, tmp_path):
        results = rk.Results(runs / "digits")
        names = [
            "../../up",
            "/root",
            "..",
            "a/b",
            "<b>",
            "con",
            " ",
            "ü",
            "x" * 500,
            "ok",
        ]
        results.run["data"]["class_names"] = names
        (folder, _) = export_images(results, tmp_path / "deep" / "images")
        made = {path.name for path in folder.iterdir()}
        assert made == {
            *("0-up", "1-root", "2", "3-a-b", "4-b", "5-con", "6", "7"),
            *("8-" + "x" * 40, "9-ok"),
        }
        assert {path.name for path in tmp_path.iterdir()} == {"deep"}

    def test_no_folder_for_classes_that_there_cannot_be(self, runs, tmp_path):
        for classes in (2**40, 3):
            results = rk.Results(runs / "digits")
            results.run["model"]["classes"] = classes
            with pytest.raises(BadInput, match="expected labels of these classes"):
                export_images(results, tmp_path / "images")
        assert not (tmp_path / "images").exists()

    def test_nothing_is_written_over(self, runs, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "mine").write_text("")
        for write in (export_npz, export_images, export_hf):
            with pytest.raises(BadInput, match="is not empty"):
                write(rk.Results(runs / "digits"), tmp_path / "there")

    def test_a_citation_names_everything(self, ask, runs):
        code, text, _ = ask("export", "digits", "--citation")
        assert code == 0
        run = rk.Results(runs / "digits").run
        for said in (
            run["model"]["fingerprint"][:16],
            run["data"]["fingerprint"][:16],
            run["config"]["attacks"]["linf"]["fmn"],
            f"numpy {run['versions']['numpy']}",
            "budget 20",
            "seed 0",
            "@software{robustkit,",
        ):
            assert said in text
