"""`Norm.proximal` against a general solver, brute force and its own laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from robustkit.numerics.norms import L0, get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.numerics.thresholds import shrink_by_root

ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


def proximal(norm, delta, curvature, weight):
    norm = get_norm(norm)
    tensors = (as_tensor(np.asarray(v, dtype=float)) for v in (delta, curvature))
    return norm.proximal(*tensors, as_tensor(np.asarray(weight, dtype=float))).numpy()


def case(seed, samples=6, features=5):
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=(samples, features))
    delta[rng.random(delta.shape) < 0.2] = 0.0
    curvature = np.exp(rng.normal(size=delta.shape))
    return delta, curvature, np.exp(rng.normal(size=samples))


@pytest.mark.parametrize("norm", ORDERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_general_solver_finds_less(norm, seed):
    delta, curvature, weight = case(seed, samples=2)
    found = proximal(norm, delta, curvature, weight)
    for d, c, w, z in zip(delta, curvature, weight, found, strict=True):

        def cost(z, d=d, c=c, w=w):
            size = np.linalg.norm(z, ord=ORDERS[norm])
            return (c * (z - d) ** 2).sum() / 2 + w * size

        best = min(
            optimize.minimize(cost, start, method="Powell", tol=1e-12).fun
            for start in (d, z, np.zeros_like(d))
        )
        assert cost(z) <= best + 1e-9
        near = z + np.random.default_rng(seed).normal(size=(200, len(z))) * 1e-3
        assert cost(z) <= min(map(cost, near)) + 1e-12


@pytest.mark.parametrize("norm", [*ORDERS, "l0"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_feature_moves_towards_zero_or_stays(norm, seed):
    delta, curvature, weight = case(seed)
    found = proximal(norm, delta, curvature, weight)
    assert (found * delta >= 0).all()
    assert (abs(found) <= abs(delta) * (1 + 1e-9)).all()


@pytest.mark.parametrize("norm", [*ORDERS, "l0"])
def test_little_weight_changes_little_and_much_leaves_nothing(norm):
    delta, curvature, _ = case(3)
    same = proximal(norm, delta, curvature, np.full(6, 1e-12))
    np.testing.assert_allclose(same, delta, atol=1e-8)
    assert (proximal(norm, delta, curvature, np.full(6, 1e6)) == 0).all()


@pytest.mark.parametrize("norm", ORDERS)
def test_no_weight_changes_nothing(norm):
    delta, curvature, _ = case(4)
    same = proximal(norm, delta, curvature, np.zeros(6))
    np.testing.assert_allclose(same, delta, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(size=st.floats(0, 10), weight=st.floats(1e-6, 10))
def test_shrinking_by_a_root_against_brute_force(size, weight):
    def cost(z):
        return (z - size) ** 2 / 2 + weight * np.abs(z) ** (2 / 3)

    tensors = (as_tensor(np.array([[value]])) for value in (size, weight))
    found = shrink_by_root(*tensors).numpy()[0, 0]
    assert cost(found) <= cost(np.linspace(0, size, 20_001)).min() * (1 + 1e-9)


def test_pixels_shrink_as_wholes():
    delta = np.array([[[3.0, 0.1], [4.0, 0.0]]])
    curvature, weight = np.ones_like(delta), np.array([0.5])
    norm = L0(channel_axis=1)
    found = norm.proximal(*map(as_tensor, (delta, curvature, weight))).numpy()
    size = shrink_by_root(as_tensor(np.array([[5.0]])), as_tensor(np.array([[0.5]])))
    share = size.numpy()[0, 0] / 5
    np.testing.assert_allclose(found, [[[3 * share, 0.0], [4 * share, 0.0]]])
    assert 0 < share < 1


def test_units_are_summed_where_pixels_count():
    values = as_tensor(np.arange(6.0).reshape(1, 2, 3))
    summed = L0(channel_axis=1).summed(values).numpy()
    np.testing.assert_array_equal(summed, [[[3.0, 5.0, 7.0]]])
    np.testing.assert_array_equal(L0().summed(values).numpy(), values.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_root_does_not_depend_on_its_place(dtype):
    size = torch.linspace(0.1, 9.0, 101, dtype=dtype)[:, None]
    weight = 0.5 + size.flip(0) / 4
    whole = shrink_by_root(as_tensor(size), as_tensor(weight)).numpy()
    single = [
        shrink_by_root(as_tensor(one[None]), as_tensor(other[None])).numpy()[0]
        for one, other in zip(size, weight, strict=True)
    ]
    assert np.array_equal(whole, np.stack(single))
