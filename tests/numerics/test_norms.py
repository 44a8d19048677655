"""The norms against closed forms, solvers and brute force.

Every perturbation here has shape (n, channels, pixels), so one array serves all norms.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize

from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import L0, L1, L2, NORMS, Linf, Norm, get_norm
from robustkit.numerics.tensors import Array, Tensor, as_tensor

CONVEX = ("l1", "l2", "linf")
COUNTS = ("l0", "l0-pixels")
ORDERS = {"l1": 1, "l2": 2, "linf": math.inf}
CLOSE = 1e-9

every_norm = pytest.mark.parametrize("name", NORMS)
convex_norms = pytest.mark.parametrize("name", CONVEX)
counting_norms = pytest.mark.parametrize("name", COUNTS)


@dataclass(frozen=True)
class Case:
    """What the operations of a norm take: (n, channels, pixels) and (n,)."""

    delta: Array
    gradient: Array
    point: Array
    low: Array
    high: Array
    radius: Array
    margin: Array

    def rows(self):
        """Each sample as a case of its own."""
        for row in range(len(self.delta)):
            yield self.map(lambda values, row=row: values[row : row + 1])

    def map(self, function):
        fields = dataclasses.asdict(self)
        return Case(**{name: function(values) for name, values in fields.items()})

    def tensors(self, convert=as_tensor):
        return self.map(convert)


# Few different values make ties, zeros and full rooms common.
coarse = st.integers(-3, 3).map(float)
fine = st.integers(-3000, 3000).map(lambda thousandths: thousandths / 1000)
numbers = st.one_of(coarse, fine)
sizes = numbers.map(abs)
BOUNDS = Bounds(-2.0, 3.0)
inputs = st.one_of(st.sampled_from([-2.0, 3.0]), st.floats(-2.0, 3.0))


@st.composite
def cases(draw, most_samples=2):
    samples = draw(st.integers(1, most_samples))
    shape = (samples, draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    return Case(
        delta=draw(arrays(float, shape, elements=numbers)),
        gradient=draw(arrays(float, shape, elements=numbers)),
        point=draw(arrays(float, shape, elements=inputs)),
        low=-draw(arrays(float, shape, elements=sizes)),
        high=draw(arrays(float, shape, elements=sizes)),
        radius=draw(arrays(float, samples, elements=sizes)),
        margin=draw(arrays(float, samples, elements=numbers)),
    )


def law(examples=20):
    """A property of random cases."""

    def decorate(test):
        return settings(max_examples=examples, deadline=None)(given(case=cases())(test))

    return decorate


def example(seed=0, samples=4, channels=2, pixels=4):
    """A case without ties, for comparisons between implementations."""
    rng = np.random.default_rng(seed)
    shape = (samples, channels, pixels)
    return Case(
        delta=rng.normal(size=shape),
        gradient=rng.normal(size=shape),
        point=rng.uniform(-4, 5, size=shape).clip(-2.0, 3.0),
        low=-rng.uniform(0.1, 1, size=shape),
        high=rng.uniform(0.1, 1, size=shape),
        radius=rng.uniform(0.5, 2.5, size=samples),
        margin=rng.uniform(0.2, 1.5, size=samples),
    )


OPERATIONS = {
    "size": lambda norm, c: norm(c.delta),
    "dual": lambda norm, c: norm.dual(c.gradient),
    "project": lambda norm, c: norm.project(c.delta, c.radius),
    "project_box": lambda norm, c: norm.project_box(c.delta, c.radius, c.low, c.high),
    "project_loosely": lambda norm, c: norm.project_loosely(
        c.delta, c.radius, c.low, c.high
    ),
    "project_halfspace": lambda norm, c: norm.project_halfspace(
        c.gradient, c.margin, c.low, c.high
    ),
    "stride": lambda norm, c: norm.stride(c.gradient, c.radius, 1.0, c.point, BOUNDS),
    "to_boundary": lambda norm, c: norm.to_boundary(c.margin, c.gradient),
    "slack": lambda norm, c: norm.slack(-c.margin, c.gradient, c.delta),
    "towards": lambda norm, c: norm.towards(c.delta, c.radius / 3),
    "scale up": lambda norm, c: norm.scale_up(c.radius, 1.05),
    "scale down": lambda norm, c: norm.scale_down(c.radius, 0.95),
    "shrink": lambda norm, c: norm.shrink(c.radius, c.margin, 0.1),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def run(operation: str, norm: str | Norm, case: Case, convert=as_tensor) -> Array:
    found = OPERATIONS[operation](get_norm(norm), case.tensors(convert))
    assert isinstance(found, Tensor)
    return found.numpy()


def rows_of(name, operation, case):
    """Each sample of the case as (channels, pixels) arrays, with its result."""
    for alone, result in zip(case.rows(), run(operation, name, case), strict=True):
        yield alone.map(lambda values: values[0]), result


# The same things in plain NumPy, for one sample (channels, pixels).


def size_of(name, row):
    if name == "l0":
        return np.count_nonzero(row)
    if name == "l0-pixels":
        return np.count_nonzero(np.any(row != 0, axis=0))
    return np.linalg.norm(row.ravel(), ORDERS[name])


def units_of(name, row):
    """A mask (channels, pixels) for each thing the norm counts."""
    if name == "l0-pixels":
        masks = np.eye(row.shape[1], dtype=bool)[:, None, :]
        return [np.broadcast_to(mask, row.shape) for mask in masks]
    return list(np.eye(row.size, dtype=bool).reshape(-1, *row.shape))


def supports(name, row, most):
    """Every choice of at most that many units, as a mask."""
    units = units_of(name, row)
    for count in range(min(most, len(units)) + 1):
        for chosen in itertools.combinations(units, count):
            yield np.any([np.zeros(row.shape, dtype=bool), *chosen], axis=0)


def nearest_by_bisection(name, delta, radius, low, high):
    """The point of ball and box nearest to `delta`, by its optimality conditions."""

    def candidate(share):
        if name == "l2":
            return np.clip(share * delta, low, high)
        if name == "linf":
            reach = share * np.abs(delta).max()
            return np.clip(delta, np.maximum(low, -reach), np.minimum(high, reach))
        threshold = (1 - share) * np.abs(delta).max()
        shrunk = np.maximum(np.abs(delta) - threshold, 0.0)
        return np.clip(np.sign(delta) * shrunk, low, high)

    def excess(share):
        return size_of(name, candidate(share)) - radius

    if excess(1.0) <= 0:
        return candidate(1.0)
    return candidate(optimize.brentq(excess, 0.0, 1.0, xtol=1e-15))


def least_squared_distance(name, delta, radius, low, high):
    """From `delta` to ball and box, by trying every support."""
    inside = np.clip(delta, low, high)
    return min(
        np.square(delta - np.where(support, inside, 0.0)).sum()
        for support in supports(name, delta, math.floor(radius))
    )


def check_nearest(name, row, point):
    """That no point of ball and box is nearer to delta than `point`."""
    if name in COUNTS:
        least = least_squared_distance(name, row.delta, row.radius, row.low, row.high)
        assert_allclose(np.square(point - row.delta).sum(), least, atol=CLOSE)
    else:
        nearest = nearest_by_bisection(name, row.delta, row.radius, row.low, row.high)
        assert_allclose(point, nearest, atol=CLOSE)


def nearest_by_solver(name, delta, radius, low, high):
    """The same by sequential quadratic programming."""
    flat, low, high = delta.ravel(), low.ravel(), high.ravel()
    # Two parts, delta = up - down, make the L1 ball smooth.
    parts = np.concatenate([np.eye(flat.size), -np.eye(flat.size)], axis=1)
    ball = {
        "l1": lambda v: radius - v.sum(),
        "l2": lambda v: radius**2 - np.square(parts @ v).sum(),
        "linf": lambda v: radius - np.concatenate([parts @ v, -parts @ v]),
    }[name]
    found = optimize.minimize(
        lambda v: np.square(parts @ v - flat).sum() / 2,
        np.full(2 * flat.size, 1e-3),
        jac=lambda v: parts.T @ (parts @ v - flat),
        bounds=[(0, top) for top in np.concatenate([high, -low])],
        constraints={"type": "ineq", "fun": ball},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return (parts @ found.x).reshape(delta.shape)


def room_of(row):
    """How far each feature can move against the gradient."""
    return np.where(row.gradient > 0, -row.low, row.high) * (row.gradient != 0)


def least_size(name, row, margin):
    """The size of the smallest delta in the box that crosses; infinite if none does."""
    gradient = row.gradient.ravel()
    steep, room = np.abs(gradient), room_of(row).ravel()
    if margin <= 0:
        return 0.0
    if (steep * room).sum() < margin:
        return math.inf
    if name in COUNTS:
        gain = np.abs(row.gradient) * room_of(row)
        every = supports(name, gain, gain.size)
        return min(
            size_of(name, np.where(s, 1, 0)) for s in every if gain[s].sum() >= margin
        )
    if name == "l2":
        return least_length(steep, room, margin)
    count = gradient.size
    low, high = row.low.ravel(), row.high.ravel()
    if name == "l1":
        found = optimize.linprog(
            np.ones(2 * count),
            A_ub=[np.concatenate([gradient, -gradient])],
            b_ub=[-margin],
            bounds=list(zip(np.zeros(2 * count), [*high, *-low], strict=True)),
        )
    else:
        one = np.ones((count, 1))
        found = optimize.linprog(
            np.append(np.zeros(count), 1),
            A_ub=np.block(
                [
                    [np.eye(count), -one],
                    [-np.eye(count), -one],
                    [gradient, np.zeros(1)],
                ]
            ),
            b_ub=np.append(np.zeros(2 * count), -margin),
            bounds=[*zip(low, high, strict=True), (0, None)],
        )
    return found.fun if found.success else math.inf


def least_length(steep, room, margin):
    """The shortest steps, by bisection: min(room, level * steep) that gain `margin`."""
    used = (steep > 0) & (room > 0)
    steep, room = steep[used], room[used]

    def short(level):
        return (steep * np.minimum(room, level * steep)).sum() - margin

    most = (room / steep).max()
    level = optimize.brentq(short, 0, most, xtol=1e-15) if short(most) > 0 else most
    return np.linalg.norm(np.minimum(room, level * steep))


class TestGetNorm:
    @every_norm
    def test_by_name(self, name):
        assert repr(get_norm(name)) == name
        assert get_norm(name.upper().replace("-", "_")) == get_norm(name)

    def test_a_norm_stays_itself(self):
        norm = L0(channel_axis=3)
        assert get_norm(norm) is norm

    def test_types(self):
        found = [get_norm(name) for name in NORMS]
        assert found == [L0(), L0(channel_axis=1), L1(), L2(), Linf()]

    @pytest.mark.parametrize("name", ["l3", "", "lnf", "2"])
    def test_unknown_names_list_the_known_ones(self, name):
        with pytest.raises(BadInput, match=f"unknown norm '{name}'") as caught:
            get_norm(name)
        assert all(known in str(caught.value) for known in NORMS)

    def test_a_near_miss_gets_a_suggestion(self):
        with pytest.raises(BadInput, match="did you mean 'linf'"):
            get_norm("lnf")

    @every_norm
    def test_norms_can_be_compared_and_hashed(self, name):
        assert len({get_norm(name), get_norm(name)}) == 1
        assert len({get_norm(name) for name in NORMS}) == len(NORMS)


class TestSize:
    @every_norm
    @law()
    def test_against_numpy(self, name, case):
        expected = [size_of(name, row) for row in case.delta]
        assert_allclose(run("size", name, case), expected, rtol=1e-12)

    def test_a_pixel_counts_once(self):
        delta = np.zeros((1, 3, 2, 2))
        delta[0, :, 0, 1] = 1.0
        delta[0, 2, 1, 1] = -1e-30
        assert get_norm("l0-pixels")(as_tensor(delta)).item() == 2
        assert get_norm("l0")(as_tensor(delta)).item() == 4

    def test_channels_that_cancel_still_count(self):
        delta = np.array([[[1.0, 0.0], [-1.0, 0.0]]])
        assert get_norm("l0-pixels")(as_tensor(delta)).item() == 1

    def test_channels_on_the_last_axis(self):
        delta = np.zeros((1, 2, 2, 3))
        delta[0, 1, 0, :] = 1.0
        assert L0(channel_axis=3)(as_tensor(delta)).item() == 1
        assert L0(channel_axis=-1)(as_tensor(delta)).item() == 1


class TestProject:
    @every_norm
    @law()
    def test_is_nearest_and_stays_there(self, name, case):
        everywhere = np.full(case.delta.shape, math.inf)
        case = dataclasses.replace(case, low=-everywhere, high=everywhere)
        once = run("project", name, case)
        twice = run("project", name, dataclasses.replace(case, delta=once))
        assert_allclose(twice, once, atol=CLOSE)
        for row, point in rows_of(name, "project", case):
            edge = math.floor(row.radius) if name in COUNTS else row.radius
            expected = min(edge, size_of(name, row.delta))
            assert size_of(name, point) == pytest.approx(expected, abs=CLOSE)
            check_nearest(name, row, point)

    @every_norm
    @law()
    def test_leaves_inner_points_alone(self, name, case):
        radius = run("size", name, case) + case.radius
        inner = dataclasses.replace(case, radius=radius)
        assert_allclose(run("project", name, inner), case.delta, rtol=1e-12)

    @every_norm
    def test_an_infinite_radius_changes_nothing(self, name):
        case = example()
        case = dataclasses.replace(case, radius=np.full(4, math.inf))
        assert_array_equal(run("project", name, case), case.delta)

    @every_norm
    def test_a_radius_of_zero_leaves_nothing(self, name):
        case = dataclasses.replace(example(), radius=np.zeros(4))
        assert_allclose(run("project", name, case), 0.0, atol=1e-15)

    @convex_norms
    @pytest.mark.parametrize("seed", range(3))
    def test_against_a_solver(self, name, seed):
        for row, point in rows_of(name, "project", example(seed)):
            far = np.full(row.delta.shape, 10.0)
            nearest = nearest_by_solver(name, row.delta, row.radius, -far, far)
            assert_allclose(point, nearest, atol=1e-5)

    def test_ties_keep_the_first_features(self):
        delta = as_tensor(np.array([[2.0, -2.0, 2.0, 2.0]]))
        kept = L0().project(delta, as_tensor(np.array([2.9])))
        assert_array_equal(kept.numpy(), [[2.0, -2.0, 0.0, 0.0]])


class TestProjectBox:
    @every_norm
    @law()
    def test_is_nearest_and_stays_there(self, name, case):
        once = run("project_box", name, case)
        twice = run("project_box", name, dataclasses.replace(case, delta=once))
        assert_allclose(twice, once, atol=CLOSE)
        for row, point in rows_of(name, "project_box", case):
            assert size_of(name, point) <= row.radius + CLOSE
            assert np.all(point >= row.low)
            assert np.all(point <= row.high)
            check_nearest(name, row, point)

    @every_norm
    @law()
    def test_leaves_inner_points_alone(self, name, case):
        delta = np.clip(case.delta, case.low, case.high)
        inner = dataclasses.replace(case, delta=delta)
        radius = run("size", name, inner) + case.radius
        inner = dataclasses.replace(inner, radius=radius)
        assert_allclose(run("project_box", name, inner), delta, atol=1e-12)

    @every_norm
    def test_an_infinite_radius_clips_to_the_box(self, name):
        case = dataclasses.replace(example(), radius=np.full(4, math.inf))
        expected = np.clip(case.delta, case.low, case.high)
        assert_allclose(run("project_box", name, case), expected, rtol=1e-12)

    @every_norm
    def test_a_wide_box_changes_nothing(self, name):
        case = example()
        wide = dataclasses.replace(case, low=case.low - 100, high=case.high + 100)
        found = run("project_box", name, wide)
        assert_allclose(found, run("project", name, case), atol=1e-12)

    @convex_norms
    @pytest.mark.parametrize("seed", range(3))
    def test_against_a_solver(self, name, seed):
        for row, point in rows_of(name, "project_box", example(seed)):
            nearest = nearest_by_solver(name, row.delta, row.radius, row.low, row.high)
            assert_allclose(point, nearest, atol=1e-5)

    @every_norm
    @law()
    def test_is_the_loose_projection_clipped(self, name, case):
        delta = case.delta.copy()
        loose = run("project_loosely", name, dataclasses.replace(case, delta=delta))
        found = np.clip(loose, case.low, case.high)
        assert_allclose(found, run("project_box", name, case), atol=1e-12)

    def test_is_more_than_projecting_and_clipping(self):
        # Clipping the projection (0.6, 0.8) would leave part of the radius unused.
        found = L2().project_box(
            as_tensor(np.array([[3.0, 4.0]])),
            as_tensor(np.array([1.0])),
            as_tensor(np.array([[-1.0, -1.0]])),
            as_tensor(np.array([[1.0, 0.6]])),
        )
        assert_allclose(found.numpy(), [[0.8, 0.6]], rtol=1e-12)


class TestProjectHalfspace:
    @every_norm
    @law(40)
    def test_is_smallest_and_crosses_and_stays_in_the_box(self, name, case):
        for row, point in rows_of(name, "project_halfspace", case):
            assert np.all(point >= row.low)
            assert np.all(point <= row.high)
            size = size_of(name, point)
            # An optimum at a tie may round either way.
            easier, harder = (
                least_size(name, row, row.margin + shift) for shift in (-CLOSE, CLOSE)
            )
            if math.isfinite(easier):
                assert row.margin + np.sum(row.gradient * point) <= CLOSE
                assert easier - 1e-6 <= size <= harder + 1e-6
            if harder == math.inf:
                corner = -np.sign(row.gradient) * room_of(row)
                assert_allclose(point, corner, rtol=1e-6)
            if row.margin <= 0:
                assert_array_equal(point, 0.0)

    @pytest.mark.parametrize("seed", range(4))
    def test_length_against_a_solver(self, seed):
        case = example(seed)
        case = dataclasses.replace(case, margin=case.margin / 2)
        for row, point in rows_of("l2", "project_halfspace", case):
            gradient = row.gradient.ravel()
            solved = optimize.minimize(
                lambda v: np.square(v).sum() / 2,
                -np.sign(gradient) * 0.05,
                jac=lambda v: v,
                bounds=list(zip(row.low.ravel(), row.high.ravel(), strict=True)),
                constraints=optimize.LinearConstraint(gradient, ub=-row.margin),
                method="SLSQP",
                options={"ftol": 1e-12},
            )
            assert solved.success
            assert_allclose(point.ravel(), solved.x, atol=1e-5)

    @every_norm
    def test_the_corner_where_nothing_crosses(self, name):
        case = dataclasses.replace(example(), margin=np.full(4, 100.0))
        corner = np.where(case.gradient > 0, case.low, case.high)
        assert_allclose(run("project_halfspace", name, case), corner, rtol=1e-12)

    @every_norm
    @pytest.mark.parametrize("exponent", [-100, 30, 100])
    def test_the_corner_whatever_the_unit_of_the_margin(self, name, exponent):
        case = example().map(lambda values: values.astype(np.float32))
        unit = np.float32(2.0**exponent)
        gradient, margin = case.gradient * unit, np.full_like(case.margin, 1e3) * unit
        case = dataclasses.replace(case, gradient=gradient, margin=margin)
        found = run("project_halfspace", name, case)
        assert_allclose(found, -np.sign(case.gradient) * room_of(case), rtol=1e-6)

    @every_norm
    def test_an_infinite_margin_gives_the_corner(self, name):
        case = dataclasses.replace(example(), margin=np.full(4, math.inf))
        corner = np.where(case.gradient > 0, case.low, case.high)
        assert_allclose(run("project_halfspace", name, case), corner, rtol=1e-12)

    @every_norm
    def test_a_zero_gradient_moves_nothing(self, name):
        case = dataclasses.replace(example(), gradient=np.zeros((4, 2, 4)))
        assert_array_equal(run("project_halfspace", name, case), 0.0)

    @every_norm
    def test_some_zero_entries_do_not_move(self, name):
        case = example()
        gradient = np.where(np.arange(4) == 1, 0.0, case.gradient)
        case = dataclasses.replace(case, gradient=gradient, margin=np.full(4, 100.0))
        assert_array_equal(run("project_halfspace", name, case)[:, :, 1], 0.0)

    @every_norm
    @pytest.mark.parametrize("margin", [0.0, -1.0, -math.inf])
    def test_nothing_to_do_for_margins_that_are_not_positive(self, name, margin):
        case = dataclasses.replace(example(), margin=np.full(4, margin))
        assert_array_equal(run("project_halfspace", name, case), 0.0)

    @every_norm
    def test_a_closed_box_holds_only_zero(self, name):
        closed = np.zeros((4, 2, 4))
        case = dataclasses.replace(example(), low=closed, high=closed)
        assert_array_equal(run("project_halfspace", name, case), 0.0)

    @every_norm
    def test_one_feature(self, name):
        case = Case(
            delta=np.zeros((2, 1, 1)),
            gradient=np.array([4.0, -2.0]).reshape(2, 1, 1),
            point=np.zeros((2, 1, 1)),
            low=np.full((2, 1, 1), -0.5),
            high=np.full((2, 1, 1), 0.75),
            radius=np.ones(2),
            margin=np.ones(2),
        )
        found = run("project_halfspace", name, case)
        assert_allclose(found.ravel(), [-0.25, 0.5], rtol=1e-12)

    def test_a_huge_gain_does_not_hide_a_small_margin(self):
        # In single precision 1e6 + 1e-3 - 1e6 is not 1e-3.
        found = L1().project_halfspace(
            as_tensor(np.array([[2.0, 1.0]], dtype=np.float32)),
            as_tensor(np.array([0.01], dtype=np.float32)),
            as_tensor(np.array([[-5e-4, -1e6]], dtype=np.float32)),
            as_tensor(np.array([[5e-4, 1e6]], dtype=np.float32)),
        )
        assert_allclose(found.numpy(), [[-5e-4, -0.009]], rtol=1e-5)

    @every_norm
    def test_many_features(self, name):
        case = example(samples=3, channels=3, pixels=500)
        case = dataclasses.replace(case, margin=np.array([0.5, 50.0, 5e3]))
        reach = 0.0
        for row, point in rows_of(name, "project_halfspace", case):
            reach = (np.abs(row.gradient) * room_of(row)).sum()
            gain = -np.sum(row.gradient * point)
            assert_allclose(gain, min(row.margin, reach), rtol=1e-9)
        assert reach < 5e3


class TestDual:
    @convex_norms
    @law()
    def test_bounds_the_gain_of_every_perturbation(self, name, case):
        dual = run("dual", name, case)
        gain = np.sum(case.delta * case.gradient, axis=(1, 2))
        assert np.all(gain <= dual * run("size", name, case) + CLOSE)

    @law()
    def test_some_corner_of_the_l1_ball_attains_it(self, case):
        flat = case.gradient.reshape(len(case.gradient), -1)
        corners = np.concatenate([np.eye(flat.shape[1]), -np.eye(flat.shape[1])])
        assert_allclose(run("dual", "l1", case), (flat @ corners.T).max(axis=1))

    @law()
    def test_some_corner_of_the_cube_attains_it(self, case):
        flat = case.gradient.reshape(len(case.gradient), -1)
        corners = np.array(list(itertools.product([-1, 1], repeat=flat.shape[1])))
        assert_allclose(run("dual", "linf", case), (flat @ corners.T).max(axis=1))

    @law()
    def test_the_gradients_own_direction_attains_the_euclidean_one(self, case):
        dual = run("dual", "l2", case)
        squares = np.square(case.gradient).sum(axis=(1, 2))
        assert_allclose(dual * dual, squares, atol=CLOSE)

    @counting_norms
    def test_one_unit_step_for_counts(self, name):
        case = example()
        expected = np.abs(case.gradient).max(axis=(1, 2))
        assert_array_equal(run("dual", name, case), expected)


def stride_length(name, radius):
    """How far the step goes in the L2 sense, for bounds of width 5."""
    return {
        "l0": math.sqrt(radius) * 5,
        "l0-pixels": math.sqrt(radius) * 5,
        "l1": min(radius, math.sqrt(radius * 5)),
        "l2": radius,
    }[name]


class TestStride:
    @pytest.mark.parametrize("name", ["l0", "l0-pixels", "l1", "l2"])
    @law()
    def test_goes_up_the_gradient_where_a_step_down_is_possible(self, name, case):
        for row, step in rows_of(name, "stride", case):
            down = np.clip(row.point - 1e-12 * np.sign(row.gradient), -2.0, 3.0)
            free = np.where(down != row.point, row.gradient, 0.0)
            length = np.linalg.norm(free)
            if length > 0:
                expected = free / length * stride_length(name, row.radius)
                assert_allclose(step, expected, rtol=1e-9, atol=1e-12)
            else:
                assert_array_equal(step, 0.0)

    @law()
    def test_goes_to_a_corner_of_the_cube(self, case):
        for row, step in rows_of("linf", "stride", case):
            assert_array_equal(step, np.sign(row.gradient) * row.radius)

    @every_norm
    def test_zero_gives_zero(self, name):
        case = dataclasses.replace(example(), gradient=np.zeros((4, 2, 4)))
        assert_array_equal(run("stride", name, case), 0.0)

    @every_norm
    def test_a_radius_of_zero_stands_still(self, name):
        case = dataclasses.replace(example(), radius=np.zeros(4))
        assert_array_equal(run("stride", name, case), 0.0)

    def test_features_at_a_bound_move_only_inwards(self):
        step = L2().stride(
            as_tensor(np.array([[3.0, -3.0, -3.0, 4.0]])),
            as_tensor(np.array([1.0])),
            1.0,
            as_tensor(np.array([[0.0, 1.0, 0.0, 1.0]])),
            Bounds(),
        )
        assert_allclose(step.numpy(), [[0.0, 0.0, -0.6, 0.8]], rtol=1e-12)

    @every_norm
    @pytest.mark.parametrize("exponent", [-100, 100])
    def test_only_the_direction_of_the_gradient_matters(self, name, exponent):
        case = example().map(lambda values: values.astype(np.float32))
        scaled = dataclasses.replace(
            case, gradient=case.gradient * np.float32(2.0**exponent)
        )
        found = run("stride", name, scaled)
        assert_allclose(found, run("stride", name, case), rtol=1e-5)


class TestToBoundary:
    @convex_norms
    @law()
    def test_is_the_half_space_distance_without_a_box(self, name, case):
        assume(np.all(np.any(case.gradient != 0, axis=(1, 2))))
        wide = np.full(case.delta.shape, 1e5)
        case = dataclasses.replace(case, low=-wide, high=wide)
        point = run("project_halfspace", name, case)
        expected = [size_of(name, row) for row in point]
        assert_allclose(run("to_boundary", name, case), expected, rtol=1e-6)

    @counting_norms
    def test_one_feature_is_enough_for_counts(self, name):
        margin = np.array([1e-6, 0.0, -1.0, 1e6])
        case = dataclasses.replace(example(), margin=margin)
        assert_array_equal(run("to_boundary", name, case), [1.0, 0.0, 0.0, 1.0])

    @every_norm
    def test_is_infinite_on_flat_ground(self, name):
        case = dataclasses.replace(example(), gradient=np.zeros((4, 2, 4)))
        assert_array_equal(run("to_boundary", name, case), math.inf)

    @every_norm
    @pytest.mark.parametrize("exponent", [-100, 100])
    def test_the_unit_of_the_margin_does_not_matter(self, name, exponent):
        case = example().map(lambda values: values.astype(np.float32))
        scaled = dataclasses.replace(
            case,
            margin=case.margin * np.float32(2.0**exponent),
            gradient=case.gradient * np.float32(2.0**exponent),
        )
        found = run("to_boundary", name, scaled)
        assert_allclose(found, run("to_boundary", name, case), rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "expected"), [("l1", 0.5), ("l2", 0.4), ("linf", 2 / 7), ("l0", 1.0)]
    )
    def test_by_hand(self, name, expected):
        gradient = as_tensor(np.array([[3.0, -4.0]]))
        found = get_norm(name).to_boundary(as_tensor(np.array([2.0])), gradient)
        assert found.item() == pytest.approx(expected)


class TestSlack:
    @pytest.mark.parametrize(
        ("name", "expected"), [("l1", 0.5), ("l2", 0.4), ("linf", 2 / 7)]
    )
    def test_by_hand(self, name, expected):
        gradient = as_tensor(np.array([[3.0, -4.0]] * 2))
        margin = as_tensor(np.array([-2.0, 2.0]))
        found = get_norm(name).slack(margin, gradient, -gradient)
        assert_allclose(found.numpy(), [expected, 0.0])

    @counting_norms
    @law(60)
    def test_so_many_can_go_and_the_linear_margin_stays_below_zero(self, name, case):
        margin = -np.abs(case.margin)
        case = dataclasses.replace(case, margin=-margin)
        for alone, slack in rows_of(name, "slack", case):
            held = alone.gradient * alone.delta
            changed = alone.delta != 0
            if name == "l0-pixels":
                held, changed = held.sum(axis=0), changed.any(axis=0)
            # What going back costs, for those that are changed; the cheapest go.
            cost = np.sort(-held[changed])
            assert 0 <= slack <= changed.sum()
            assert -alone.margin + cost[: math.floor(slack)].sum() <= CLOSE


class TestTowards:
    @every_norm
    @law()
    def test_has_that_share_of_the_size(self, name, case):
        whole = run("size", name, case)
        found = run("towards", name, case)
        share = np.minimum(case.radius / 3, 1.0)
        expected = whole * share
        if name in COUNTS:
            expected = np.floor(expected)
        sizes = [size_of(name, row) for row in found]
        assert_allclose(sizes, expected, atol=CLOSE)
        # No feature turns round or overshoots.
        assert np.all(found * case.delta >= 0)
        assert np.all(np.abs(found) <= np.abs(case.delta) + CLOSE)

    @every_norm
    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_the_ends(self, name, share):
        case = dataclasses.replace(example(), radius=np.full(4, 3 * share))
        found = run("towards", name, case)
        assert_allclose(found, case.delta * share, atol=1e-12)

    def test_is_a_straight_line_for_the_euclidean_norm(self):
        case = dataclasses.replace(example(), radius=np.full(4, 0.75))
        assert_allclose(run("towards", "l2", case), case.delta / 4, rtol=1e-12)


def scaled(norm, radius, factor):
    return (norm.scale_down if factor < 1 else norm.scale_up)(radius, factor)


class TestScale:
    @pytest.mark.parametrize("name", CONVEX)
    def test_multiplies(self, name):
        radius = as_tensor(np.array([0.0, 0.5, 3.0, math.inf]))
        found = get_norm(name).scale_up(radius, 1.5).numpy()
        assert_array_equal(found, [0.0, 0.75, 4.5, math.inf])

    @counting_norms
    @pytest.mark.parametrize(
        ("radius", "factor", "expected"),
        [
            (20, 0.95, 19),
            (100, 0.5, 50),
            (3, 0.99, 2),
            (1, 0.5, 0),
            (0, 0.5, 0),
            (100, 1.05, 105),
            (3, 1.01, 4),
            (0, 2.0, 1),
            (math.inf, 0.5, math.inf),
            (math.inf, 2.0, math.inf),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_moves_by_whole_features(self, name, radius, factor, expected, dtype):
        radius = as_tensor(np.array([radius], dtype=dtype))
        found = scaled(get_norm(name), radius, factor)
        assert found.item() == expected
        assert found.dtype == dtype

    @pytest.mark.parametrize(
        ("needed", "expected"), [(0.95, 0.9), (0.8, 0.8), (0.1, 0.6), (-math.inf, 0.6)]
    )
    def test_shrinks_to_what_is_needed_within_limits(self, needed, expected):
        radius, needed = (as_tensor(np.array([value])) for value in (1.0, needed))
        assert L2().shrink(radius, needed, 0.1).item() == pytest.approx(expected)

    def test_never_shrinks_by_more_than_a_half(self):
        radius, needed = as_tensor(np.array([1.0])), as_tensor(np.array([0.0]))
        assert L2().shrink(radius, needed, 0.3).item() == 0.5

    @counting_norms
    @given(radius=st.integers(0, 10**6), factor=st.floats(0.01, 3.0))
    @settings(max_examples=60, deadline=None)
    def test_always_moves_unless_there_is_nothing_left(self, name, radius, factor):
        assume(factor != 1)
        start = as_tensor(np.array([float(radius)]))
        found = scaled(get_norm(name), start, factor).item()
        assert found == math.floor(found) >= 0
        assert found < radius or factor > 1 or radius == 0
        assert found > radius or factor < 1


class TestFrameworks:
    @every_norm
    @every_operation
    def test_agree_with_numpy(self, name, operation, convert):
        case = example().map(lambda values: values.astype(np.float32))
        double = case.map(lambda values: values.astype(np.float64))
        found = run(operation, name, case, convert)
        assert found.dtype == np.float32
        assert_allclose(found, run(operation, name, double), rtol=1e-5, atol=1e-6)

    @every_norm
    @every_operation
    def test_handle_what_is_not_generic(self, name, operation, convert):
        """Zeros, ties, a closed box, an infinite radius; a zero gradient."""
        delta = np.array([[0, 0, 0, 0], [2, -2, 2, 2], [1, 0, -1, 0], [4, 1, 2, 3]])
        box = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 2, 1, 1]])
        # Two channels; the second at half size, so that a greedy choice is unique.
        delta, box = (np.stack([rows, rows / 2], axis=1) for rows in (delta, box))
        case = Case(
            delta=delta,
            gradient=np.roll(delta, 1, axis=0),
            point=np.tile([-2.0, 3.0, 0.0, 3.0], (4, 2, 1)),
            low=-box,
            high=box,
            radius=np.array([1.0, math.inf, 0.0, 2.0]),
            margin=np.array([1.0, 0.0, 100.0, -1.0]),
        )
        if operation in ("towards", "stride"):
            case = dataclasses.replace(case, radius=np.array([1.0, 3.0, 0.0, 2.0]))
        expected = run(operation, name, case)
        assert not np.any(np.isnan(expected))
        found = run(operation, name, case, convert)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @every_norm
    @every_operation
    def test_accept_an_empty_batch(self, name, operation, convert):
        case = example(samples=1)
        found = run(operation, name, case.map(lambda values: values[:0]), convert)
        assert found.shape == (0, *run(operation, name, case).shape[1:])


class TestEveryOperation:
    @every_norm
    @law()
    def test_rows_do_not_see_each_other(self, name, case):
        for operation in OPERATIONS:
            together = run(operation, name, case)
            alone = [run(operation, name, row) for row in case.rows()]
            assert_array_equal(together, np.concatenate(alone), operation)

    @every_norm
    @every_operation
    def test_rows_do_not_see_each_other_on_torch(self, name, operation):
        import torch

        case = example(samples=3).map(lambda values: values.astype(np.float32))

        def convert(values):
            return as_tensor(torch.tensor(values))

        together = run(operation, name, case, convert)
        alone = [run(operation, name, row, convert) for row in case.rows()]
        assert_allclose(together, np.concatenate(alone), rtol=1e-6)

    @every_norm
    @every_operation
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_keep_the_dtype_and_the_arguments(self, name, operation, dtype):
        case = example().map(lambda values: values.astype(dtype))
        before = case.map(np.copy)
        assert run(operation, name, case).dtype == dtype
        for field in dataclasses.fields(case):
            assert_array_equal(getattr(case, field.name), getattr(before, field.name))

    @every_norm
    @pytest.mark.parametrize("exponent", [-40, 40])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_do_not_depend_on_the_unit_of_the_inputs(self, name, exponent, dtype):
        """Inputs measured in another unit: all lengths, but no count, scale along."""
        unit = dtype(2.0**exponent)
        size = dtype(1) if name in COUNTS else unit
        case = example().map(lambda values: values.astype(dtype))
        other = dataclasses.replace(
            case,
            delta=case.delta * unit,
            low=case.low * unit,
            high=case.high * unit,
            radius=case.radius * size,
            gradient=case.gradient / unit,
        )
        scales = {
            "size": size,
            "project": unit,
            "project_box": unit,
            "project_halfspace": unit,
            "to_boundary": size,
            "slack": size,
        }
        for operation, scale in scales.items():
            found = run(operation, name, other)
            assert_allclose(found / scale, run(operation, name, case), rtol=1e-5)

    @every_norm
    @pytest.mark.parametrize("exponent", [-90, 90])
    def test_do_not_depend_on_the_scale_of_the_logits(self, name, exponent):
        case = example().map(lambda values: values.astype(np.float32))
        scale = np.float32(2.0**exponent)
        other = dataclasses.replace(
            case, gradient=case.gradient * scale, margin=case.margin * scale
        )
        found = run("project_halfspace", name, other)
        expected = run("project_halfspace", name, case)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
