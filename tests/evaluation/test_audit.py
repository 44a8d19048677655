import csv
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.engine.criteria import TopK
from robustkit.errors import BadInput
from robustkit.evaluation.archive import read_best
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import write_json
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=3, samples=14, features=6, bounds=(0.0, 1.0), dtype=np.float32)


@pytest.fixture(scope="module")
def honest(planted, tmp_path_factory):
    """A run of two norms and two attacks, with two samples misclassified at once."""
    labels = planted.y.copy()
    labels[[2, 9]] = (labels[[2, 9]] + 1) % 3
    out = tmp_path_factory.mktemp("run") / "run"
    rk.evaluate(
        planted.model(),
        (planted.x, labels),
        norm=["l2", "linf"],
        attacks=["fmn", "gaussian-noise"],
        budget=40,
        batch_size=5,
        out=out,
    )
    return out, labels


@pytest.fixture
def run(honest, tmp_path):
    """A copy of it, to be tampered with."""
    shutil.copytree(honest[0], tmp_path / "run")
    return tmp_path / "run"


def verified(run, planted, labels, **options):
    return rk.verify(run, planted.model(), (planted.x, labels), **options)


def claim_of(audit, words):
    return next(claim for claim in audit.claims if words in claim.name)


def broken(audit):
    return [sentence for claim in audit.claims for sentence in claim.broken]


def edit_best(run, **changes):
    with np.load(run / "best.npz") as file:
        arrays = {name: file[name].copy() for name in file.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(run / "best.npz", **arrays)


def edit_table(run, change):
    with open(run / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows) or rows
    with open(run / "samples.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def first(rows, **wanted):
    return next(r for r in rows if all(r[k] == v for k, v in wanted.items()))


def test_an_honest_run_holds(run, planted, honest):
    audit = verified(run, planted, honest[1], rounded=True)
    assert broken(audit) == []
    assert audit.holds
    checked = {claim.name: claim.checked for claim in audit.claims}
    found = len(np.load(run / "best.npz")["index"])
    assert found == 2 * 12
    assert checked["every adversarial is in bounds and adversarial"] == found
    assert checked["every distance is that of its adversarial"] == found
    json.dumps(audit.to_json())


@pytest.mark.parametrize("row", [0, 7, 23])
def test_a_distance_that_is_too_large_is_named(run, planted, honest, row):
    edit_best(run, distance=lambda d: d * np.where(np.arange(len(d)) == row, 1.01, 1))
    best = np.load(run / "best.npz")
    at = f"sample {best['index'][row]}, {best['norm'][row]}: distance"
    audit = verified(run, planted, honest[1])
    assert not audit.holds
    # Against the point that is kept, and against the table.
    assert sum(at in sentence for sentence in broken(audit)) == 2
    assert len(broken(audit)) == 2


def test_points_that_hold_only_after_a_move_have_distances_too(run, planted, honest):
    """Drawn back over the boundary by a hair, and ten times as far as they are."""
    index, norm = (np.load(run / "best.npz")[name] for name in ("index", "norm"))

    def back(points):
        for row in np.flatnonzero(norm == "l2"):
            x, label = planted.x[index[row]], honest[1][index[row]]
            for share in (0.9999, 0.9996, 0.9993):
                tried = (x + share * (points[row] - x)).astype(np.float32)
                if planted.logits(tried[None])[0].argmax() == label:
                    points[row] = tried
                    break
        return points

    far = np.where(norm == "l2", 10, 1)
    edit_best(run, x_adversarial=back, distance=lambda distance: far * distance)

    def farther(rows):
        for row in rows:
            if row["norm"] == "l2":
                row["distance"] = repr(10 * float(row["distance"]))

    edit_table(run, farther)
    audit = verified(run, planted, honest[1])
    claims = {claim.name: claim for claim in audit.claims}
    points = claims["every adversarial is in bounds and adversarial"]
    assert points.holds
    assert any("only after a move" in note for note in points.notes)
    assert len(claims["every distance is that of its adversarial"].broken) == 12


def test_points_moved_when_they_were_verified_are_no_other_points(tmp_path):
    model = TorchModel(demo.load_model("digits"), autocast=torch.bfloat16)
    few = {"samples": 12, "attacks": ["fmn"], "budget": 40}
    results = rk.evaluate(model, "digits", out=tmp_path / "run", **few)
    traced = results.traced("fmn")
    seen = np.nanmin(traced.trace.best_distance, axis=1)
    assert (seen < 0.998 * results.distance[traced.index]).any()
    assert broken(rk.verify(tmp_path / "run", model, "digits")) == []


def test_a_point_that_is_not_adversarial_is_named(run, planted, honest):
    best = np.load(run / "best.npz")
    row = int(np.flatnonzero(best["norm"] == "linf")[3])
    sample = int(best["index"][row])

    def back(points):
        points[row] = planted.x[sample]
        return points

    edit_best(run, x_adversarial=back)
    margin, distance = broken(verified(run, planted, honest[1]))
    assert margin.startswith(f"sample {sample}, linf: margin")
    assert distance.startswith(f"sample {sample}, linf: distance")


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (1.5, "leave the bounds")]
)
def test_points_outside_are_named(run, planted, honest, value, words):
    def moved(points):
        points[4, 1] = value
        return points

    edit_best(run, x_adversarial=moved)
    assert words in broken(verified(run, planted, honest[1]))[0]


