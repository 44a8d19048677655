import numpy as np
import pytest

from robustkit.active_tests.readouts import (
    Fit,
    Head,
    PastDetector,
    Seen,
    fit_directions,
    fit_logistic,
    success,
)
from robustkit.engine.criteria import Misclassification
from robustkit.numerics.tensors import as_tensor, take, to_numpy


def head(detector=0, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(5, 6))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    others = -3 - rng.random((5, 2))
    parts = (direction, rng.normal(size=5), 1 + rng.random(5), others)
    return Head(*map(as_tensor, parts), detector)


@pytest.mark.parametrize("detector", [0, 1, -1])
def test_the_way_back_is_the_derivative(detector):
    h, rng = head(detector), np.random.default_rng(1)
    outputs = rng.normal(size=(5, 6 + abs(detector)))
    slopes = rng.normal(size=h(as_tensor(outputs)).shape)
    back = to_numpy(h.pull_back(as_tensor(slopes)))
    for column in range(outputs.shape[1]):
        shift = np.zeros_like(outputs)
        shift[:, column] = 1e-6
        above = to_numpy(h(as_tensor(outputs + shift)))
        below = to_numpy(h(as_tensor(outputs - shift)))
        rise = ((above - below) * slopes).sum(axis=1) / 2e-6
        assert np.allclose(back[:, column], rise, atol=1e-6)


def test_class_1_is_what_lies_beyond_the_threshold():
    h, rng = head(), np.random.default_rng(2)
    for _ in range(20):
        outputs = rng.normal(size=(5, 6)) * 2
        beyond = (outputs * to_numpy(h.direction)).sum(axis=1) > to_numpy(h.threshold)
        logits = to_numpy(h(as_tensor(outputs)))
        assert logits.shape == (5, 4)
        assert (logits.argmax(axis=1) == beyond).all()


def test_readouts_follow_the_rows():
    h, outputs = head(), np.random.default_rng(3).normal(size=(5, 6))
    rows = np.array([3, 0, 4])
    some = take(h, rows)(as_tensor(outputs[rows]))
    assert np.allclose(to_numpy(some), to_numpy(h(as_tensor(outputs)))[rows])


@pytest.mark.parametrize("name", ["slopes", "slopes_of"])
def test_undetected_is_the_larger_of_two_margins(name):
    rng = np.random.default_rng(4)
    logits = as_tensor(rng.normal(size=(40, 4)) * 2)
    labels, way = as_tensor(np.zeros(40, np.int64)), as_tensor(np.full(40, 1))
    plain = Misclassification(labels)
    joined = PastDetector(plain)
    arguments = (way,) if name == "slopes_of" else ()
    margin, slopes = getattr(joined, name)(logits, *arguments)
    inner, inner_slopes = getattr(plain, name)(logits[:, :-1], *arguments)
    score = to_numpy(logits)[:, -1]
    assert np.allclose(to_numpy(margin), np.maximum(to_numpy(inner), score))
    hidden = score > to_numpy(inner)
    assert hidden.any()
    assert not hidden.all()
    assert (to_numpy(slopes)[hidden] == [0, 0, 0, 1]).all()
    assert (to_numpy(slopes)[~hidden, :-1] == to_numpy(inner_slopes)[~hidden]).all()
    assert np.allclose(
        to_numpy(joined.ways(logits)).min(axis=1), to_numpy(joined.margin(logits))
    )


def test_a_sample_is_adversarial_only_where_the_detector_agrees():
    h = head(detector=1)
    goal = success(h.direction, 1)
    outputs = np.concatenate([10 * to_numpy(h.direction), np.ones((5, 1))], axis=1)
    assert (to_numpy(goal.margin(h(as_tensor(outputs)))) > 0).all()
    outputs[:, -1] = -1
    assert (to_numpy(goal.margin(h(as_tensor(outputs)))) < 0).all()


def seen(features, allowed=None):
    count = len(features)
    ok = np.ones(count, bool) if allowed is None else allowed
    return Seen(np.arange(count), features, np.where(ok, -1.0, 1.0))


def test_the_threshold_lies_between_two_order_statistics():
    inner = seen(np.array([[0.0, 0.0], [1.0, 5.0], [-2.0, 1.0]]))
    surface = seen(np.array([[2.0, 0.0], [3.0, 9.0], [0.5, 0.0]]))
    fit = fit_directions(inner, surface, np.array([[1.0, 0.0]]), 0.75)
    assert (fit.last, fit.reached, fit.threshold) == (1.0, 3.0, 2.5)
    assert fit.witness == 1
    assert not fit.flaw


def test_a_direction_without_a_witness_is_left_for_the_next():
    inner = seen(np.array([[0.0, 0.0], [1.0, 1.0], [-2.0, 0.5]]))
    surface = seen(np.array([[0.5, 4.0], [-1.0, 2.0]]))
    fit = fit_directions(inner, surface, np.eye(2), 0.5)
    assert (fit.direction == [0, 1]).all()
    assert fit_directions(inner, surface, np.eye(2)[:1], 0.5).flaw


def test_a_witness_meets_the_detectors_condition():
    inner = seen(np.array([[0.0], [1.0]]))
    features = np.array([[5.0], [3.0], [9.0]])
    surface = seen(features, np.array([True, True, False]))
    assert fit_directions(inner, surface, np.ones((1, 1)), 0.5).witness == 0
    assert fit_directions(
        inner, seen(features, np.zeros(3, bool)), np.ones((1, 1)), 0.5
    ).flaw
    assert fit_logistic(inner, surface, 0.5).witness == 0


def test_features_that_are_not_finite_are_said():
    inner = seen(np.array([[0.0], [np.nan]]))
    surface = seen(np.array([[5.0]]))
    assert "finite" in fit_directions(inner, surface, np.ones((1, 1)), 0.5).flaw


@pytest.mark.parametrize("candidates", [50, 200])
def test_random_search_succeeds_as_often_as_order_statistics_say(candidates):
    rng, tries, times = np.random.default_rng(0), 100, 4000
    hits = 0
    for _ in range(times):
        inner = seen(rng.normal(size=(10, 1)) - 3)
        surface = seen(rng.normal(size=(candidates, 1)))
        fit = fit_directions(inner, surface, np.ones((1, 1)), 0.999)
        hits += rng.normal(size=tries).max() > fit.threshold
    expected = tries / (tries + candidates)
    assert abs(hits / times - expected) < 4 * np.sqrt(0.25 / times)


def test_logistic_readouts_tell_the_witness_from_all_others():
    rng = np.random.default_rng(5)
    inner = seen(rng.normal(size=(60, 30)))
    surface = seen(rng.normal(size=(1, 30)) * 3)
    fit = fit_logistic(inner, surface, 0.999)
    assert not fit.flaw
    assert (inner.features @ fit.direction).max() < fit.threshold < fit.reached
    together = seen(np.concatenate([inner.features, -inner.features]))
    middle = seen(np.zeros((1, 30)))
    assert "tells" in fit_logistic(together, middle, 0.999).flaw


def test_a_fit_without_a_gap_has_a_flaw():
    assert Fit(last=1.0, spread=1.0, reached=1.01, closeness=0.5).flaw
    assert not Fit(last=1.0, spread=1.0, reached=1.2, closeness=0.5).flaw
