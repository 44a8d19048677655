"""The local problem of Brendel-Bethge against SciPy and against brute force."""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy import optimize

from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor
from robustkit.numerics.trust_region import smallest_near

CONVEX = ("l1", "l2", "linf")
NORMS = ("l0", *CONVEX)
ORDERS = {"l1": 1, "l2": 2, "linf": math.inf}
every_norm = pytest.mark.parametrize("name", NORMS)
convex_norms = pytest.mark.parametrize("name", CONVEX)


@dataclass(frozen=True)
class Local:
    """The problems of a batch, or of one sample."""

    center: Array
    gradient: Array
    level: Array
    radius: Array
    low: Array
    high: Array

    def map(self, function):
        fields = dataclasses.asdict(self)
        return Local(**{name: function(values) for name, values in fields.items()})

    def rows(self):
        for row in range(len(self.level)):
            yield self.map(lambda values, row=row: values[row])

    def solved(self, name, convert=as_tensor, **settings):
        fields = {field.name: getattr(self, field.name) for field in FIELDS}
        tensors = {key: convert(values) for key, values in fields.items()}
        settings = {"tolerance": 1e-9} | settings
        return smallest_near(get_norm(name), **tensors, **settings).numpy()

    def outside(self, delta):
        """By how much `delta` leaves ball and box."""
        far = np.linalg.norm(delta - self.center) - self.radius
        return max(far, (self.low - delta).max(), (delta - self.high).max())

    def beyond(self, delta):
        """How far `delta` lies beyond the boundary; negative before it."""
        return self.level - self.gradient @ delta

    def furthest(self):
        """A point of ball and box as far beyond the boundary as any, by SciPy."""
        return self._solve(
            lambda v: self.gradient @ v, len(self.center), boundary=False
        )

    def smallest(self, name):
        """A smallest point of ball, box and half-space, by SciPy.

        For L1 and Linf with more variables, since the norm itself has kinks.
        """
        size = len(self.center)
        if name == "l2":
            return self._solve(lambda v: v @ v, size)
        if name == "linf":
            return self._solve(lambda v: v[size], size + 1)
        return self._solve(lambda v: v[size:].sum(), 2 * size)

    def _solve(self, objective, count, boundary=True):
        """SLSQP over a delta and `count` - features bounds on its sizes."""
        size = len(self.center)
        laws = [lambda v: self.radius**2 - ((v[:size] - self.center) ** 2).sum()]
        if boundary:
            laws.append(lambda v: self.beyond(v[:size]))
        if count > size:
            laws.append(lambda v: v[size:] - v[:size])
            laws.append(lambda v: v[size:] + v[:size])
        widest = max(-self.low.min(), self.high.max(), 1.0)
        sizes = [(0, None)] * (count - size)
        # Not at the center itself, where the ball has no slope.
        middle = 0.9 * self.center + 0.1 * (self.low + self.high) / 2
        result = optimize.minimize(
            objective,
            np.append(middle, np.full(count - size, widest)),
            bounds=[*zip(self.low, self.high, strict=True), *sizes],
            constraints=[{"type": "ineq", "fun": law} for law in laws],
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-13},
        )
        return result.x[:size].clip(self.low, self.high)


FIELDS = dataclasses.fields(Local)
# Few different values make ties, zeros and full rooms common.
coarse = st.integers(-3, 3).map(float)
fine = st.integers(-3000, 3000).map(lambda thousandths: thousandths / 1000)
numbers = st.one_of(coarse, fine)


@st.composite
def problems(draw):
    shape = (1, draw(st.integers(1, 5)))
    low = -np.abs(draw(arrays(float, shape, elements=numbers)))
    high = np.abs(draw(arrays(float, shape, elements=numbers)))
    share = draw(arrays(float, shape, elements=st.integers(0, 4))) / 4
    return Local(
        center=low + share * (high - low),
        gradient=draw(arrays(float, shape, elements=numbers)),
        level=draw(arrays(float, 1, elements=numbers)) * 2,
        radius=np.abs(draw(arrays(float, 1, elements=numbers))) + 0.01,
        low=low,
        high=high,
    )


