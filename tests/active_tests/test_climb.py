import numpy as np
import pytest

from robustkit.active_tests.climb import climb
from robustkit.active_tests.draws import Ball
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import as_tensor, to_numpy

WEIGHTS = np.random.default_rng(0).normal(size=(8, 3))
RADII = {"linf": 0.1, "l2": 0.4, "l1": 0.6, "l0": 2.0}


def setting(norm, gradient=True):
    x = np.full((4, 8), 0.5)
    x += np.random.default_rng(1).uniform(-0.05, 0.05, size=x.shape)
    back = (lambda x, s: s @ WEIGHTS.T) if gradient else None
    model = NumPyModel(lambda x: x @ WEIGHTS, Bounds(), gradient=back)
    balls = [Ball(one, get_norm(norm), RADII[norm], Bounds()) for one in x]
    rngs = [
        Rng(0, sample_keys(one[None]), 0, as_tensor(one[None]), stream=2) for one in x
    ]
    return model, balls, x, rngs


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_the_top_is_reached(norm):
    model, balls, x, rngs = setting(norm)
    weights = np.random.default_rng(2).normal(size=(4, 3))
    points, values = climb(model, balls, weights, x, 60, rngs)
    slope = weights @ WEIGHTS.T
    gain = RADII[norm] * to_numpy(get_norm(norm).dual(as_tensor(slope)))
    best = (x * slope).sum(axis=1) + gain
    assert np.allclose(values, (points * slope).sum(axis=1))
    assert (values <= best + 1e-9).all()
    assert (values >= best - 0.03 * gain).all()


@pytest.mark.parametrize("norm", RADII)
def test_without_gradients_it_climbs_too_and_stays_in_the_ball(norm):
    model, balls, x, rngs = setting(norm, gradient=False)
    weights = np.random.default_rng(2).normal(size=(4, 3))
    points, values = climb(model, balls, weights, x, 60, rngs)
    slope = weights @ WEIGHTS.T
    assert (values > (x * slope).sum(axis=1)).all()
    size = to_numpy(get_norm(norm)(as_tensor(points - x)))
    assert (size <= RADII[norm]).all()


def test_only_points_that_are_allowed_count():
    model, balls, x, rngs = setting("linf")
    weights = np.array([[1.0, 0.0, 0.0]] * 4)
    points, values = climb(model, balls, weights, x, 30, rngs, allowed=1)
    found = np.isfinite(values)
    assert ((points @ WEIGHTS)[found, -1] < 0).all()
    assert (values[(x @ WEIGHTS)[:, -1] < 0] > -np.inf).all()
