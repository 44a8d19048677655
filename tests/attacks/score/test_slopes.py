import numpy as np
import pytest

from robustkit.attacks.score.slopes import (
    Told,
    expected,
    features_of,
    images_of,
    sampled,
    space_of,
)
from robustkit.numerics.tensors import as_tensor


def test_features_are_what_slopes_meet_perturbations_with(watched):
    images = watched((3, 12, 10))
    problem = images.problem("linf")
    space, prior = space_of(problem.x), expected(problem.x, problem.bounds)
    rng = np.random.default_rng(0)
    delta = as_tensor(rng.normal(size=images.x.shape))
    drawn = rng.normal(size=(len(images.x), space.size + prior.ways.shape[1]))
    slope = images_of(space, prior, as_tensor(drawn)).numpy()
    meets = (features_of(space, prior, delta) * drawn).sum(axis=1)
    inner = (slope * delta.numpy()).reshape(len(drawn), -1).sum(axis=1)
    assert np.allclose(meets, inner)


def told(features, margins):
    """The record of answers about guesses (n, guesses, features)."""
    count, guesses, size = features.shape
    record = Told.nothing(count, guesses, size, float)
    for row in range(count):
        for place in range(guesses):
            record.note(row, place, features[row, place], margins[row, place])
    return record


def drawn_from(features, margins, count, drawn):
    rows = np.arange(len(features))
    return sampled(told(features, margins), rows, count, drawn)


def test_slopes_drawn_agree_with_the_answers_and_differ_where_these_say_nothing():
    rng = np.random.default_rng(0)
    true, original = rng.normal(size=30), 5.0
    features = rng.normal(size=(1, 10, 30))
    margins = features @ true + original
    count = np.array([8])
    drawn = [rng.normal(size=(1, 30)) for _ in range(200)]
    slopes = np.stack([drawn_from(features, margins, count, one)[0] for one in drawn])
    # Differences of answers, since the original's margin is not known either.
    told = (features[0, 1:8] - features[0, 0]) @ slopes.T
    answers = margins[0, 1:8] - margins[0, 0]
    assert np.abs(told - answers[:, None]).mean() < 0.1 * np.abs(answers).mean()
    free = np.linalg.svd(features[0, :8])[2][8:]
    spread = (free @ slopes.T).std(axis=1)
    assert (spread > 0.3).all()
    # What has not been asked yet is not known.
    features[0, 8:], margins[0, 8:] = 1e6, -1e6
    again = drawn_from(features, margins, count, drawn[0])
    assert np.array_equal(again[0], slopes[0])


def test_answers_that_are_no_numbers_teach_nothing(watched):
    features, margins = np.ones((2, 3, 4)), np.array([[np.inf] * 3, [1.0, np.inf, 2.0]])
    drawn = np.random.default_rng(0).normal(size=(2, 4))
    slopes = drawn_from(features, margins, np.array([2, 3]), drawn)
    assert np.isfinite(slopes).all()
    assert np.array_equal(slopes[0], drawn[0])


def test_answers_that_are_all_the_same_leave_slopes_across_what_was_asked():
    rng = np.random.default_rng(0)
    features, drawn = rng.normal(size=(1, 5, 30)), rng.normal(size=(1, 30))
    for margin in (0.0, 1.0):
        margins = np.full((1, 5), margin)
        (slope,) = drawn_from(features, margins, np.array([5]), drawn)
        free = np.linalg.svd(features[0])[2][5:]
        assert np.linalg.norm(slope) > 1
        assert np.linalg.norm(free @ slope) > 0.999 * np.linalg.norm(slope)


@pytest.mark.parametrize("scale", [1e-41, 1e-20, 1e20, 1e36])
def test_the_scale_of_answers_changes_no_direction_and_leaves_squares(scale):
    rng = np.random.default_rng(0)
    features, drawn = rng.normal(size=(1, 4, 30)), rng.normal(size=(1, 30))
    margins, count = rng.normal(size=(1, 4)), np.array([4])
    (slope,) = drawn_from(features, margins, count, drawn)
    (other,) = drawn_from(features, margins * scale, count, drawn)
    assert 1e-15 < np.linalg.norm(other) < 1e15
    units = [one / np.linalg.norm(one) for one in (slope, other)]
    assert np.allclose(*units)