def example(seed, samples=40, features=6):
    """Without ties; about half of the boundaries are reached."""
    rng = np.random.default_rng(seed)
    shape = (samples, features)
    low, high = -rng.uniform(0.1, 1, size=shape), rng.uniform(0.1, 1, size=shape)
    gradient = rng.normal(size=shape)
    least = np.minimum(gradient * low, gradient * high).sum(axis=1)
    return Local(
        center=rng.uniform(low, high),
        gradient=gradient,
        level=least * rng.uniform(0.1, 1.1, size=samples),
        radius=rng.uniform(0.1, 1.5, size=samples),
        low=low,
        high=high,
    )


@convex_norms
@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_nothing_smaller_is_found_by_scipy(name, problem):
    (delta,), (one,) = problem.solved(name), problem.rows()
    assert one.outside(delta) <= 1e-7
    furthest = one.furthest()
    if one.outside(furthest) <= 1e-7 and one.beyond(furthest) < 0:
        assert one.beyond(delta) >= one.beyond(furthest) - 1e-5
        return
    theirs = one.smallest(name)
    if one.outside(theirs) <= 1e-9 and one.beyond(theirs) >= -1e-9:
        assert one.beyond(delta) >= -1e-6
        sizes = (np.linalg.norm(d, ORDERS[name]) for d in (delta, theirs))
        assert next(sizes) <= next(sizes) + 1e-4


@convex_norms
def test_agrees_with_scipy(name):
    problem = example(seed=1, samples=80)
    agreeing, missed = 0, 0
    for one, delta in zip(problem.rows(), problem.solved(name), strict=True):
        assert one.outside(delta) <= 1e-8
        furthest = one.furthest()
        if one.beyond(furthest) < -1e-6:
            missed += 1
            assert_allclose(one.beyond(delta), one.beyond(furthest), atol=1e-6)
            continue
        theirs = one.smallest(name)
        if one.outside(theirs) > 1e-8 or one.beyond(theirs) < -1e-8:
            continue
        assert one.beyond(delta) >= -1e-8
        sizes = [np.linalg.norm(d, ORDERS[name]) for d in (delta, theirs)]
        assert_allclose(*sizes, atol=1e-6)
        agreeing += 1
    assert agreeing > 25
    assert missed > 10


@convex_norms
def test_few_points_of_the_way_keep_to_ball_box_and_boundary(name):
    problem = example(seed=5)
    exact = problem.solved(name)
    gained, possible = np.zeros(3), 0.0
    for place, turns in enumerate((0, 2, 16)):
        few = problem.solved(name, tolerance=1e-3, turns=turns)
        for one, delta, best in zip(problem.rows(), few, exact, strict=True):
            assert one.outside(delta) <= 1e-3
            assert one.beyond(delta) >= min(one.beyond(best), 0) - 5e-3
            size, least = (np.linalg.norm(d, ORDERS[name]) for d in (delta, best))
            assert size >= least - 2e-3
            gained[place] += np.linalg.norm(one.center, ORDERS[name]) - size
            possible += (np.linalg.norm(one.center, ORDERS[name]) - least) / 3
    assert gained[0] <= gained[1] <= gained[2]
    assert gained[2] >= 0.97 * possible


def test_near_a_minimum_of_l1_eight_looks_do():
    # Where as much is gained by any feature that has changed, as at the end of a walk,
    # force and price are many times what the ball leaves of them.
    problem = example(seed=7, samples=60, features=300)
    center = np.where(np.abs(problem.center) > 0.5, problem.center, 0.0)
    steep = np.where(center == 0, problem.gradient / 4, -np.sign(center))
    steep *= np.random.default_rng(8).uniform(0.9, 1.1, size=steep.shape)
    excess = np.random.default_rng(9).uniform(-0.05, 0.05, size=60)
    problem = dataclasses.replace(
        problem,
        center=center,
        gradient=steep,
        level=(steep * center).sum(axis=1) - excess,
        radius=0.1 * problem.radius,
    )
    start, few, exact = (
        np.abs(delta).sum(axis=1)
        for delta in (
            center,
            problem.solved("l1", tolerance=0.1, turns=8),
            problem.solved("l1"),
        )
    )
    assert (start - few).sum() > 0.98 * (start - exact).sum()


