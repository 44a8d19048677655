import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.report import write_report
from robustkit.report.checklist import checklist


@pytest.fixture
def results(planted):
    return rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        norm=["linf", "l2"],
        attacks={"fmn": rk.FMN(), "uniform-noise": rk.UniformNoise(steps=20)},
        epsilons={"linf": [0.1], "l2": [0.2, 0.1]},
    )


def merged(run):
    with tempfile.TemporaryDirectory() as folder:
        return rk.merge(run, Path(folder, "run")).distance.tolist()


ABOUT_A_RUN = {
    "adapt": lambda run: rk.adapt(run, "digits", "digits", budget=20).steps[0].remedy,
    "bound_below": lambda run: (
        rk.bound_below(run, "digits", "digits", "interval").lower().tolist()
    ),
    "check": lambda run: len(
        rk.check("digits", "digits", run=run, samples=4, trials=0).findings
    ),
    "checklist": checklist,
    "compare": lambda run: rk.compare(run).to_json()["attacks"],
    "merge": merged,
    "resume": lambda run: rk.resume(run).distance.tolist(),
    "verify": lambda run: rk.verify(run, "digits", "digits").holds,
    "warrant": lambda run: rk.warrant(
        run, "digits", "digits", ["fmn"], samples=4
    ).warrant("linf", "fmn")["verdict"],
    "write_report": lambda run: write_report(run).name,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("kept") / "run"
    return rk.evaluate(
        "digits", "digits", attacks=["fmn"], samples=6, budget=20, out=out
    )


@pytest.mark.parametrize("name", ABOUT_A_RUN)
def test_a_run_is_its_folder_or_its_results(kept, name):
    asked = ABOUT_A_RUN[name]
    of_results = asked(kept)
    assert asked(kept.path) == asked(str(kept.path)) == of_results
    with pytest.raises(BadInput, match="a run folder, or the results of a run"):
        asked(3)
    with pytest.raises(BadInput, match="not a run folder"):
        asked("no-such-folder")


def test_the_nearest_of_all_attacks_counts(results):
    for norm in results.norms:
        each = [results.distances(norm, attack) for attack in results.attacks(norm)]
        assert len(each) == 2
        np.testing.assert_array_equal(results.distances(norm), np.minimum(*each))


def test_the_summary_says_what_the_results_say(results):
    summary = results.summary()
    assert summary["samples"] == 24
    entries = summary["norms"]["l2"]["robust_accuracy"]
    assert [entry["epsilon"] for entry in entries] == [0.1, 0.2]
    for entry in entries:
        said = (entry["estimate"], entry["lower"], entry["upper"])
        assert said == results.robust_accuracy(entry["epsilon"], "l2")
    fmn = summary["norms"]["linf"]["attacks"]["fmn"]
    assert fmn["found"] == fmn["attacked"] == 24
    assert fmn["forward_passes"] == fmn["backward_passes"] == 24 * rk.FMN().steps
    assert fmn["median"] == np.sort(results.distances("linf", "fmn"))[11]


def test_several_norms_must_be_named(results):
    with pytest.raises(BadInput, match="say which"):
        results.distance  # noqa: B018
    with pytest.raises(BadInput, match="did you mean 'linf'"):
        results.curve("inf")
    with pytest.raises(BadInput, match="no attack 'pgd'"):
        results.distances("l2", "pgd")


@pytest.mark.parametrize(
    "ask",
    [
        lambda results, name: results.distances("l2", name),
        lambda results, name: results.finished("l2", name),
        lambda results, name: results.curve("l2", name),
        lambda results, name: results.queries(name, "l2"),
        lambda results, name: results.distances_after(name, "l2"),
        lambda results, name: results.forward_passes(name, "l2"),
        lambda results, name: results.backward_passes(name, "l2"),
        lambda results, name: results.passes(name, "l2"),
        lambda results, name: results.traced(name, "l2"),
        lambda results, name: results.warrant("l2", name),
    ],
)
def test_attacks_that_the_run_has_not_are_named(results, ask):
    ask(results, "fmn")
    with pytest.raises(BadInput, match="no attack 'fnm'; did you mean 'fmn'"):
        ask(results, "fnm")


def test_a_norm_is_its_name_or_itself(results):
    assert np.array_equal(results.distances(rk.L2()), results.distances("l2"))
    assert results.warrant(rk.L2(), "fmn") == results.warrant("l2", "fmn")
    with pytest.raises(BadInput, match=r"the run has no norm 'l1'; .*known: l2, linf"):
        results.distances(rk.L1())


def test_a_warrant_is_of_a_norm_of_the_run(results):
    with pytest.raises(BadInput, match="no norm 'fmn'"):
        results.warrant("fmn", "l2")


def test_saved_results_are_the_same(results, tmp_path):
    copy = rk.Results(results.save(tmp_path / "kept"))
    for norm in results.norms:
        np.testing.assert_array_equal(copy.distances(norm), results.distances(norm))
    with pytest.raises(BadInput, match="cannot save"):
        results.save(tmp_path / "kept")


def test_not_a_run_folder(tmp_path):
    with pytest.raises(BadInput, match="not a run folder"):
        rk.Results(tmp_path)


def test_a_newer_format_is_refused(results, tmp_path):
    path = results.save(tmp_path / "kept") / "run.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(BadInput, match="format 2"):
        rk.Results(tmp_path / "kept")


@pytest.mark.parametrize("name", ["samples", "mean", "std", "device", "batch_size"])
def test_a_setting_that_is_missing_is_named(results, tmp_path, name):
    path = results.save(tmp_path / "kept") / "run.json"
    description = json.loads(path.read_text())
    del description["config"][name]
    path.write_text(json.dumps(description))
    with pytest.raises(BadInput, match=f"config.{name} is missing"):
        rk.Results(tmp_path / "kept")


def test_negative_epsilon(results):
    with pytest.raises(BadInput, match="at least 0"):
        results.robust_accuracy(-0.1, "l2")


@pytest.mark.parametrize("cut", [1, 3, 30, 60])
def test_of_a_run_that_was_killed_the_last_whole_line_counts(results, tmp_path, cut):
    kept = results.save(tmp_path / "kept")
    description = json.loads((kept / "run.json").read_text())
    (kept / "run.json").write_text(json.dumps({**description, "status": "running"}))
    table = kept / "samples.csv"
    *lines, last = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines, last.replace(",found,", ",error,")[:-cut]]))
    killed = rk.Results(kept)
    assert len(killed._table["index"]) == len(lines) - 1
    killed.report()


@pytest.mark.parametrize(
    ("old", "new"), [("index,label", "label,index"), ("fmn,linf,true", "fmn,linf")]
)
def test_a_broken_table_is_one_clear_error(results, tmp_path, old, new):
    path = results.save(tmp_path / "kept") / "samples.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadInput, match="cannot read the table"):
        rk.Results(tmp_path / "kept")
