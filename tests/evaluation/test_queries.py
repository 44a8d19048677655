import csv
import json

import numpy as np
import pytest

import robustkit as rk
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.evaluation.merge import merge
from robustkit.evaluation.tables import QUERIES, QUERY_COLUMNS
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

ATTACKS = ["square", "gaussian-noise"]


@pytest.fixture
def data():
    x = np.random.default_rng(0).random((7, 6)).astype(np.float32)
    y = scores(x).argmax(axis=1)
    y[2] = 1 - y[2]
    return x, y


def scores(x):
    margin = (x * [1, -2, 1, 0.5, -1, 0.2]).sum(axis=1, keepdims=True)
    return np.concatenate([margin, -margin], axis=1)


def rows(path):
    with open(path / "queries.csv", newline="") as file:
        return list(csv.DictReader(file))


def evaluated(data, **settings):
    settings = {"norm": "l2", "attacks": ATTACKS, "budget": 60, **settings}
    return rk.evaluate(scores, data, **settings)


def test_it_is_the_ledgers_curve(data):
    results = evaluated(data)
    table = rows(results.path)
    assert tuple(table[0]) == QUERY_COLUMNS
    order = [(name, str(place)) for name in ATTACKS for place in range(7)]
    assert [(row["attack"], row["index"]) for row in table] == order
    attack = rk.get_attack("square").within(60)
    x, y = data
    criterion = Misclassification(as_tensor(y))
    problem = Problem(NumPyModel(scores), as_tensor(x), criterion, get_norm("l2"))
    ledger = run(attack, problem, budget=60)
    for row in table[:7]:
        place = int(row["index"])
        for count in QUERIES:
            exact = ledger.distance_after(count)[place] if place != 2 else 0.0
            assert float(row[f"after_{count}"]) == pytest.approx(exact, rel=2e-5)
            # No gradients, so no backward passes.
            assert row[f"after_{count}_with_backward"] == row[f"after_{count}"]


def test_curves_fall_to_the_distance_reported(data):
    results = evaluated(data)
    for name in ATTACKS:
        curves = results.queries(name)
        # After the end of the attack nothing happens.
        assert list(curves) == [5, 10, 20, 50, results.forward_passes(name).max()]
        distances = np.stack([curve.distance for curve in curves.values()])
        assert distances.shape[1] == 6
        assert (distances[1:] <= distances[:-1]).all()
        assert (distances[0] > distances[-1]).any()
        final = results.distances(attack=name)
        np.testing.assert_allclose(distances[-1], np.delete(final, 2), rtol=1e-5)


def test_the_summary_has_median_and_quartiles(data):
    results = evaluated(data)
    text = (results.path / "summary.json").read_text()
    said = json.loads(text)["norms"]["l2"]["attacks"]["square"]["queries"]
    for entry, (count, curve) in zip(
        said, results.queries("square").items(), strict=True
    ):
        assert entry["forward_passes"] == count
        middle = curve.quantile(0.5)
        assert entry["median"] == (None if np.isinf(middle) else middle)
        assert (entry["upper_quartile"] or np.inf) >= (entry["median"] or np.inf)


def test_parts_merge_to_the_same(data, tmp_path):
    whole = evaluated(data, batch_size=2)
    parts = [
        evaluated(data, batch_size=2, shard=(k, 2), out=tmp_path / str(k)).path
        for k in (1, 2)
    ]
    merged = merge(parts, tmp_path / "merged")
    assert (merged.path / "queries.csv").read_bytes() == (
        whole.path / "queries.csv"
    ).read_bytes()


def test_runs_without_the_table_have_no_curves(data, tmp_path):
    path = evaluated(data, out=tmp_path / "run").path
    (path / "queries.csv").unlink()
    assert rk.Results(path).queries("square") == {}
    (path / "queries.csv").write_text("index,attack\n")
    with pytest.raises(BadInput, match="columns are others than expected"):
        rk.Results(path).queries("square")
