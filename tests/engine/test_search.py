import math

import numpy as np
import pytest

from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.problem import Problem
from robustkit.engine.search import (
    approach,
    bisect,
    candidates,
    drawn,
    ranked,
    starting_point,
)
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, like

NORMS = ("l0", "l1", "l2", "linf")


def half_space(weights, offset, bounds=None, log=None):
    """Class 0 where weights . x > offset, else class 1; `log` keeps what is asked."""

    def function(x):
        if log is not None:
            log.append(x)
        score = (x * weights).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    return NumPyModel(function, bounds)


def problem(model, x, norm="l2", budget=None, **options):
    x = as_tensor(np.asarray(x, dtype=np.float64))
    labels = as_tensor(np.zeros(x.shape[0], dtype=np.int64))
    p = Problem(model, x, Misclassification(labels), get_norm(norm), **options)
    p.limit(Access.DECISION, budget)
    return p


def counted(log):
    return sum(len(x) for x in log)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_bisection_ends_just_behind_the_boundary(norm, scale):
    # Along the diagonal, feature sums fall from 1.6 to 0; the boundary is at 1.
    model = half_space(np.ones(2), scale, Bounds(0, scale))
    p = problem(model, [[0.8 * scale, 0.8 * scale]], norm)
    far = as_tensor(np.zeros((1, 2)))
    point = bisect(p, far, tolerance=1e-4)
    exact = p.norm(like(far, np.full((1, 2), 0.3 * scale))).item()
    assert exact < p.norm(point - p.x).item() <= exact * (1 + 1.1e-4)
    assert p.decide(point).all()


def test_bisection_costs_the_logarithm_of_the_tolerance():
    log = []
    p = problem(half_space(np.ones(1), 0.5, log=log), [[1.0]])
    bisect(p, as_tensor(np.zeros((1, 1))), tolerance=2.0**-10)
    # The boundary is half way, where the answer is no; 2**-10 of it remain after 11.
    assert counted(log) == 11 == p.ledger.decisions[0]


def test_bisection_asks_nothing_about_samples_within_tolerance_or_not_asked():
    log = []
    p = problem(half_space(np.ones(1), 0.5, log=log), [[1.0], [1.0], [0.7]])
    far = as_tensor(np.array([[0.1], [0.2], [0.3]]))
    mask = as_tensor(np.array([True, False, True]))
    once = bisect(p, far, mask, tolerance=1e-3)
    assert once.raw[1] == 0.2
    assert p.ledger.forwards[1] == 0
    before = counted(log)
    # Nothing lies between an original and itself, nor within the whole distance.
    assert (bisect(p, p.x, tolerance=1e-3) == p.x).all()
    assert (bisect(p, far, tolerance=1.0) == far).all()
    assert counted(log) == before


def test_bisection_of_l0_ends_at_one_feature_less():
    x = np.full((1, 8), 0.9)
    model = half_space(np.ones(8), 4.0)
    p = problem(model, x, "l0")
    far = as_tensor(np.linspace(0, 0.07, 8)[None])
    point = bisect(p, far)
    # Each feature of `far` takes 0.83 to 0.9 away from 7.2; 3.2 are needed.
    assert p.norm(point - p.x).item() == 4


def test_bisection_ends_even_where_the_original_is_adversarial():
    p = problem(half_space(np.ones(1), 2.0), [[0.0], [0.5]])
    point = bisect(p, as_tensor(np.ones((2, 1))), tolerance=1e-9)
    assert (p.norm(point - p.x) < 1e-12).all()
    assert p.ledger.forwards.max() < 100


@pytest.mark.parametrize("norm", NORMS)
def test_approach_costs_one_question_where_it_does_not_pass(norm):
    x = np.full((2, 4), 0.75)
    log = []
    p = problem(half_space(np.ones(4), 2.0, log=log), x, norm)
    approach(p, as_tensor(np.zeros((2, 4))))
    first, known = counted(log), p.ledger.distance
    assert p.ledger.found.all()
    white = as_tensor(np.ones((2, 4)))
    approach(p, white)
    assert counted(log) == first + 2
    assert (p.ledger.distance == known).all()


def test_a_nearer_way_is_followed_to_the_boundary():
    p = problem(half_space(np.array([1.0, 0.0]), 0.5), [[0.75, 0.75]])
    approach(p, as_tensor(np.array([[0.0, 0.0]])), tolerance=1e-6)
    assert p.ledger.distance.item() == pytest.approx(0.25 * math.sqrt(2), rel=1e-5)
    approach(p, as_tensor(np.array([[0.0, 0.75]])), tolerance=1e-6)
    assert p.ledger.distance.item() == pytest.approx(0.25, rel=1e-5)


def test_nothing_is_asked_beyond_the_budget():
    p = problem(half_space(np.ones(4), 1.0), np.full((3, 4), 0.5), budget=5)
    starting_point(p, p.rng(-1), 30)
    assert (p.ledger.forwards <= 5).all()


