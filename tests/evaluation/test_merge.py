import json
import shutil

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.lower import write_lower
from robustkit.evaluation.tables import ADDED
from tests.evaluation.folders import contents


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=6, samples=29, features=6, bounds=(0.0, 1.0), dtype=np.float32)


def evaluate(planted, out, **changes):
    settings = {
        "norm": ["l2", "linf"],
        "attacks": ["fmn", "gaussian-noise"],
        "budget": 20,
        "batch_size": 5,
        "out": out,
    }
    return rk.evaluate(
        planted.model(), (planted.x, planted.y), **{**settings, **changes}
    )


@pytest.fixture(scope="module")
def runs(planted, tmp_path_factory):
    """One run over everything, and the three parts of another."""
    folder = tmp_path_factory.mktemp("runs")
    for part in (1, 2, 3):
        evaluate(planted, folder / f"part-{part}", shard=(part, 3))
    evaluate(planted, folder / "whole")
    return folder


def without_seconds(run):
    summary = json.loads((run / "summary.json").read_text())
    for norm in summary["norms"].values():
        for attack in norm["attacks"].values():
            attack.pop("seconds")
    return summary


def test_parts_deal_out_the_batches_in_turn(runs):
    for part in (1, 2, 3):
        index = rk.Results(runs / f"part-{part}").index
        assert index.tolist() == [i for i in range(29) if (i // 5) % 3 == part - 1]


def test_joined_parts_are_one_run_to_the_byte(runs, planted, tmp_path):
    parts = [runs / f"part-{part}" for part in (3, 1, 2)]
    results = rk.merge(parts, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(runs / "whole")
    assert without_seconds(tmp_path / "out") == without_seconds(runs / "whole")
    whole = rk.Results(runs / "whole").run
    assert results.run["config"] == whole["config"]
    assert results.run["data"] == whole["data"]
    assert results.run["status"] == "complete"
    audit = rk.verify(tmp_path / "out", planted.model(), (planted.x, planted.y))
    assert audit.holds
    assert not list((tmp_path / "out").glob(".*"))


def test_tables_of_before_have_a_column_less(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    parts = [tmp_path / "runs" / f"part-{part}" for part in (1, 2, 3)]
    for part in parts:
        table = (part / "samples.csv").read_text()
        lines = [line.split(",") for line in table.splitlines()]
        place = lines[0].index(ADDED)
        kept = [",".join(line[:place] + line[place + 1 :]) for line in lines]
        (part / "samples.csv").write_text("\n".join(kept) + "\n")
        assert (rk.Results(part).blind_steps("fmn", "linf") == 0).all()
    rk.merge(parts, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(runs / "whole")


def test_missing_and_doubled_parts_are_named(runs, tmp_path):
    one, two, three = (runs / f"part-{part}" for part in (1, 2, 3))
    with pytest.raises(BadInput, match="these are missing: 2"):
        rk.merge([one, three], tmp_path / "out")
    with pytest.raises(BadInput, match=r"is part 1 of 3.*each once"):
        rk.merge([one, two, three, _copy_of(one, tmp_path)], tmp_path / "out")
    with pytest.raises(BadInput, match="part-1' is named twice"):
        rk.merge([one, one, three], tmp_path / "out")
    with pytest.raises(BadInput, match="no run was named"):
        rk.merge([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _copy_of(run, tmp_path):
    return rk.Results(run).save(tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, r"the settings have seed = 0.* 1"),
        ({"samples": 28}, r"the settings have samples = None.* 28"),
    ],
)
def test_parts_that_differ_are_refused(runs, planted, tmp_path, change, words):
    evaluate(planted, tmp_path / "other", shard=(2, 3), **change)
    parts = [runs / "part-1", tmp_path / "other", runs / "part-3"]
    with pytest.raises(BadInput, match=words):
        rk.merge(parts, tmp_path / "out")


def test_parts_with_other_pools_are_refused(planted, tmp_path):
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        pool = planted.x[number:]
        evaluate(planted, part, attacks=["blend"], pool=pool, shard=(number, 2))
    with pytest.raises(BadInput, match="the pool have fingerprint"):
        rk.merge(parts, tmp_path / "out")


def test_parts_of_other_data_are_refused(runs, planted, tmp_path):
    labels = planted.y.copy()
    labels[0] = (labels[0] + 1) % 3
    rk.evaluate(
        planted.model(),
        (planted.x, labels),
        norm=["l2", "linf"],
        attacks=["fmn", "gaussian-noise"],
        budget=20,
        batch_size=5,
        shard=(2, 3),
        out=tmp_path / "other",
    )
    parts = [runs / "part-1", tmp_path / "other", runs / "part-3"]
    with pytest.raises(BadInput, match="the data have fingerprint"):
        rk.merge(parts, tmp_path / "out")


def bounded(run, method):
    """Some lower bounds that hold."""
    results = rk.Results(run)
    lower = {norm: results.distances(norm) / 2 for norm in results.norms}
    write_lower(results, lower, method)
    return results.path


def test_lower_bounds_are_carried_along(runs, tmp_path):
    parts = [rk.Results(runs / f"part-{i}").save(tmp_path / f"{i}") for i in (1, 2, 3)]
    for part in parts:
        bounded(part, "crown")
    merged = rk.merge(parts, tmp_path / "out")
    whole = bounded(rk.Results(runs / "whole").save(tmp_path / "whole"), "crown")
    assert (merged.path / "lower.csv").read_bytes() == (
        whole / "lower.csv"
    ).read_bytes()
    assert without_seconds(merged.path) == without_seconds(whole)
    (parts[1] / "lower.csv").unlink()
    partly = rk.merge(parts, tmp_path / "partly")
    known = ~np.isnan(partly.lower("l2"))
    assert (known == ((partly.index // 5) % 3 != 1)).all()
    assert partly.run["notes"] == [f"no lower bounds for samples of {parts[1]}"]


def test_lower_bounds_that_do_not_go_together(runs, tmp_path):
    parts = [rk.Results(runs / f"part-{i}").save(tmp_path / f"{i}") for i in (1, 2, 3)]
    for part, method in zip(parts, ("crown", "interval"), strict=False):
        bounded(part, method)
    with pytest.raises(BadInput, match=r"crown in .*1, interval in .*2"):
        rk.merge(parts, tmp_path / "out")
    table = bounded(parts[1], "crown") / "lower.csv"
    table.write_text(table.read_text().replace(",l2,0.", ",l2,9."))
    with pytest.raises(BadInput, match=r"2' contradicts itself: sample \d+, l2"):
        rk.merge(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1, 0)])
def test_parts_that_do_not_exist(planted, tmp_path, shard):
    with pytest.raises(BadInput, match="a part of the data must be"):
        evaluate(planted, tmp_path / "run", shard=shard)


def test_a_part_without_a_batch_is_a_run_of_nothing(planted, tmp_path):
    for part in (1, 2, 3):
        evaluate(planted, tmp_path / f"{part}", batch_size=20, shard=(part, 3))
    evaluate(planted, tmp_path / "whole", batch_size=20)
    rk.merge([tmp_path / f"{part}" for part in (1, 2, 3)], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_without_its_tables_is_named(runs, tmp_path):
    broken = _copy_of(runs / "part-2", tmp_path)
    (broken / "queries.csv").unlink()
    parts = [runs / "part-1", broken, runs / "part-3"]
    with pytest.raises(BadInput, match=r"cannot read the tables of the run in .*copy"):
        rk.merge(parts, tmp_path / "out")


@pytest.mark.parametrize(
    "damage",
    [
        lambda head, lines: [],
        lambda head, lines: ["index,attack\n", *lines],
        lambda head, lines: [head, lines[1], lines[0], *lines[2:]],
        lambda head, lines: [head, *lines[:-1], lines[-1][:-20]],
        lambda head, lines: [head, *lines[:-1], lines[-1].rstrip("\n")],
        lambda head, lines: [head, *lines[:-1]],
    ],
    ids=["empty", "columns", "order", "cut", "not whole", "short"],
)
def test_a_part_whose_queries_are_damaged_is_named(runs, tmp_path, damage):
    broken = _copy_of(runs / "part-1", tmp_path)
    table = broken / "queries.csv"
    head, *lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(damage(head, lines)))
    parts = [broken, runs / "part-2", runs / "part-3"]
    with pytest.raises(BadInput, match=r"cannot read the tables of the run in .*copy"):
        rk.merge(parts, tmp_path / "out")


def test_tables_in_another_order_are_refused(runs, tmp_path):
    broken = _copy_of(runs / "part-2", tmp_path)
    for table in (broken / "samples.csv", broken / "queries.csv"):
        head, *lines = table.read_text().splitlines(keepends=True)
        table.write_text("".join([head, *reversed(lines)]))
    parts = [runs / "part-1", broken, runs / "part-3"]
    with pytest.raises(BadInput, match=r"copy' are not in the order .* batch 1 is not"):
        rk.merge(parts, tmp_path / "out")


def test_a_run_without_settings_is_bad_input(runs, tmp_path):
    broken = _copy_of(runs / "whole", tmp_path)
    (broken / "run.json").write_text('{"schema": 1}')
    with pytest.raises(BadInput, match="has no settings"):
        rk.Results(broken)


def warranted(run, verdict):
    """Verdicts as an active test would leave them."""
    content = {"verdict": verdict, "rule": "a rule", "epsilon": 0.1}
    tests = {"l2": {"fmn": content}}
    (run / "warrants.json").write_text(json.dumps({"schema": 1, "norms": tests}))


def test_verdicts_of_active_tests_are_carried_along(runs, tmp_path):
    parts = [rk.Results(runs / f"part-{i}").save(tmp_path / f"{i}") for i in (1, 2, 3)]
    for part in parts[:2]:
        warranted(part, "FAIL")
    merged = rk.merge(parts, tmp_path / "out")
    assert merged.warrant("l2", "fmn")["verdict"] == "FAIL"
    attacks = merged.summary()["norms"]["l2"]["attacks"]
    assert attacks["fmn"]["warrant"]["verdict"] == "FAIL"
    saved = json.loads((merged.path / "summary.json").read_text())
    assert saved["norms"]["l2"]["attacks"]["fmn"]["warrant"]["verdict"] == "FAIL"
    warranted(parts[2], "PASS")
    with pytest.raises(BadInput, match=r"1' and '.*3' said different things"):
        rk.merge(parts, tmp_path / "other")