def test_a_sample_made_robust_is_named(run, planted, honest):
    """Its rows say that nothing was found, and its adversarial is removed."""

    def robust(rows):
        for row in rows:
            if row["index"] == "5" and row["norm"] == "l2":
                row |= {"found": "false", "distance": "inf", "status": "not_found"}

    edit_table(run, robust)
    assert "sample 5, l2: an adversarial is kept and none is claimed" in broken(
        verified(run, planted, honest[1])
    )
    best = np.load(run / "best.npz")
    kept = (best["index"] != 5) | (best["norm"] != "l2")
    edit_best(run, **{name: (lambda values: values[kept]) for name in best.files})
    # Nothing is left that an adversarial could be held against, but other files are.
    sentences = broken(verified(run, planted, honest[1]))
    assert any("summary.json" in sentence for sentence in sentences)
    left = [s for s in sentences if "summary.json" not in s]
    assert left
    assert all(s.startswith("sample 5, l2, ") for s in left)


def test_a_sample_that_has_two_rows_is_named(run, planted, honest):
    """In every table, and with the summary that follows from them."""
    edit_table(run, lambda rows: rows[:1] + rows)
    edit_queries(run, lambda rows: rows[:1] + rows)
    write_json(run / "summary.json", Results(run).summary())
    (sentence,) = broken(verified(run, planted, honest[1]))
    assert re.fullmatch(r"sample 0, l2, \S+: two rows", sentence)


@pytest.mark.parametrize("other", [None, "uniform-noise"])
def test_a_row_that_is_missing_is_named(run, planted, honest, other):
    """From every table, and with the summary that follows from them."""
    row = {"index": "5", "attack": "gaussian-noise", "norm": "l2"}

    def without(rows):
        found = first(rows, **row)
        if other is None:
            return [r for r in rows if r is not found]
        found["attack"] = other
        return rows

    edit_table(run, without)
    edit_queries(run, without)
    # Which only the first samples of a run have.
    (run / "traces.npz").unlink()
    write_json(run / "summary.json", Results(run).summary())
    sentences = broken(verified(run, planted, honest[1]))
    assert "sample 5, l2, gaussian-noise: no row" in sentences
    added = "sample 5, l2, uniform-noise: not an attack of the run"
    assert (added in sentences) == (other is not None)


def test_what_is_not_checked_is_told(run, planted, honest):
    """A verdict that nobody gave, and the summary that follows from it."""
    forged = {"verdict": "PASS", "epsilon": 0.1, "rule": "because"}
    warrants = {"schema": 1, "norms": {"l2": {"fmn": forged}}}
    (run / "warrants.json").write_text(json.dumps(warrants))
    write_json(run / "summary.json", Results(run).summary())
    audit = verified(run, planted, honest[1])
    assert audit.holds
    notes = claim_of(audit, "the summary follows").notes
    assert notes == ["what warrants.json says is not checked"]


