import zipfile

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation import tables, traces
from robustkit.evaluation.traces import TRACES, read_traces


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=6, samples=29, features=6, bounds=(0.0, 1.0), dtype=np.float32)


def evaluate(planted, out, **changes):
    settings = {"attacks": ["fmn", "pgd"], "budget": 25, "batch_size": 5, "out": out}
    return rk.evaluate(
        planted.model(), (planted.x, planted.y), **{**settings, **changes}
    )


@pytest.fixture
def few(monkeypatch):
    """As if only the first 12 samples were traced."""
    for module in (tables, "robustkit.evaluation.store"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.TRACED", 12)


def test_a_run_keeps_what_happened_on_the_way(planted, tmp_path):
    results = evaluate(planted, tmp_path / "run")
    for attack in ("fmn", "pgd"):
        traced = results.traced(attack)
        attacked = results.index[results.prediction == results.label]
        assert traced.index.tolist() == attacked.tolist()
        found = results.distances(attack=attack)[traced.index]
        last = np.arange(len(traced)), traced.trace.points() - 1
        assert (traced.trace.best_distance[last] >= found * (1 - 1e-4)).all()
        assert (traced.trace.first_margin > 0).all()
    assert np.allclose(
        results.traced("fmn").trace.first_margin,
        np.diff(np.sort(planted.logits(planted.x), axis=1)[:, -2:], axis=1)[:, 0],
        atol=1e-6,
    )


def test_only_the_first_samples_are_traced(planted, tmp_path, few):
    results = evaluate(planted, tmp_path / "run")
    for attack in ("fmn", "pgd"):
        assert results.traced(attack).index.tolist() == list(range(12))


def test_parts_and_the_batch_size_trace_the_same_samples(planted, tmp_path, few):
    whole = evaluate(planted, tmp_path / "whole")
    parts = [tmp_path / f"part-{part}" for part in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        evaluate(planted, part, shard=(number, 3))
    rk.merge(parts, tmp_path / "out")
    written = [(tmp_path / run / TRACES).read_bytes() for run in ("out", "whole")]
    assert written[0] == written[1]
    other = evaluate(planted, tmp_path / "other", batch_size=7)
    for attack in ("fmn", "pgd"):
        one, two = whole.traced(attack), other.traced(attack)
        assert np.array_equal(one.index, two.index)
        assert np.array_equal(one.trace.margin, two.trace.margin, equal_nan=True)


def test_samples_at_which_the_model_raises_leave_the_others_their_traces(
    planted, tmp_path
):
    def logits(x):
        if (np.abs(x - planted.x[3]).max(axis=1) < 0.05).any():
            raise RuntimeError("no answer today")
        return planted.logits(x)

    model = rk.NumPyModel(logits, gradient=planted.gradient)
    results = rk.evaluate(
        model, (planted.x, planted.y), attacks=["fmn"], budget=20, out=tmp_path / "run"
    )
    sound = evaluate(planted, tmp_path / "sound", attacks=["fmn"], budget=20)
    kept, whole = results.traced("fmn"), sound.traced("fmn")
    assert 3 not in kept.index
    same = np.isin(whole.index, kept.index)
    assert same.sum() > 20
    assert np.array_equal(
        whole.at(np.flatnonzero(same)).trace.margin, kept.trace.margin, equal_nan=True
    )


def test_an_old_run_has_none(planted, tmp_path):
    results = evaluate(planted, tmp_path / "run")
    (tmp_path / "run" / TRACES).unlink()
    assert len(results.traced("fmn")) == 0


@pytest.mark.parametrize("what", ["cut", "packed", "pickled", "version", "shape"])
def test_what_is_no_file_of_traces_is_refused(planted, tmp_path, what):
    path = evaluate(planted, tmp_path / "run").path / TRACES
    arrays = dict(np.load(path))
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "packed":
        np.savez_compressed(path, **arrays)
    elif what == "pickled":
        np.savez(path, **{**arrays, "norm": np.array([{}] * 3, dtype=object)})
    elif what == "version":
        np.savez(path, **{**arrays, "schema": np.array(traces.SCHEMA + 1)})
    else:
        np.savez(path, **{**arrays, "margin": arrays["margin"][:, :-1]})
    with pytest.raises(BadInput, match=r"is not the traces.npz of a run"):
        read_traces(path)


def test_the_file_is_plain(planted, tmp_path):
    path = evaluate(planted, tmp_path / "run").path / TRACES
    with zipfile.ZipFile(path) as archive:
        assert {e.compress_type for e in archive.infolist()} == {zipfile.ZIP_STORED}
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["schema"] == 1
        assert set(arrays["attack"]) == {"fmn", "pgd"}
