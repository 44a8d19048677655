"""Steps of a walk against the exact local problem, and walks against closed forms."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from robustkit.numerics import glide as module
from robustkit.numerics.fused import compiler_missing, compiling
from robustkit.numerics.glide import glide
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.numerics.trust_region import smallest_near

L2 = get_norm("l2")


def places(count=40, size=12, seed=0, width=1.0):
    """Where walks stand, and their boxes."""
    rng = np.random.default_rng(seed)
    low = -width * rng.uniform(0, 1, (count, size))
    high = low + width
    delta = low + width * rng.uniform(0, 1, (count, size))
    gradient = rng.normal(size=(count, size)) * rng.uniform(0.1, 10, (count, 1))
    margin = rng.normal(size=count) * 0.3 * np.linalg.norm(gradient, axis=1)
    radius = rng.uniform(0.1, 1.0, count)
    return delta, margin, gradient, radius, low, high


def step(place, convert=as_tensor, known=None, momentum=0.0):
    delta, margin, gradient, radius, low, high = map(convert, place)
    one = np.ones(len(place[1]), place[1].dtype)
    normal, price = (delta.zeros_like(), convert(one)) if known is None else known
    past = convert(momentum * one)
    delta, *known = glide(
        normal, price, delta, margin, gradient, past, radius, low, high
    )
    return delta, known


def single(place):
    return tuple(values.astype(np.float32) for values in place)


def to_torch(values):
    return as_tensor(torch.from_numpy(values))


def walk(gradient, start, delta, low, high):
    """The perturbations of a walk along planes."""
    known, first = None, np.linalg.norm(delta, axis=1)
    for k in range(40):
        margin = start + (gradient * delta).sum(axis=1)
        place = (delta, margin, gradient, 0.9**k * first, low, high)
        moved, known = step(place, known=known, momentum=0.7 if k else 0.0)
        delta = moved.numpy()
        yield delta


def test_without_a_box_a_step_is_exact():
    delta, margin, gradient, radius, *_ = places(200)
    far = np.full_like(delta, 1e3)
    unit = np.linalg.norm(gradient, axis=1)
    near = np.abs(margin) < 0.8 * radius * unit
    margin = np.where(near, margin, 0.5 * radius * unit)
    got, _ = step((delta, margin, gradient, radius, -far, far))
    height = margin / unit
    level = (gradient * delta).sum(axis=1) - (height + 0.1 * np.abs(height)) * unit
    problem = (delta, gradient, level, radius, -far, far)
    exact = smallest_near(L2, *map(as_tensor, problem), tolerance=1e-9)
    assert_allclose(got.numpy(), exact.numpy(), atol=1e-6)


def test_walks_along_a_plane_end_at_the_smallest_perturbation_beyond_it():
    _, _, gradient, _, low, high = places(60, 30, seed=3)
    corner = np.where(gradient > 0, low, high)
    # What half of the way to the corner of the box is needed for.
    start = -0.5 * (gradient * corner).sum(axis=1)
    best = np.full(len(start), math.inf)
    for delta in walk(gradient, start, corner, low, high):
        assert (delta >= low).all()
        assert (delta <= high).all()
        margin = start + (gradient * delta).sum(axis=1)
        # A rounding before the boundary is none.
        size = np.where(margin <= 1e-9, np.linalg.norm(delta, axis=1), math.inf)
        best = np.minimum(best, size)
    exact = L2.project_halfspace(*map(as_tensor, (gradient, start, low, high)))
    ratio = best / L2(exact).numpy()
    assert (ratio >= 1 - 1e-9).all()
    assert np.quantile(ratio, 0.9) <= 1.02
    assert ratio.max() <= 1.1


def test_what_a_step_taught_lets_the_next_one_keep_to_its_trust_radius():
    delta, margin, gradient, _, low, high = places(300, seed=7)
    unit = np.linalg.norm(gradient, axis=1)
    radius, margin = np.full(300, 0.7), np.clip(margin, -0.4 * unit, 0.4 * unit)
    known, far = None, []
    for _ in range(4):
        moved, known = step((delta, margin, gradient, radius, low, high), known=known)
        length = np.linalg.norm(moved.numpy() - delta, axis=1)
        far.append(np.mean(np.abs(length / radius - 1)))
    assert far[-1] < 0.5 * far[0]


def test_where_nothing_is_left_to_shrink_the_price_stays_a_number():
    # Straight against the gradient lies the nearest point beyond the plane.
    gradient = np.array([[1.0, 0.0], [1.0, 1.0]])
    delta, margin, radius = -gradient / 4, np.full(2, 0.1), np.full(2, 0.5)
    place, known = (delta, margin, gradient, radius, -np.ones((2, 2)), -delta), None
    for _ in range(60):
        _, known = step(place, known=known)
    assert (known[1].numpy() == 1e3).all()


def test_a_step_leads_beyond_the_plane_where_that_can_be_reached():
    delta, margin, gradient, radius, low, high = places(300, seed=1)
    unit = np.linalg.norm(gradient, axis=1)
    reach = (gradient * (delta - np.where(gradient > 0, low, high))).sum(axis=1)
    near = np.minimum(0.1 * radius * unit, 0.3 * reach)
    margin = np.clip(margin, -near, near)
    got, _ = step((delta, margin, gradient, radius, low, high))
    after = margin + (gradient * (got.numpy() - delta)).sum(axis=1)
    assert np.mean(after <= 0.01 * np.abs(margin)) >= 0.9


def test_a_step_is_nobody_elses_business():
    place = places(16, seed=2)
    together, (_, price) = step(place)
    for row in range(16):
        alone, known = step(tuple(values[row : row + 1] for values in place))
        assert_array_equal(alone.numpy()[0], together.numpy()[row])
        assert known[1].item() == price[row].item()


def test_looking_again_at_who_is_done_changes_nothing(monkeypatch):
    place = places(50, seed=4)
    plain, (_, price) = step(place)
    monkeypatch.setattr(module, "is_symbolic", lambda _: True)
    whole, known = step(place)
    assert_array_equal(plain.numpy(), whole.numpy())
    assert_array_equal(price.numpy(), known[1].numpy())


@pytest.mark.slow
def test_compiled_steps_are_the_same():
    if reason := compiler_missing():
        pytest.skip(f"torch cannot compile here: {reason}")
    place = single(places(9, seed=5))
    plain, _ = step(place, to_torch)
    with compiling():
        fast, _ = step(place, to_torch)
    assert_allclose(fast.numpy(), plain.numpy(), atol=1e-4)


def test_answers_that_are_no_numbers_and_empty_gradients_lead_into_the_box():
    delta, margin, gradient, radius, low, high = places(6, seed=6)
    margin[:2], radius[:4], gradient[3] = math.inf, math.inf, 0.0
    gradient[4] *= 1e-30
    gradient[5] *= 1e30
    place = single((delta, margin, gradient, radius, low, high))
    got, (_, price) = step(place, to_torch)
    moved = got.numpy()
    assert np.isfinite(moved).all()
    assert ((moved >= place[4]) & (moved <= place[5])).all()
    assert np.isfinite(price.numpy()).all()