def edit_queries(run, change):
    with open(run / "queries.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames
    rows = change(rows) or rows
    with open(run / "queries.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"after_20": "0.001"}, "the distance grows with the passes"),
        ({"after_20": "0.001"}, "nearer after some passes than in the end"),
        ({"after_10_with_backward": "0.0001"}, "nearer when backward passes"),
        ({"after_500": "9"}, "and [0-9.]+ is reported"),
        ({"after_50": "9", "after_100": "9"}, "beyond the budget of 40 passes"),
    ],
)
def test_changed_queries_are_named(run, planted, honest, changes, words):
    def change(rows):
        row = next(r for r in rows if (r["attack"], r["norm"]) == ("fmn", "l2"))
        row |= changes

    edit_queries(run, change)
    sentences = broken(verified(run, planted, honest[1]))
    assert any(re.search(words, sentence) for sentence in sentences)
    # The summary tells of quartiles, which may change too.
    beside = [s for s in sentences if "summary.json" not in s]
    assert all(sentence.startswith("sample 0, l2, fmn: ") for sentence in beside)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("forward_passes", "0", "an adversarial found without a pass"),
        ("forward_passes", "1", "its trace counts other passes than 1"),
        ("backward_passes", "-3", "-3 backward passes"),
        ("decision_queries", "10000", "10000 for decisions"),
    ],
)
def test_changed_passes_are_named(run, planted, honest, column, value, words):
    def change(rows):
        row = next(r for r in rows if (r["attack"], r["norm"]) == ("fmn", "l2"))
        row[column] = value

    edit_table(run, change)
    sentences = broken(verified(run, planted, honest[1]))
    assert any(words in sentence for sentence in sentences)


def test_tables_of_other_lengths_are_named(run, planted, honest):
    edit_queries(run, lambda rows: rows[:-1])
    sentences = broken(verified(run, planted, honest[1]))
    assert sentences[0].endswith("in queries.csv of [None, None, None]")
    (run / "queries.csv").unlink()
    audit = verified(run, planted, honest[1])
    assert claim_of(audit, "after so many").notes == ["there is no queries.csv"]


def test_a_jacobian_takes_more_backward_passes(tmp_path):
    settings = {"norm": "l2", "attacks": ["deepfool"], "samples": 5}
    rk.evaluate("digits", "digits", out=tmp_path / "run", **settings)
    assert rk.verify(tmp_path / "run", "digits", "digits").holds


def silent_at(planted, x, fail):
    """The planted model without an answer for one input."""

    def function(points):
        logits, row = planted.logits(points), (points == x).all(axis=1)
        return fail(logits, row) if row.any() else logits

    return rk.NumPyModel(function)


def gives_no_number(logits, row):
    logits[row] = np.nan
    return logits


def raises(logits, row):
    raise ValueError("too bright")


@pytest.mark.parametrize("fail", [gives_no_number, raises])
def test_originals_without_a_prediction_are_errors_and_are_told(
    planted, tmp_path, fail
):
    """Whether the model has an answer by now, such as in time, or still none."""
    data, silent = (planted.x, planted.y), silent_at(planted, planted.x[3], fail)
    few = {"norm": "l2", "attacks": ["boundary"], "budget": 40}
    results = rk.evaluate(silent, data, out=tmp_path / "run", **few)
    assert (results.prediction == -1).sum() == np.isnan(results.distance).sum() == 1
    for model, words in (
        (rk.NumPyModel(planted.logits), "; the model answers for 1 of them now"),
        (silent, ""),
    ):
        audit = rk.verify(tmp_path / "run", model, data)
        assert broken(audit) == []
        (note,) = claim_of(audit, "labels and predictions").notes
        assert note == (
            "1 samples have no prediction, so they are errors, and count as neither "
            f"right nor robust{words}"
        )


@pytest.mark.parametrize(
    ("status", "distance"), [("not_found", "inf"), ("already_misclassified", "0.0")]
)
def test_who_has_no_prediction_is_an_error(run, planted, honest, status, distance):
    def hidden(rows):
        for row in rows:
            if row["index"] == "5":
                row |= {"prediction": "-1", "status": status, "distance": distance}
                row |= {"found": "false"}

    edit_table(run, hidden)
    sentences = broken(verified(run, planted, honest[1]))
    assert sum(f"no prediction, and the status {status}" in s for s in sentences) == 4


def test_who_has_no_prediction_was_not_attacked(run, planted, honest):
    def hidden(rows):
        for row in rows:
            if row["index"] == "5":
                row |= {"prediction": "-1", "status": "error", "distance": "nan"}
                row |= {"found": "false"}

    edit_table(run, hidden)
    sentences = broken(verified(run, planted, honest[1]))
    assert sum("a sample that was not attacked" in s for s in sentences) == 4


