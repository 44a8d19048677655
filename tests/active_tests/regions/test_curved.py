"""Boxes, balls and quadrics against general solvers, sampling and known corners."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from robustkit.active_tests.regions import (
    Ball,
    Cuboid,
    OutsideBall,
    Quadratic,
    size,
)
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds

NORMS = ("l0", "l1", "l2", "linf")
WIDE = Bounds(-10, 10)
seeds = st.integers(0, 10_000)
few = settings(deadline=None, max_examples=12)


def least(x, norm, constraint, bounds, starts):
    """The distance by SLSQP from several starts, in a smooth form of the norm."""
    count = len(x)
    low, high = bounds.lower - x, bounds.upper - x
    best = np.inf
    for start in starts:
        delta = start - x
        if norm == "l2":
            found = minimize(
                lambda v: v @ v,
                delta,
                bounds=list(zip(low, high, strict=True)),
                constraints={"type": "ineq", "fun": lambda v: constraint(x + v)},
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 300},
            )
            move = found.x
        elif norm == "linf":
            found = minimize(
                lambda v: v[-1],
                np.append(delta, np.abs(delta).max()),
                bounds=[*zip(low, high, strict=True), (0, None)],
                constraints=[
                    {"type": "ineq", "fun": lambda v: constraint(x + v[:-1])},
                    {"type": "ineq", "fun": lambda v: v[-1] - v[:-1]},
                    {"type": "ineq", "fun": lambda v: v[-1] + v[:-1]},
                ],
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 300},
            )
            move = found.x[:-1]
        else:
            found = minimize(
                lambda v: v.sum(),
                np.concatenate([delta.clip(0), (-delta).clip(0)]),
                bounds=[(0, h) for h in high] + [(0, -v) for v in low],
                constraints={
                    "type": "ineq",
                    "fun": lambda v: constraint(x + v[:count] - v[count:]),
                },
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 300},
            )
            move = found.x[:count] - found.x[count:]
        if constraint(x + move) > -1e-7:
            best = min(best, size(move, norm))
    return best


@few
@given(seeds, st.sampled_from(["l1", "l2", "linf"]))
@example(344, "l2")
def test_into_a_ball(seed, norm):
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(-0.5, 0.5, 4), rng.uniform(0.3, 1.0)
    x = centre + rng.normal(size=4) * 2
    assume(np.linalg.norm(x - centre) > radius * 1.05)
    point = Ball(centre, radius).nearest(x, norm, WIDE)
    # At the centre the constraint has no slope, and the solver may get nowhere.
    starts = [centre, centre + radius / 2 * (x - centre) / np.linalg.norm(x - centre)]
    expected = least(
        x, norm, lambda z: radius**2 - (z - centre) @ (z - centre), WIDE, starts
    )
    assert size(point - x, norm) == pytest.approx(expected, rel=1e-5)
    assert np.linalg.norm(point - centre) == pytest.approx(radius, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(seeds, st.booleans())
def test_fewest_features_into_and_out_of_a_ball(seed, inward):
    rng = np.random.default_rng(seed)
    box = Bounds(-1, 1)
    centre, x = rng.uniform(-0.2, 0.2, 5), rng.uniform(-1, 1, 5)
    away = np.linalg.norm(x - centre)
    radius = away * rng.uniform(0.1, 0.9) if inward else away * rng.uniform(1.05, 2)
    region = Ball(centre, radius) if inward else OutsideBall(centre, radius, boxed=True)
    best = np.inf
    corner = centre if inward else np.where(centre > 0, box.lower, box.upper)
    for mask in itertools.product([False, True], repeat=5):
        length = np.linalg.norm(np.where(mask, corner, x) - centre)
        if length <= radius if inward else length >= radius:
            best = min(best, sum(mask))
    point = region.nearest(x, "l0", box)
    if best == np.inf:
        assert point is None
    else:
        assert size(point - x, "l0") == best
        length = np.linalg.norm(point - centre)
        assert length <= radius if inward else length >= radius


@few
@given(seeds, st.sampled_from(["l1", "l2", "linf"]), st.booleans())
def test_out_of_a_ball(seed, norm, boxed):
    assume(not (boxed and norm == "l1"))
    rng = np.random.default_rng(seed)
    box = Bounds(-1, 1) if boxed else WIDE
    centre = rng.uniform(-0.1, 0.1, 3)
    radius = rng.uniform(0.9, 1.3)
    x = (centre + rng.normal(size=3) * 0.3).clip(-0.95, 0.95)
    assume(np.linalg.norm(x - centre) < radius * 0.95)
    # A solver finds the nearest of the ways out from starts in all directions.
    starts = [
        (centre + 1.6 * np.array(way)).clip(box.lower, box.upper)
        for way in itertools.product([-0.9, 1.1], repeat=3)
    ]
    if norm == "l1":
        # Along the axes, where the solver would not turn to by itself.
        axes = np.concatenate([np.eye(3), -np.eye(3)]) * 1.5 * radius
        starts = list(np.where(axes != 0, centre + axes, x))
    point = OutsideBall(centre, radius, boxed=boxed).nearest(x, norm, box)
    expected = least(
        x, norm, lambda z: (z - centre) @ (z - centre) - radius**2, box, starts
    )
    # Of a point that is out and in the box, less is no mistake: the solver's start is.
    assert size(point - x, norm) <= expected * (1 + 1e-4)
    assert (np.abs(point) <= box.upper).all()
    assert np.linalg.norm(point - centre) == pytest.approx(radius, rel=1e-9)


def test_published_formulas_of_the_sphere():
    rng = np.random.default_rng(5)
    z, radius = rng.normal(size=6) * 0.2, 1.5
    outside = OutsideBall(np.zeros(6), radius)
    one, two, most = np.abs(z).sum(), np.linalg.norm(z), np.abs(z).max()
    expected = {
        "l0": 1.0,
        "l1": np.sqrt(radius**2 - two**2 + most**2) - most,
        "l2": radius - two,
        "linf": (-one + np.sqrt(one**2 + 6 * (radius**2 - two**2))) / 6,
    }
    for norm, value in expected.items():
        found = size(outside.nearest(z, norm, WIDE) - z, norm)
        assert found == pytest.approx(value, rel=1e-12)


def test_the_nearest_way_out_may_lead_across_the_centre():
    # To the right the box ends at 0.5 from the centre, to the left at 1.5.
    outside = OutsideBall(np.array([0.5, 0.0]), 1.4, boxed=True)
    x = np.array([0.55, 0.0])
    point = outside.nearest(x, "linf", Bounds(-1, 1))
    assert np.abs(point - x).max() == pytest.approx(0.05 + np.sqrt(0.96), rel=1e-12)
    assert point[0] < -0.4


def test_a_ball_that_the_box_holds_has_no_outside():
    outside = OutsideBall(np.zeros(3), 2.0, boxed=True)
    for norm in ("l0", "l2", "linf"):
        assert outside.nearest(np.full(3, 0.1), norm, Bounds(-1, 1)) is None
    assert outside.norms == {"l0", "l2", "linf"}
    # Out of reach away from the centre, not by crossing over: not known.
    lopsided = OutsideBall(np.array([0.9, 0.0]), 1.5, boxed=True)
    with pytest.raises(BadInput, match="not known in l2"):
        lopsided.nearest(np.array([0.95, 0.1]), "l2", Bounds(-1, 1))


@settings(deadline=None, max_examples=50)
@given(seeds, st.sampled_from(["up", "down", "both"]))
def test_onto_a_quadric(seed, kind):
    rng = np.random.default_rng(seed)
    count = 4
    bends = rng.uniform(0.5, 4, count)
    bends *= {"up": 1, "down": -1, "both": np.array([-1, -1, 1, 1])}[kind]
    basis = np.linalg.qr(rng.normal(size=(count, count)))[0]
    curvature = basis @ np.diag(bends) @ basis.T
    curvature = (curvature + curvature.T) / 2
    region = Quadratic(
        curvature,
        rng.normal(size=count) * 0.3,
        rng.normal(size=count) * 0.3,
        rng.uniform(-2, 2),
    )
    x = rng.normal(size=count)
    assume(region.value(x) > 0.05)
    point = region.nearest(x, "l2", Bounds(-1e4, 1e4))
    if point is None:
        # The lowest point of a bowl, found by a linear system, is above zero.
        bottom = region.centre - np.linalg.solve(curvature, region.slope)
        assert kind == "up"
        assert region.value(bottom) > 0
        return
    assert region.value(point) == pytest.approx(0, abs=1e-9)
    # The certificate of a global minimum: one multiplier for which the Lagrangian is
    # convex, and stationary here.
    slope = curvature @ (point - region.centre) + region.slope
    multiplier = -(point - x) @ slope / (slope @ slope)
    assert multiplier >= 0
    assert np.abs(point - x + multiplier * slope).max() < 1e-7 * (1 + multiplier)
    assert np.linalg.eigvalsh(np.eye(count) + multiplier * curvature).min() > -1e-7


@pytest.mark.parametrize("offset", [0.0, 1e-9, 1e-4, -1e-4])
def test_the_hard_case_and_its_neighbourhood(offset):
    # On the ridge of a saddle, and next to it: the way is nearly the same.
    region = Quadratic(np.diag([-1.0, 3.0]), np.zeros(2), np.zeros(2), 0.5)
    point = region.nearest(np.array([offset, 0.2]), "l2", WIDE)
    assert region.value(point) == pytest.approx(0, abs=1e-12)
    angles = np.linspace(0, 2 * np.pi, 100_001)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = np.array([offset, 0.2])
    for share, below in ((0.9999, False), (1.0001, True)):
        points = x + ring * (np.linalg.norm(point - x) * share)
        values = ((points**2) @ np.array([-1.0, 3.0])) / 2 + 0.5
        assert (values.min() < 0) == below


def test_a_quadric_behind_the_box_is_refused():
    region = Quadratic(np.diag([1.0, 1.0]), np.zeros(2), np.array([3.0, 0.0]), -0.5)
    with pytest.raises(BadInput, match="outside of the box"):
        region.nearest(np.zeros(2), "l2", Bounds(-1, 1))
    assert region.norms == {"l2"}


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_into_a_box(seed):
    rng = np.random.default_rng(seed)
    lower = rng.uniform(-1, 1, 3)
    upper = lower + rng.uniform(0, 1, 3)
    x = rng.uniform(-1, 1, 3)
    grid = np.stack(
        [np.linspace(lo, up, 5) for lo, up in zip(lower, upper, strict=True)]
    )
    points = np.array(list(itertools.product(*grid)))
    box = Bounds(-1, 1)
    inside = points[(np.abs(points) <= 1).all(axis=1)]
    region = Cuboid(lower, upper)
    for norm in NORMS:
        point = region.nearest(x, norm, box)
        if point is None:
            assert (lower > 1).any()
            continue
        assert (lower <= point).all()
        assert (point <= upper).all()
        assert region.at_least(x, norm, box) == size(point - x, norm)
        for other in inside:
            assert size(other - x, norm) >= size(point - x, norm) - 1e-12
