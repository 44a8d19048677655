import dataclasses

import numpy as np
import pytest

from robustkit.attacks.decision.arc import _lowest
from robustkit.attacks.decision.surfree import SurFree
from robustkit.attacks.decision.triangle import Triangle
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

ATTACKS = (SurFree, Triangle)


def problem(function, x, **more):
    y = as_tensor(np.zeros(len(x), dtype=np.int64))
    return Problem(
        NumPyModel(function),
        as_tensor(x),
        Misclassification(y),
        get_norm("l2"),
        **more,
    )


def half_space(weights, offset):
    def function(x):
        score = (x * weights).reshape(len(x), -1).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    return function


# Smooth weights need low frequencies only; others, all of them.
@pytest.mark.parametrize(("smooth", "frequencies"), [(True, 0.5), (False, 1.0)])
@pytest.mark.parametrize("attack", ATTACKS)
def test_it_comes_close_to_the_planted_minimum(attack, smooth, frequencies):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 6, 6))
    if smooth:
        rows, columns = np.indices((6, 6))
        weights = np.cos((rows + 0.5) * np.pi / 6)[None] + np.cos(
            (columns + 0.5) * np.pi / 3
        )
    x = rng.uniform(0.4, 0.6, (6, 1, 6, 6))
    score = (x * weights).reshape(6, -1).sum(axis=1)
    offset = score.min() - 0.3
    exact = (score - offset) / np.linalg.norm(weights)
    p = problem(half_space(weights, offset), x)
    ledger = run(attack(frequencies=frequencies), p, budget=800)
    ratio = ledger.distance.raw / exact
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) < (1.01 if smooth else 1.06)
    assert (ratio < 1.15).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_nearest_point_in_a_plane_is_found_by_bisection(attack):
    # Two features span the only plane there is.
    p = problem(half_space(np.array([0.6, 0.8]), 0.3), np.full((1, 2), 0.6))
    ledger = run(attack(frequencies=1.0, precision=0.01, memory=0), p, budget=60)
    assert ledger.distance.raw[0] == pytest.approx(0.84 - 0.3, rel=2e-3)


def test_points_of_surfree_lie_on_the_circle_over_the_perturbation():
    p = problem(half_space(np.ones(4), 1.0), np.full((1, 4), 0.5))
    attack = SurFree()
    state = attack.init(p)
    state = dataclasses.replace(
        state,
        delta=as_tensor(np.array([[0.4, 0.0, 0.0, 0.0]])),
        across=as_tensor(np.array([[0.0, 1.0, 0.0, 0.0]])),
        side=as_tensor(np.ones(1)),
    )
    for slope in (0.1, 1.0, 4.0):
        point = attack._point(p, state, as_tensor(np.array([slope]))).raw[0] - 0.5
        middle = point - np.array([0.2, 0.0, 0.0, 0.0])
        assert np.linalg.norm(middle) == pytest.approx(0.2)
        assert point[1] / point[0] == pytest.approx(slope)


def test_corners_of_triangles_obey_the_law_of_sines():
    p = problem(half_space(np.ones(4), 1.0), np.full((1, 4), 0.5))
    attack = Triangle()
    alpha = 1.65
    state = dataclasses.replace(
        attack.init(p),
        delta=as_tensor(np.array([[0.4, 0.0, 0.0, 0.0]])),
        across=as_tensor(np.array([[0.0, 1.0, 0.0, 0.0]])),
        side=as_tensor(np.ones(1)),
        lean=as_tensor(np.array([1 / np.tan(alpha)])),
    )
    for beta in (0.1, 0.7, 1.2):
        slope = as_tensor(np.array([np.tan(beta)]))
        point = attack._point(p, state, slope).raw[0] - 0.5
        length = 0.4 * np.sin(np.pi - alpha - beta) / np.sin(alpha)
        assert np.linalg.norm(point) == pytest.approx(length)


def test_alpha_is_learned_within_its_range():
    attack = Triangle(bolder=0.05, humbler=0.02, range=0.1)
    lean = as_tensor(np.array([0.0, 0.0, -0.09, 0.09]))
    passed = as_tensor(np.array([True, False, True, False]))
    learned = attack.learned(lean, passed).raw
    assert learned == pytest.approx([-0.05, 0.02, -0.1, 0.1])


def test_directions_are_at_right_angles_to_the_perturbation_and_those_before():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.7, (2, 1, 6, 6))
    p = problem(half_space(np.ones((1, 6, 6)), 9.0), x)
    attack = SurFree(frequencies=0.5, memory=4)
    state = attack.init(p)
    for t in range(8):
        state = attack._turned(p, state, t)
        product = (state.across.raw * state.delta.raw).reshape(2, -1).sum(axis=1)
        assert product == pytest.approx(0, abs=1e-12)
        for past in state.past.raw:
            kept = past.any(axis=1)
            np.testing.assert_allclose(past @ past.T, np.diag(kept), atol=1e-9)
    assert kept.any()


def test_every_other_direction_is_smoother():
    half = _lowest((2, 6, 4))
    assert half.shape == (2, 6, 4)
    assert half[:, :3, :2].all()
    assert half.sum() == 2 * 3 * 2
    assert _lowest((7,)).all()