@pytest.mark.parametrize("missing", ["best.npz", "summary.json", None])
def test_an_unfinished_run_is_told_from_a_broken_one(run, planted, honest, missing):
    description = json.loads((run / "run.json").read_text())
    if missing is None:
        description["status"] = "running"
        (run / "run.json").write_text(json.dumps(description))
    else:
        (run / missing).unlink()
    with pytest.raises(BadInput, match="is not whole"):
        verified(run, planted, honest[1])
    (run / ".shards").mkdir()
    with pytest.raises(BadInput, match=r"is not finished .*eval --resume "):
        verified(run, planted, honest[1])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("label", "7", "label 7, in the data"),
        ("prediction", "2", "prediction 2, by the model"),
        ("distance", "0.75", "distance 0.75 in samples.csv"),
        ("attack", "gaussian-noise", "by gaussian-noise"),
    ],
)
def test_a_changed_cell_is_named(run, planted, honest, column, value, words):
    def change(rows):
        sample = str(np.flatnonzero(planted.y == 0)[0])
        rows_of = [r for r in rows if r["index"] == sample and r["norm"] == "l2"]
        for row in rows_of:
            if column == "attack":
                other = {"fmn": "gaussian-noise", "gaussian-noise": "fmn"}
                row["attack"] = other[row["attack"]]
            elif column == "distance":
                row["distance"] = value
            else:
                row[column] = value
        if column in ("label", "prediction"):
            for row in rows:
                if row["index"] == sample:
                    row[column] = value

    edit_table(run, change)
    assert any(words in s for s in broken(verified(run, planted, honest[1])))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("label", "7", "label 7, and "),
        ("prediction", "8", "prediction 8, and "),
        ("found", "false", "found false, with the distance"),
        ("distance", "nan", "found true, with the distance nan"),
        ("status", "not_found", "and the status not_found"),
    ],
)
def test_rows_of_a_sample_that_disagree_are_named(
    run, planted, honest, column, value, words
):
    """In a row that is not the first of its sample."""
    at = []

    def change(rows):
        row = first(rows, attack="fmn", norm="linf", status="found")
        row[column] = value
        at.append(f"sample {row['index']}, linf, fmn: ")

    edit_table(run, change)
    sentences = broken(verified(run, planted, honest[1]))
    assert any(s.startswith(at[0]) and words in s for s in sentences)


def test_a_changed_summary_is_named(run, planted, honest):
    summary = json.loads((run / "summary.json").read_text())
    summary["norms"]["l2"]["robust_accuracy"][2]["estimate"] += 0.07
    (run / "summary.json").write_text(json.dumps(summary))
    (sentence,) = broken(verified(run, planted, honest[1]))
    assert sentence.startswith("norms.l2.robust_accuracy[2].estimate: ")


def test_samples_that_were_left_out_are_named(run, planted, honest):
    edit_table(run, lambda rows: [r for r in rows if r["index"] != "5"])
    sentences = broken(verified(run, planted, honest[1]))
    assert "13 samples in the table, 14 in the data" in sentences
    assert "sample 5, l2: of a sample that is not there" in sentences


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_of_the_data_is_whole_by_itself(planted, tmp_path, part):
    """Five batches of 14 samples, the last of two, dealt out to three parts."""
    run, data = tmp_path / "run", (planted.x, planted.y)
    rk.evaluate(
        planted.model(), data, attacks=["fmn"], batch_size=3, shard=(part, 3), out=run
    )
    held = rk.Results(run).index
    audit = verified(run, planted, planted.y)
    assert broken(audit) == []
    edit_table(run, lambda rows: [r for r in rows if r["index"] != str(held[0])])
    assert (
        f"{len(held) - 1} samples in the table, {len(held)} in part {part} of 3 of the "
        "data" in broken(verified(run, planted, planted.y))
    )
    description = json.loads((run / "run.json").read_text())
    description["config"]["shard"] = [part % 3 + 1, 3]
    (run / "run.json").write_text(json.dumps(description))
    said = broken(verified(run, planted, planted.y))
    assert f"{len(held) - 1} samples are not among those evaluated" in said


def test_samples_of_the_target_class_that_are_missing_are_told(planted, tmp_path):
    run = tmp_path / "run"
    rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=["fmn"], target=1, out=run
    )
    listed = rk.Results(run).index
    edit_table(run, lambda rows: [r for r in rows if r["index"] != str(listed[0])])
    said = broken(verified(run, planted, planted.y))
    assert f"{len(listed) - 1} samples in the table, {len(listed)} in the data" in said