def test_given_starts_come_first():
    start = np.array([[0.1, 0.1], [0.9, 0.9]])
    p = problem(
        half_space(np.ones(2), 0.5), [[0.5, 0.5], [0.5, 0.5]], starts=as_tensor(start)
    )
    approach(p, as_tensor(start))
    asked = p.ledger.forwards.copy()
    p = problem(
        half_space(np.ones(2), 0.5), [[0.5, 0.5], [0.5, 0.5]], starts=as_tensor(start)
    )
    point, found = starting_point(p, p.rng(-1), 0)
    assert found.raw.tolist() == [True, False]
    assert point.raw[1].tolist() == [0.5, 0.5]
    assert p.ledger.forwards[1] == asked[1] == 1


def test_the_nearest_of_the_pool_comes_first_and_others_cost_one_question():
    pool = np.array([[0.0, 0.0], [0.5, 0.4], [0.9, 0.9], [0.4, 0.35]])
    x = [[0.9, 0.9]]
    log = []
    p = problem(half_space(np.ones(2), 1.0, log=log), x, pool=as_tensor(pool))
    assert ranked(p, p.pool).tolist() == [[1, 3, 0, 2]]
    _, found = starting_point(p, p.rng(-1), 4)
    assert found.all()
    assert log[0].tolist() == [[0.5, 0.4]]
    # One question for (0, 0) at the best radius; none for the sample itself.
    exact = math.sqrt(0.32)
    assert exact < p.ledger.distance.item() < 1.02 * exact
    assert counted(log) < 20


def test_those_of_a_class_that_meets_the_criterion_come_first():
    pool = np.array([[0.0, 0.0], [0.5, 0.4], [0.9, 0.9], [0.4, 0.35]])
    classes = np.array([1, 0, 0, 1])
    model = half_space(np.ones(2), 1.0)
    given = {"pool": as_tensor(pool), "pool_classes": classes}
    p = problem(model, [[0.9, 0.9]], **given)
    assert ranked(p, p.pool).tolist() == [[3, 0, 1, 2]]
    x, own = as_tensor(np.array([[0.9, 0.9]])), as_tensor(np.array([0]))
    p = Problem(model, x, Targeted(own), get_norm("l2"), **given)
    assert ranked(p, p.pool).tolist() == [[1, 2, 3, 0]]
    seen = {tuple(drawn(p, p.pool, p.rng(t)).raw[0]) for t in range(50)}
    assert seen == {(0.5, 0.4), (0.9, 0.9)}


def test_a_class_that_none_of_the_pool_has_leaves_all_of_them():
    pool, model = as_tensor(np.eye(4)), half_space(np.ones(4), 0.5)
    p = problem(model, np.ones((1, 4)), pool=pool, pool_classes=np.zeros(4, dtype=int))
    seen = {int(drawn(p, pool, p.rng(t)).raw[0].argmax()) for t in range(100)}
    assert seen == {0, 1, 2, 3}


def test_who_has_no_start_goes_on_through_the_pool():
    # Of class 1 near one point only, which is far from the samples and from any noise.
    goal = np.array([0.1, 0.6, 0.1, 0.6])

    def function(x):
        score = np.abs(x - goal).max(axis=1) - 0.05
        return np.stack([score, np.zeros_like(score)], axis=1)

    pool = np.concatenate([np.full((5, 4), 0.8), goal[None]])
    x = np.stack([np.full(4, 0.9), goal + 0.06])
    for known, founds in ((pool[:5], [False, False]), (pool, [True, True])):
        p = problem(NumPyModel(function), x, pool=as_tensor(known))
        _, found = starting_point(p, p.rng(-1), 2)
        assert found.raw.tolist() == founds
    # Who has a start is asked about the first two alone.
    assert [asked.raw.tolist() for _, asked in candidates(p, 2)] == [[True, True]] * 2


def test_a_large_pool_of_the_class_to_be_left_does_not_take_the_budget():
    x, pool = np.full((3, 9), 0.9), np.full((500, 9), 0.8)
    p = problem(half_space(np.ones(9), 6.0), x, budget=60, pool=as_tensor(pool))
    _, found = starting_point(p, p.rng(-1), 20)
    assert found.all()


def test_aimed_at_a_class_the_whole_pool_comes_before_noise():
    x = as_tensor(np.full((1, 9), 0.9))
    pool = np.concatenate([np.full((50, 9), 0.8), np.full((1, 9), 0.6)])
    aimed = Targeted(as_tensor(np.ones(1, dtype=int)))
    log = []
    model = half_space(np.ones(9), 6.0, log=log)
    p = Problem(model, x, aimed, get_norm("l2"), pool=as_tensor(pool))
    _, found = starting_point(p, p.rng(-1), 20)
    assert found.all()
    assert np.array_equal(np.concatenate(log[:51]), pool)


