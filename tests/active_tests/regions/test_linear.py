"""Half-spaces and polyhedra against general solvers and exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from robustkit.active_tests.regions import HalfSpace, Polyhedron, polyhedron, size
from robustkit.numerics.bounds import Bounds

NORMS = ("l0", "l1", "l2", "linf")
BOX = Bounds(-1, 2)


def feasible(slopes, margins, low, high):
    return linprog(
        np.zeros(len(low)), slopes, -margins, bounds=np.column_stack([low, high])
    ).success


def by_other_means(slopes, offsets, x, norm, box):
    """The distance by exhaustive search (L0), or by epigraphs and SLSQP."""
    low, high = box.lower - x, box.upper - x
    margins = slopes @ x + offsets
    if not feasible(slopes, margins, low, high):
        return np.inf
    count = len(x)
    if norm == "l0":
        for k in range(count + 1):
            for moved in itertools.combinations(range(count), k):
                free = np.isin(np.arange(count), moved)
                if feasible(slopes, margins, low * free, high * free):
                    return float(k)
    start = linprog(
        np.zeros(count), slopes, -margins, bounds=np.column_stack([low, high])
    ).x
    if norm == "l2":
        found = minimize(
            lambda v: v @ v,
            start,
            jac=lambda v: 2 * v,
            bounds=np.column_stack([low, high]),
            constraints={
                "type": "ineq",
                "fun": lambda v: -margins - slopes @ v,
                "jac": lambda v: -slopes,
            },
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        return float(np.sqrt(found.fun))
    # |v_i| <= t_i (or one t), as constraints rather than as split variables.
    extra = count if norm == "l1" else 1
    reach = np.eye(count) if norm == "l1" else np.ones((count, 1))
    unit = np.eye(count)
    rows = np.block(
        [[slopes, np.zeros((len(slopes), extra))], [unit, -reach], [-unit, -reach]]
    )
    found = linprog(
        np.concatenate([np.zeros(count), np.ones(extra)]),
        rows,
        np.concatenate([-margins, np.zeros(2 * count)]),
        bounds=[*zip(low, high, strict=True), *[(0, None)] * extra],
        method="highs-ipm",
    )
    return float(found.fun)


def problem(seed, rows, features, hardness):
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(rows, features))
    x = rng.uniform(BOX.lower, BOX.upper, features)
    at_bound = rng.random(features)
    x = np.where(at_bound < 0.3, BOX.lower, np.where(at_bound > 0.8, BOX.upper, x))
    inside = rng.uniform(BOX.lower, BOX.upper, features)
    # At hardness 1 the rows meet in a point of the box, above they may not at all.
    level = (1 - hardness) * slopes @ x + hardness * slopes @ inside
    return slopes, -level, x


problems = st.builds(
    problem,
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.integers(1, 5),
    st.floats(0.3, 2.0),
)


@settings(deadline=None, max_examples=60)
@given(problems, st.sampled_from(NORMS))
def test_nearest_point_is_what_other_solvers_find(drawn, norm):
    slopes, offsets, x = drawn
    expected = by_other_means(slopes, offsets, x, norm, BOX)
    region = polyhedron(slopes, offsets)
    point = region.nearest(x, norm, BOX)
    if expected == np.inf:
        assert point is None
        assert region.at_least(x, norm, BOX) <= np.inf
        return
    assert point is not None
    assert size(point - x, norm) == pytest.approx(expected, rel=2e-5, abs=2e-5)
    assert (slopes @ point + offsets <= 1e-8).all()
    assert (BOX.lower <= point).all()
    assert (point <= BOX.upper).all()
    assert region.at_least(x, norm, BOX) <= size(point - x, norm) * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.sampled_from(NORMS))
def test_a_half_space_and_a_polyhedron_of_one_row_agree_closely(seed, hardness, norm):
    slopes, offsets, x = problem(seed, 1, 12, 0.0)
    room = np.where(slopes[0] > 0, x - BOX.lower, BOX.upper - x)
    offset = float(offsets[0] + hardness * (np.abs(slopes[0]) * room).sum())
    one = HalfSpace(slopes[0], offset).nearest(x, norm, BOX)
    other = Polyhedron(slopes, np.array([offset])).nearest(x, norm, BOX)
    assert size(one - x, norm) == pytest.approx(size(other - x, norm), rel=1e-9)
    if norm != "l0":
        assert slopes[0] @ one + offset == pytest.approx(0, abs=1e-12)


def test_features_at_a_bound_or_without_slope_stay():
    half = HalfSpace(np.array([1.0, 1.0, 0.0]), -0.3)
    x = np.array([0.0, 1.0, 0.7])
    for norm in NORMS:
        point = half.nearest(x, norm, Bounds(0, 1))
        assert (point[0], point[2]) == (0.0, 0.7)
        if norm != "l0":
            assert point[1] == pytest.approx(0.3)


def test_out_of_reach_is_none_and_inside_is_itself():
    half = HalfSpace(np.array([1.0, 1.0]), 0.1)
    assert half.nearest(np.array([0.5, 0.5]), "l2", Bounds(0, 1)) is None
    assert half.at_least(np.array([0.5, 0.5]), "l2", Bounds(0, 1)) == np.inf
    inside = np.array([-0.5, 0.3])
    assert (half.nearest(inside, "l1", BOX) == inside).all()
    both = Polyhedron(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.5, 0.6]))
    for norm in NORMS:
        assert both.nearest(np.array([0.5, 0.5]), norm, BOX) is None


def test_a_set_of_features_that_barely_fails_is_not_taken():
    # Feature 0 alone lacks less than a solver of integer programs can see.
    slopes = np.array([[-1.0, -1.0], [-1.0, 1.0]])
    offsets = np.array([1 + 1e-8, -5.0])
    point = Polyhedron(slopes, offsets).nearest(np.zeros(2), "l0", Bounds(0, 1))
    assert np.count_nonzero(point) == 2