def test_other_data_and_other_models_are_named(run, planted, honest, plant):
    other = plant(seed=4, samples=14, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    sentences = broken(verified(run, planted, other.y))
    assert any(sentence.startswith("fingerprint") for sentence in sentences)
    sentences = broken(rk.verify(run, other.model(), (planted.x, honest[1])))
    assert any("by the model" in sentence for sentence in sentences)
    assert any("margin" in sentence for sentence in sentences)


def test_data_of_another_shape_is_bad_input(run, planted):
    with pytest.raises(BadInput):
        rk.verify(run, planted.model(), (planted.x[:, :4], planted.y))


def test_rounding_is_counted(run, planted, honest):
    audit = verified(run, planted, honest[1], rounded=True)
    claim = claim_of(audit, "after rounding")
    best = read_best(run / "best.npz")
    shown = np.round(best["x_adversarial"] * 255) / 255
    labels = honest[1][best["index"]]
    remain = (planted.logits(shown.astype(np.float32)).argmax(axis=1) != labels).sum()
    assert 0 < remain < 24
    assert claim.notes == [f"{remain} of 24 adversarials remain"]


@pytest.mark.parametrize("target", [1, "random", "least-likely"])
def test_targets_are_those_of_the_run(planted, tmp_path, target):
    rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn"],
        target=target,
        out=tmp_path / "run",
    )
    assert broken(verified(tmp_path / "run", planted, planted.y)) == []


def test_a_criterion_of_ones_own_is_asked_for(planted, tmp_path):
    def second(labels):
        return TopK(as_tensor(labels) if not hasattr(labels, "raw") else labels, 2)

    rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn"],
        criterion=second,
        out=tmp_path / "run",
    )
    with pytest.raises(BadInput, match="criterion of its own, 'second'"):
        verified(tmp_path / "run", planted, planted.y)
    audit = verified(tmp_path / "run", planted, planted.y, criterion=second)
    assert broken(audit) == []


def test_an_interrupted_run_is_checked_as_far_as_it_went(planted, tmp_path):
    def batches():
        yield planted.x[:6], planted.y[:6]
        raise RuntimeError("the disk is gone")

    with pytest.raises(BadInput, match="disk"):
        rk.evaluate(
            planted.model(),
            batches(),
            attacks=["fmn"],
            batch_size=3,
            out=tmp_path / "run",
        )
    audit = verified(tmp_path / "run", planted, planted.y)
    assert audit.holds
    assert (
        "the run is failed: 6 of 14 samples" in claim_of(audit, "the samples are").notes
    )


def test_norms_that_an_interrupted_run_did_not_come_to_are_unknown(planted, tmp_path):
    """Those of samples that are adversarial from the start as well."""
    labels = planted.y.copy()
    labels[2] = (labels[2] + 1) % 3

    def stop(progress):
        if progress.norm == "linf":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rk.evaluate(
            planted.model(),
            (planted.x, labels),
            norm=["l2", "linf"],
            attacks=["fmn"],
            progress=stop,
            out=tmp_path / "run",
        )
    audit = verified(tmp_path / "run", planted, labels)
    assert broken(audit) == []


class TestArchive:
    """Files that lie about themselves."""

    def test_agrees_with_numpy(self, run):
        best = read_best(run / "best.npz")
        with np.load(run / "best.npz") as expected:
            assert set(best) == set(expected.files)
            for name, values in best.items():
                assert np.array_equal(values, expected[name])

    def test_objects_are_not_unpickled(self, run):
        edit_best(run, label=lambda label: label.astype(object))
        with pytest.raises(BadInput, match="label has dtype object"):
            read_best(run / "best.npz")

    def test_a_header_that_promises_too_much_takes_no_memory(self, run):
        with zipfile.ZipFile(run / "best.npz") as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        honest, liar = (f"'shape': ({n},), }}".encode() for n in ("24", "9" * 12))
        header = entries["index.npy"].replace(honest, liar.replace(b" ", b""))
        with zipfile.ZipFile(run / "best.npz", "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, header if name == "index.npy" else content)
        with pytest.raises(BadInput, match="another number of bytes"):
            read_best(run / "best.npz")

    def test_compressed_files_are_refused(self, run):
        with np.load(run / "best.npz") as file:
            arrays = {name: file[name] for name in file.files}
        np.savez_compressed(run / "best.npz", **arrays)
        with pytest.raises(BadInput, match="norm is compressed"):
            read_best(run / "best.npz")

    @pytest.mark.parametrize("kept", [0, 100, 700])
    def test_a_truncated_file(self, run, kept):
        content = (run / "best.npz").read_bytes()
        (run / "best.npz").write_bytes(content[:kept])
        with pytest.raises(BadInput, match=r"is not the best\.npz of a run"):
            read_best(run / "best.npz")
