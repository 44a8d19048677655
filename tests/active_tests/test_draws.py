import numpy as np
import pytest

from robustkit.active_tests.draws import GAP, Ball, project
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import as_tensor, to_numpy

RADII = {"linf": 0.1, "l2": 0.5, "l1": 1.5, "l0": 3.0}


def rng(x, seed=0):
    return Rng(seed, sample_keys(x[None]), 0, as_tensor(x[None]), 2)


def ball(norm, scale=1.0, shift=0.0, dtype=np.float32):
    x = np.random.default_rng(3).uniform(-0.3, 1.3, size=16).clip(0, 1)
    x = (shift + scale * x).astype(dtype)
    epsilon = RADII[norm] * (1 if norm == "l0" else scale)
    return Ball(x, get_norm(norm), epsilon, Bounds(shift, shift + scale))


def sizes(b, points):
    delta = points.astype(np.float64) - b.x.astype(np.float64)
    return to_numpy(b.norm(as_tensor(delta)))


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(
    ("scale", "shift", "dtype"),
    [(1.0, 0.0, np.float32), (255.0, 0.0, np.float32), (8.0, -3.0, np.float64)],
)
def test_points_lie_in_ball_and_box(norm, scale, shift, dtype):
    b = ball(norm, scale, shift, dtype)
    inner, surface = b.inner(rng(b.x), 300), b.surface(rng(b.x), 300)
    for points in (inner, surface):
        assert points.dtype == dtype
        assert points.min() >= shift
        assert points.max() <= shift + scale
    reach = b.epsilon * (1 - GAP)
    assert sizes(b, inner).max() <= (np.floor(reach) if norm == "l0" else reach) * 1.001
    assert sizes(b, surface).max() <= b.epsilon
    assert len(np.unique(surface, axis=0)) > 250


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_surface_is_reached_although_the_box_is_in_the_way(norm):
    b = ball(norm)
    assert ((b.x == 0) | (b.x == 1)).any()
    size = sizes(b, b.surface(rng(b.x), 300))
    # For L1, a few features may have too little room for all of epsilon.
    reached = np.isclose(size, b.epsilon, rtol=2e-3)
    assert reached.mean() >= (1 if norm == "l2" else 0.6), reached.mean()


def test_corners_move_every_feature_that_has_room_by_epsilon():
    b = ball("linf")
    moved = np.abs(b.surface(rng(b.x), 200) - b.x)
    free = (b.x > b.epsilon) & (b.x < 1 - b.epsilon)
    assert free.any()
    assert np.allclose(moved[:, free], b.epsilon, rtol=2e-4)


def test_pixels_count_once():
    x = np.random.default_rng(0).uniform(0.1, 0.9, size=(3, 5, 5)).astype(np.float32)
    b = Ball(x, get_norm("l0-pixels"), 4.0, Bounds())
    moved = (b.surface(rng(x), 50) != x).any(axis=1).reshape(50, -1).sum(axis=1)
    assert (moved == 4).all()
    assert (b.inner(rng(x), 50) != x).any(axis=1).reshape(50, -1).sum(axis=1).max() == 3


def test_draws_depend_on_the_seed_and_on_nothing_global():
    b = ball("linf")
    first = b.surface(rng(b.x), 20)
    np.random.default_rng().random(5)
    assert (first == b.surface(rng(b.x), 20)).all()
    assert (first != b.surface(rng(b.x, seed=1), 20)).any()


def test_projection_is_that_of_ball_and_box():
    b = ball("linf")
    x = np.stack([b.x, b.x])
    far = np.stack([b.x + 5, b.x - 5])
    expected = np.stack([(b.x + 0.1).clip(0, 1), (b.x - 0.1).clip(0, 1)])
    assert np.allclose(project(x, far, b.norm, 0.1, b.bounds), expected, atol=1e-6)
