import numpy as np
import pytest

from robustkit.attacks.score.evolution import Evolution, _utilities
from robustkit.engine.loop import run
from robustkit.errors import BadInput

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": np.inf, "l2": 2, "linf": 1}


@pytest.mark.parametrize("norm", NORMS)
def test_comes_near_the_boundary(watched, norm):
    images = watched((1, 6, 6), bounds=(-50.0, 50.0))
    images.offset -= 0.5
    ledger = run(Evolution(steps=150, frequencies=1.0), images.problem(norm))
    exact = images.margin(images.x) / np.linalg.norm(images.w.ravel(), ord=ORDER[norm])
    ratio = ledger.distance.numpy() / exact
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) <= {"l1": 3.0, "l2": 1.15, "linf": 1.25}[norm]
    assert (ledger.backwards == 0).all()


@pytest.mark.parametrize("budget", [1, 2, 7, 21, 100])
def test_spends_a_budget_and_no_more(watched, budget):
    images = watched()
    images.offset = -1e9
    attack = Evolution().within(budget)
    ledger = run(attack, images.problem("l2"), budget=budget)
    assert (ledger.forwards >= 0.75 * budget).all()
    assert (ledger.forwards <= max(budget, 3)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_depends_on_the_sample_and_the_seed_alone(watched, norm):
    images, attack = watched(), Evolution(steps=20, population=6)

    def distance(rows, seed=0):
        return run(attack, images.problem(norm, rows, seed)).distance.numpy()

    whole = distance(np.arange(5))
    np.testing.assert_array_equal(distance(np.arange(5)[::-1]), whole[::-1])
    np.testing.assert_array_equal(distance(np.array([3])), whole[3:4])
    assert not np.array_equal(distance(np.arange(5), seed=1), whole)


def test_the_best_distance_keeps_its_precision(watched):
    images = watched()
    ledger = run(Evolution(steps=10), images.problem("l2", dtype=np.float32))
    assert ledger.distance.raw.dtype == np.float32
    assert ledger.best.raw.dtype == np.float32


def test_utilities_favour_the_lowest_margin():
    weights = _utilities(np.array([[3.0, -1.0, 2.0, np.inf]]))
    np.testing.assert_allclose(weights.sum(), 0, atol=1e-12)
    assert weights[0].argmax() == 1
    # The worse half has one weight in common.
    assert weights[0, 0] == weights[0, 3] == -0.25


def test_equal_margins_have_equal_weights():
    margins = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 2.0, np.inf]])
    flat, mixed = _utilities(margins)
    np.testing.assert_allclose(flat, 0, atol=1e-12)
    assert mixed[0] == mixed[2] > mixed[3]
    np.testing.assert_allclose(mixed.sum(), 0, atol=1e-12)


def test_a_plateau_leads_nowhere(watched):
    images = watched()
    smooth = images.margin
    images.margin = lambda x: 1.0 + 0 * smooth(x)
    attack, problem = Evolution(), images.problem("l2")
    state = attack.step(problem, attack.init(problem), 0)
    np.testing.assert_allclose(state.mean.numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(state.spread.numpy(), attack.spread)


@pytest.mark.parametrize(
    "settings", [{"population": 3}, {"population": 0}, {"spread": 0.0}, {"rate": -1.0}]
)
def test_bad_settings(watched, settings):
    with pytest.raises(BadInput, match=r"Evolution needs (an even|its (spread|rate))"):
        run(Evolution(**settings), watched().problem("l2"))