def test_few_features_change_where_l0_is_minimised():
    problem = example(seed=2, samples=60, features=5)
    counts = []
    for one, delta in zip(problem.rows(), problem.solved("l0"), strict=True):
        assert one.outside(delta) <= 1e-8
        best = fewest(one)
        if best is not None:
            assert one.beyond(delta) >= -1e-8
            assert (delta != 0).sum() >= best
            counts.append((delta != 0).sum() - best)
    assert len(counts) > 25
    # The best lies beside the path for one in ten, by one feature.
    assert np.mean(counts) <= 0.15
    assert max(counts) <= 1


def fewest(one):
    """How many features must change, by brute force; None where no number will do."""
    size = len(one.center)
    for count in range(size + 1):
        for kept in itertools.combinations(range(size), count):
            inside = np.isin(np.arange(size), kept)
            rest = one.radius**2 - (one.center[~inside] ** 2).sum()
            if rest < 0:
                continue
            step = furthest_step(one, inside, math.sqrt(rest))
            if one.beyond(np.where(inside, one.center + step, 0.0)) >= 1e-9:
                return count
    return None


def furthest_step(one, inside, radius):
    """Down the gradient in ball and box, over the features inside, by bisection."""
    gradient = np.where(inside, one.gradient, 0.0)
    near, far = 0.0, 1e9
    for _ in range(200):
        middle = (near + far) / 2
        step = (-middle * gradient).clip(one.low - one.center, one.high - one.center)
        near, far = (middle, far) if np.linalg.norm(step) <= radius else (near, middle)
    return (-near * gradient).clip(one.low - one.center, one.high - one.center)


def test_pixels_are_counted_whole():
    # Two pixels of two channels: the first has the two weaker channels together.
    delta = smallest_near(
        get_norm("l0-pixels"),
        *(
            as_tensor(np.array(values, dtype=float))
            for values in (
                [[[0.3, 0.5], [0.3, 0.0]]],
                [[[-0.8, -1.0], [-0.8, 0.0]]],
                [-0.9],
                [0.8],
                [[[-1.0, -1.0], [-1.0, -1.0]]],
                [[[1.0, 1.0], [1.0, 1.0]]],
            )
        ),
    ).numpy()
    assert (delta[0, :, 1] == 0).all()
    assert_allclose(delta[0, :, 0].sum(), 0.9 / 0.8, atol=1e-6)


@every_norm
@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_only_the_direction_of_the_gradient_counts(name, factor):
    problem = example(seed=3)
    scaled = dataclasses.replace(
        problem, gradient=problem.gradient * factor, level=problem.level * factor
    )
    assert_allclose(scaled.solved(name), problem.solved(name), atol=1e-6)


@every_norm
def test_no_gradient_keeps_or_shrinks(name):
    problem = example(seed=4)
    flat = dataclasses.replace(problem, gradient=problem.gradient * 0)
    assert_allclose(flat.solved(name), flat.center)
    met = dataclasses.replace(flat, level=np.abs(flat.level))
    sizes = [
        get_norm(name)(as_tensor(d)).numpy() for d in (met.solved(name), met.center)
    ]
    assert (sizes[0] < sizes[1]).mean() > 0.7


@every_norm
def test_a_batch_is_solved_like_its_parts(name):
    problem = example(seed=5, samples=8)
    parts = [problem.map(lambda v, i=i: v[i : i + 1]).solved(name) for i in range(8)]
    assert_allclose(problem.solved(name), np.concatenate(parts), atol=1e-12)


@every_norm
def test_frameworks_agree(name, convert):
    problem = example(seed=6, samples=8)
    delta = problem.solved(name, convert, tolerance=1e-3)
    assert_allclose(delta, problem.solved(name, tolerance=1e-3), atol=2e-3)
    for one, row in zip(problem.rows(), delta.astype(np.float64), strict=True):
        assert one.outside(row) <= 1.1e-3 * one.radius
