import math
from importlib import metadata

import numpy as np
import pytest
import robustkit as rk
from robustkit import registry

from robustkit_attacks_zoo import Inversion

# The margin of class 0 is WEIGHTS . x - OFFSET, so every distance is known.
WEIGHTS = np.array([2.0, 1.0, -1.0])
OFFSET = 0.5
X = np.array([[0.7, 0.4, 0.2], [0.9, 0.3, 0.1], [0.6, 0.8, 0.4]])
LABELS = np.zeros(3, dtype=np.int64)


def logits(x):
    margin = x @ WEIGHTS - OFFSET
    return np.stack([margin, 0 * margin], axis=1)


def planted_model(lower=0.0, upper=1.0):
    return rk.NumPyModel(logits, rk.Bounds(lower, upper))


def run(norm, model=None, x=X, **settings):
    model = model or planted_model()
    return rk.run(Inversion(), model, x, LABELS, norm=norm, **settings)


def test_linf_distance_is_where_the_clipped_line_meets_the_boundary():
    # Linf: every feature moves towards its negative by as much, but not beyond it.
    inverted = 1 - X
    expected = []
    for x, far in zip(X, inverted, strict=True):
        sizes = np.linspace(0, 1, 100_001)[:, None]
        points = x + np.clip(far - x, -sizes, sizes)
        crossed = points @ WEIGHTS - OFFSET < 0
        expected.append(sizes[crossed.argmax(), 0] if crossed.any() else math.inf)
    assert run("linf").distance == pytest.approx(expected, rel=2e-3)


def test_l2_distance_is_where_the_straight_line_meets_the_boundary():
    direction = 1 - 2 * X
    share = (X @ WEIGHTS - OFFSET) / -(direction @ WEIGHTS)
    expected = np.where(
        (share > 0) & (share <= 1), share * np.linalg.norm(direction, axis=1), math.inf
    )
    assert np.isfinite(expected).any()
    assert run("l2").distance == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_what_is_reported_is_adversarial_within_bounds_and_as_far_as_said(norm):
    result = run(norm)
    assert result.found.any()
    points = result.x_adversarial[result.found]
    assert (logits(points)[:, 0] < 0).all()
    assert points.min() >= 0
    assert points.max() <= 1
    orders = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}
    delta = points - X[result.found]
    sizes = [np.linalg.norm(row, orders[norm]) for row in delta]
    assert result.distance[result.found] == pytest.approx(sizes)


def test_bounds_other_than_0_to_1_give_the_same_walk_scaled():
    def scaled(x):
        return logits((x + 1) / 2)

    model = rk.NumPyModel(scaled, rk.Bounds(-1, 1))
    wide = run("l2", model, 2 * X - 1)
    assert wide.distance == pytest.approx(2 * run("l2").distance, rel=2e-3)


def test_no_question_is_asked_beyond_the_budget():
    result = run("l2", budget=4)
    assert result.ledger.forwards.max() == 4
    assert Inversion().within(4) == Inversion()


def test_decisions_are_all_it_asks_for():
    ledger = run("l2").ledger
    assert (ledger.decisions == ledger.forwards).all()
    assert not ledger.backwards.any()


def test_torch_and_numpy_agree():
    torch = pytest.importorskip("torch")

    class Planted(torch.nn.Module):
        def forward(self, x):
            margin = x @ torch.from_numpy(WEIGHTS) - OFFSET
            return torch.stack([margin, 0 * margin], dim=1)

    result = rk.run(
        Inversion(),
        Planted().eval(),
        torch.from_numpy(X),
        torch.from_numpy(LABELS),
        norm="l1",
    )
    assert result.distance.numpy() == pytest.approx(run("l1").distance, rel=1e-4)


@pytest.fixture
def _registered(monkeypatch):
    """The entry point as pyproject.toml declares it, where it is not installed."""
    if "inversion" in registry.attack_names():
        return
    entry = metadata.EntryPoint(
        "inversion", "robustkit_attacks_zoo.inversion:Inversion", registry.PLUGIN_GROUP
    )
    entries = metadata.EntryPoints([entry])
    monkeypatch.setattr(registry, "entry_points", lambda **by: entries.select(**by))


@pytest.mark.usefixtures("_registered")
def test_the_entry_point_makes_it_an_attack_with_a_name():
    assert "inversion" in registry.attack_names()
    assert registry.get_attack("inversion") == Inversion()


@pytest.mark.usefixtures("_registered")
def test_it_is_evaluated_by_name():
    results = rk.evaluate("digits", "digits", attacks=["inversion"], samples=10)
    assert results.attacks() == ("inversion",)
    assert np.isfinite(results.distance).any()
    assert not np.isnan(results.distance).any()
