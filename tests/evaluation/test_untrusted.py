"""Run folders of somebody's making: they are refused, or read, and nothing else."""

import copy
import io
import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_best, read_examples
from robustkit.report import write_report
from robustkit.report.checklist import checklist
from robustkit.report.content import gather
from robustkit.report.markup import latex, markdown
from robustkit.report.page import render

FILES = ("run.json", "samples.csv", "queries.csv", "best.npz", "examples.npz")


@pytest.fixture(scope="module")
def whole(plant, tmp_path_factory):
    planted = plant(seed=8, samples=12, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    folder = tmp_path_factory.mktemp("run") / "run"
    rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn", "gaussian-noise"],
        norm=["l2"],
        budget=10,
        out=folder,
    )
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "theirs" / "run")


def everything(run):
    """All that can be made of a run folder."""
    content = gather([rk.Results(run)])
    return render(content) + markdown(content) + latex(content)


def test_the_run_itself_is_fine(run):
    assert "Robustness of" in everything(run)


@pytest.mark.parametrize("name", FILES)
def test_links_out_of_the_folder_are_not_followed(run, tmp_path, name):
    secret = tmp_path / "secret"
    shutil.move(run / name, secret)
    (run / name).symlink_to(secret)
    with pytest.raises(BadInput, match="is a link to a place outside of its folder"):
        everything(run)


@pytest.mark.parametrize("name", FILES)
def test_pipes_are_not_waited_for(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(BadInput, match="is no ordinary file"):
        everything(run)


def test_traces_are_read_as_carefully(run, tmp_path):
    results, path = rk.Results(run), run / "traces.npz"
    secret = shutil.copy(path, tmp_path / "secret")
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(BadInput, match="is a link to a place outside of its folder"):
        results.traced("fmn")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadInput, match="is no ordinary file"):
        results.traced("fmn")


@pytest.mark.parametrize("rows", [10**14, 2**62])
def test_traces_that_promise_more_than_there_is(run, rows):
    path = run / "traces.npz"
    with zipfile.ZipFile(path) as archive:
        arrays = {entry: archive.read(entry) for entry in archive.namelist()}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (rows,)}
    )
    arrays["first_margin.npy"] = head.getvalue() + bytes(4)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in arrays.items():
            archive.writestr(entry, data)
    with pytest.raises(BadInput, match=r"is not the traces\.npz of a run"):
        rk.Results(run).traced("fmn")


def test_traces_with_holes(run):
    with open(run / "traces.npz", "r+b") as file:
        file.truncate(1 << 32)
    with pytest.raises(BadInput, match="is larger than"):
        rk.Results(run).traced("fmn")


@pytest.mark.parametrize("name", ["report.html", "curve.png", ".report.html.part"])
def test_nothing_is_written_through_a_link(run, tmp_path, name):
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (run / name).symlink_to(mine)
    if name == ".report.html.part":
        with pytest.raises(BadInput, match="cannot write the report"):
            write_report(rk.Results(run))
    else:
        write_report(rk.Results(run))
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("name", ["best.npz", "examples.npz"])
def test_no_memory_is_taken_for_holes_and_promises(run, name):
    read = read_best if name == "best.npz" else read_examples
    with zipfile.ZipFile(run / name) as archive:
        arrays = {entry: archive.read(entry) for entry in archive.namelist()}
    content = np.zeros((100, 1 << 18), dtype="<f4")
    packed = io.BytesIO()
    np.lib.format.write_array(packed, content)
    inputs = "x_adversarial.npy" if name == "best.npz" else "x.npy"
    with zipfile.ZipFile(run / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in arrays.items():
            archive.writestr(entry, packed.getvalue() if entry == inputs else data)
    del content, packed
    assert (run / name).stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(BadInput, match="is compressed"):
        read(run / name)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_objects_are_not_unpickled(run, monkeypatch):
    import pickle

    def loaded(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", loaded)
    monkeypatch.setattr(pickle, "loads", loaded)
    np.savez(run / "best.npz", norm=np.array([{"a": 1}], dtype=object))
    np.savez(run / "examples.npz", index=np.array([{"a": 1}], dtype=object), x=[[1.0]])
    for read, name in ((read_best, "best.npz"), (read_examples, "examples.npz")):
        with pytest.raises(BadInput, match="dtype object"):
            read(run / name)


def test_a_large_or_deep_description_is_refused(run):
    with open(run / "run.json", "r+b") as file:
        file.truncate(1 << 31)
    tracemalloc.start()
    with pytest.raises(BadInput, match="is larger than"):
        rk.Results(run)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    (run / "run.json").write_text('{"a":' + "[" * 200_000)
    with pytest.raises(BadInput, match="cannot read"):
        rk.Results(run)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("samples.csv", "fmn", "x" * 200_000),
        ("samples.csv", "0,", "9" * 30 + ","),
        ("samples.csv", "0,", "\0,"),
        ("queries.csv", "fmn", "x" * 200_000),
    ],
)
def test_broken_tables_are_told(run, name, old, new):
    text = (run / name).read_text()
    head, _, rest = text.partition("\n")
    (run / name).write_text(f"{head}\n" + rest.replace(old, new, 1))
    with pytest.raises(BadInput, match="cannot read the table"):
        everything(run)