def test_a_pool_that_nobody_asks_for_is_not_ranked(monkeypatch):
    def refuse(p, pool):
        raise AssertionError

    monkeypatch.setattr("robustkit.engine.search.ranked", refuse)
    p = problem(half_space(np.ones(2), 0.3), [[1.0, 1.0]], pool=as_tensor(np.eye(2)))
    nobody = p.ledger.found
    assert list(candidates(p, 2, nobody)) == []


def test_more_of_a_pool_never_gives_a_farther_start():
    generator = np.random.default_rng(0)
    x, pool = generator.uniform(0.5, 1, (5, 6)), generator.uniform(0, 1, (20, 6))
    weights = generator.uniform(0, 1, 6)
    last = np.full(5, np.inf)
    for tries in (1, 5, 20):
        p = problem(half_space(weights, 1.2), x, pool=as_tensor(pool))
        starting_point(p, p.rng(-1), tries)
        now = p.ledger.distance.raw
        assert (now <= last).all()
        last = now


@pytest.mark.parametrize("classifier", ["dark", "bright", "grey", "rough", "inverted"])
def test_some_noise_is_a_start_even_where_most_noise_is_not(classifier):
    x = np.clip(np.random.default_rng(0).uniform(0.3, 0.5, (4, 100)), 0, 1)

    def function(images):
        mean, spread = images.mean(axis=1), images.std(axis=1)
        score = {
            "dark": mean - 0.2,
            "bright": 0.8 - mean,
            "grey": spread - 0.01,
            "rough": 0.45 - spread,
            "inverted": np.abs(mean - 0.6) - 0.03 + 10 * (spread > 0.1),
        }[classifier]
        return np.stack([score, 0 * score], axis=1)

    p = problem(NumPyModel(function), x)
    _, found = starting_point(p, p.rng(-1), 20)
    assert found.all()


def test_no_possible_start_is_no_error():
    p = problem(NumPyModel(lambda x: np.ones((len(x), 2)) * [1, 0]), np.ones((2, 3)))
    point, found = starting_point(p, p.rng(-1), 7)
    assert not found.any()
    assert (point == p.x).all()
    assert (p.ledger.forwards <= 77).all()


@pytest.mark.parametrize(("budget", "asked"), [(None, 220), (1000, 220), (100, 40)])
def test_who_has_no_start_asks_for_more_noise_within_a_share_of_the_budget(
    budget, asked
):
    log = []
    model = half_space(-np.ones(99), -1e9, log=log)
    p = problem(model, np.full((1, 99), 0.4), budget=budget)
    starting_point(p, p.rng(-1), 20)
    assert counted(log) == asked
    # Never the same twice.
    assert len(np.unique(np.concatenate(log), axis=0)) == counted(log)


def test_rare_starts_are_found():
    generator = np.random.default_rng(0)
    weights, x = generator.normal(size=64), generator.uniform(0.4, 0.6, (8, 64))
    # 1.6 times the standard deviation of what black and white noise brings.
    offset = -weights.sum() / 2 - 0.8 * np.sqrt((weights**2).sum())

    def start(budget):
        p = problem(half_space(-weights, offset), x, budget=budget)
        return starting_point(p, p.rng(-1), 20)[1]

    assert start(20).sum().item() < 4
    assert start(1000).sum().item() > 5


def test_noise_stays_within_other_bounds():
    log = []
    model = half_space(-np.ones(99), -1e9, Bounds(-5, 300), log=log)
    p = problem(model, np.full((2, 99), 7.0))
    starting_point(p, p.rng(-1), 25)
    asked = np.concatenate(log)
    assert len(asked) == 2 * (25 + 250)
    assert asked.min() == -5
    assert asked.max() == 300


def test_a_sample_gets_the_same_start_in_any_company():
    generator = np.random.default_rng(3)
    x, weights = generator.uniform(0.4, 0.6, (6, 9)), generator.normal(size=9)
    offset = float((x * weights).sum(axis=1).min()) - 0.5

    def starts(rows):
        p = problem(half_space(weights, offset), x[rows])
        return starting_point(p, p.rng(-1), 20)[0].raw

    together = starts([0, 1, 2, 3, 4, 5])
    assert (starts([5, 2, 0, 1, 4, 3]) == together[[5, 2, 0, 1, 4, 3]]).all()
    for row in range(6):
        assert (starts([row])[0] == together[row]).all()


def test_no_noise_is_drawn_once_the_budget_is_spent():
    log = []
    model = half_space(np.ones(3), -1.0, Bounds(0, 1), log)
    p = problem(model, np.full((2, 3), 0.5), budget=3)
    # Drawing so many would take hours.
    _, found = starting_point(p, p.rng(-1), 10**9)
    assert counted(log) == 6
    assert not found.numpy().any()