def test_a_line_that_was_cut_off_is_told(run):
    text = (run / "samples.csv").read_text()
    for cut in (text[:-30], f"{text[:-1]},more\n"):
        (run / "samples.csv").write_text(cut)
        with pytest.raises(BadInput, match=r"line \d+ has not 15 values"):
            rk.Results(run)


def test_adversarials_that_do_not_belong_to_the_originals(run):
    best = dict(np.load(run / "best.npz"))
    whole = best["x_adversarial"]
    broken = whole.copy()
    broken[:] = np.nan
    for points in (whole[:, :3].copy(), broken, whole[::-1].copy()):
        np.savez(run / "best.npz", **{**best, "x_adversarial": points})
        with pytest.raises(BadInput, match="do not belong together: sample"):
            everything(run)


def test_rows_of_another_length_are_told(run):
    lines = (run / "queries.csv").read_text().splitlines()
    for row in (lines[3].rpartition(",")[0], lines[3] + ",1.0"):
        (run / "queries.csv").write_text("\n".join([*lines[:3], row, *lines[4:]]))
        with pytest.raises(BadInput, match="cannot read the table of queries"):
            everything(run)


def leaves(tree, path=()):
    """Paths to all values in nested JSON, containers included."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize(
    ("place", "value"), [(("model", "classes"), 0), (("attack_access",), [])]
)
def test_a_description_of_what_cannot_be_is_refused(run, place, value):
    content = json.loads((run / "run.json").read_text())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=f"{'.'.join(place)} is"):
        rk.Results(run)


def test_a_checklist_of_findings_of_any_form(run):
    for measured in ("5", '{"trials": [1]}'):
        text = f'{{"findings": [], "measured": {measured}}}'
        (run / "findings.json").write_text(text)
        with pytest.raises(BadInput, match="does not hold findings"):
            checklist(run)


@pytest.mark.slow
def test_a_description_of_any_form_is_read_or_refused(run):
    """Every value of run.json in turn is of another type, or is missing."""
    whole = json.loads((run / "run.json").read_text())
    rng = np.random.default_rng(0)
    others = [None, -1, 1e308, "", "x", [], ["x"], [None], {}, {"x": 1}, True, 2**70]
    read = refused = 0
    for path in leaves(whole):
        for value in (*rng.choice(np.array(others, dtype=object), 2), KeyError):
            changed = copy.deepcopy(whole)
            inner = changed
            for name in path[:-1]:
                inner = inner[name]
            if value is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            (run / "run.json").write_text(json.dumps(changed))
            try:
                everything(run)
                read += 1
            except BadInput:
                refused += 1
            except Exception as error:
                raise AssertionError((path, value)) from error
    assert read > 20
    assert refused > 20


@pytest.mark.parametrize(
    "distance", ["1e308", "5e-324", "-1.0", "nan", "inf", "1e99", "1e-99", "0.0"]
)
@pytest.mark.parametrize("every", [True, False])
def test_distances_of_any_size_are_read_or_refused(run, distance, every):
    lines = (run / "samples.csv").read_text().splitlines()
    place = lines[0].split(",").index("distance")
    for row in range(1, len(lines) if every else 2):
        cells = lines[row].split(",")
        cells[place] = distance
        lines[row] = ",".join(cells)
    (run / "samples.csv").write_text("\n".join(lines) + "\n")
    if distance in ("1e308", "5e-324", "-1.0"):
        with pytest.raises(BadInput, match="it has a distance of"):
            everything(run)
    else:
        assert "Robustness of" in everything(run)


def test_warrants_and_findings_of_any_form(run):
    for name, text in (
        ("warrants.json", '{"norms": {"l2": {"fmn": {"verdict": 1, "rule": ""}}}}'),
        ("warrants.json", '{"norms": {"l2": {"fmn": []}}}'),
        (
            "warrants.json",
            '{"norms": {"l2": {"fmn": {"verdict": "", "rule": "", "epsilon": "x"}}}}',
        ),
        ("findings.json", '{"findings": [1]}'),
        ("findings.json", '{"findings": [{"id": "a"}]}'),
        ("findings.json", "{}"),
        ("adaptive.json", "{}"),
        ("adaptive.json", '{"norms": {"l2": {"steps": [{}]}}, "samples": 1}'),
        ("adaptive.json", '{"norms": {"l2": {"steps": []}}, "samples": 1, "draws": 1}'),
        ("adaptive.json", '{"norms": [1], "samples": "x", "draws": 1}'),
    ):
        (run / name).write_text(text)
        with pytest.raises(BadInput, match=name):
            everything(run)
        (run / name).unlink()


def test_orders_to_the_terminal_are_not_passed_on(run):
    text = (run / "run.json").read_text()
    changed = json.loads(text)
    changed["notes"] = ["\x1b]0;mine\x07 and \x9b2J"]
    (run / "run.json").write_text(json.dumps(changed))
    table = (run / "samples.csv").read_text()
    (run / "samples.csv").write_text(table.replace("fmn", "f\x1b[2Jn"))
    shown = everything(run)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown
