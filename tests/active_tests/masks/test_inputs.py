"""Masks of the input: exact truths against exhaustive search on grids."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm as gaussian

from robustkit.active_tests.masks import noisy_input, quantised, shattered
from robustkit.active_tests.planted import affine, min_of_affines, nearest_neighbour
from robustkit.active_tests.regions import size
from robustkit.errors import BadInput
from robustkit.numerics.tensors import to_numpy


def margins(problem, row, points):
    """Of one sample at many points (m, d)."""
    logits = to_numpy(problem.model.logits(problem.model.to_tensor(points))).copy()
    own = logits[:, problem.y[row]].copy()
    logits[:, problem.y[row]] = -np.inf
    return own - logits.max(axis=1)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
@pytest.mark.parametrize("make", [affine, min_of_affines])
def test_quantised_truth_is_what_trying_all_cells_finds(make, bounds):
    levels = 5
    problem = quantised(
        make(seed=1, samples=8, features=3, bounds=bounds), levels=levels
    )
    step = problem.bounds.width / levels
    grid = bounds[0] + step * np.arange(levels + 1)
    cells = np.array(list(itertools.product(grid, repeat=3)))
    for row, x in enumerate(problem.x):
        adversarial = cells[margins(problem, row, cells) < 0]
        # The nearest point of each cell that is seen as one of these.
        points = np.clip(x, adversarial - step / 2, adversarial + step / 2)
        points = points.clip(*bounds)
        for norm in ("l0", "l1", "l2", "linf"):
            exact = problem.exact(norm)[row]
            sizes = [size(p - x, norm) for p in points]
            assert exact == pytest.approx(min(sizes, default=np.inf), rel=1e-9)


def test_quantised_linf_truth_is_within_half_a_step():
    plain = affine(seed=2, samples=30, features=20)
    hidden = quantised(plain, levels=10)
    kept = [int(np.flatnonzero((plain.x == x).all(axis=1))[0]) for x in hidden.x]
    gap = np.abs(hidden.exact("linf") - plain.exact("linf")[kept])
    assert gap.max() <= 0.05 + 1e-9
    assert gap.max() > 0.001
    assert (margins(hidden, 0, hidden.x[:1]) > 0).all()


def test_quantised_gradients_are_zero_or_pass_straight_through():
    plain = affine(seed=3, samples=4)
    slopes = np.ones((4, 3)) * [1.0, -2.0, 0.5]
    for straight in (False, True):
        model = quantised(plain, straight_through=straight).model
        _, pull_back = model.linearise(model.to_tensor(plain.x))
        gradient = to_numpy(pull_back(model.to_tensor(slopes)))
        assert (np.abs(gradient).max() > 0) == straight


@pytest.mark.parametrize("frequency", [3.0, 40.0, 300.0])
def test_shattered_truth_is_what_a_fine_grid_finds(frequency):
    plain = affine(seed=4, samples=6, features=2, bounds=(-1.0, 1.0))
    problem = shattered(plain, amplitude=0.03, frequency=frequency)
    axis = np.linspace(-1, 1, 401)
    points = np.array(list(itertools.product(axis, repeat=2)))
    for row, x in enumerate(problem.x):
        adversarial = points[margins(problem, row, points) < 0]
        found = np.abs(adversarial - x).max(axis=1).min(initial=np.inf)
        exact = problem.exact("linf")[row]
        assert exact <= found + 1e-12
        # Fine cells hide peaks that are narrower than they are.
        assert exact >= found - 0.02
    point = problem.nearest("linf")
    for row in range(len(point)):
        assert abs(margins(problem, row, point[row : row + 1])[0]) < 1e-9


def test_shattered_linf_truth_is_within_the_amplitude():
    plain = min_of_affines(seed=5, samples=20, features=12)
    hidden = shattered(plain, amplitude=0.02)
    kept = [int(np.flatnonzero((plain.x == x).all(axis=1))[0]) for x in hidden.x]
    gap = np.abs(hidden.exact("linf") - plain.exact("linf")[kept])
    assert 1e-4 < gap.max() <= 0.02 + 1e-9
    assert hidden.norms == {"l0", "linf"}
    assert (hidden.exact("l0") >= 1).all()


def test_shattered_gradients_are_true_and_of_random_sign():
    problem = shattered(affine(seed=6, samples=10))
    x = np.random.default_rng(0).random((10, 8))
    model = problem.model
    slopes = np.ones((10, 3)) * [1.0, -1.0, 0.3]
    _, pull_back = model.linearise(model.to_tensor(x))
    gradient = to_numpy(pull_back(model.to_tensor(slopes)))
    h = 1e-7
    for feature in range(8):
        way = np.eye(8)[feature] * h
        rise = to_numpy(model.logits(model.to_tensor(x + way)))
        rise = rise - to_numpy(model.logits(model.to_tensor(x - way)))
        np.testing.assert_allclose(
            gradient[:, feature], (rise * slopes).sum(axis=1) / (2 * h),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
    assert 0.1 < (gradient[:, 0] > 0).mean() < 0.9


def test_noise_is_right_as_often_as_the_normal_law_says():
    plain = affine(seed=7, samples=3, classes=2)
    noisy = noisy_input(plain, sigma=0.3)
    passes = 3000
    for row in range(3):
        x = noisy.model.to_tensor(np.repeat(plain.x[row : row + 1], 2, axis=0))
        right = 0
        for _ in range(passes // 2):
            answers = to_numpy(noisy.model.logits(x))
            right += int((answers[:1].argmax(axis=1) == plain.y[row]).sum())
        half = plain.regions[row][0]
        expected = gaussian.cdf(
            half.margin(plain.x[row]) / (0.3 * np.linalg.norm(half.slope))
        )
        deviation = np.sqrt(expected * (1 - expected) / (passes / 2))
        assert abs(right / (passes / 2) - expected) < 4 * deviation + 1e-3
    assert (noisy.exact("l2") == plain.exact("l2")).all()


def test_families_without_half_spaces_are_refused():
    for mask in (quantised, shattered):
        with pytest.raises(BadInput, match=r"half-spaces only.*'nearest-neighbour'"):
            mask(nearest_neighbour())
    with pytest.raises(BadInput, match=r"two classes; got 'affine'"):
        noisy_input(affine(classes=3))


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="at least 1 step; got 0"):
        quantised(affine(), levels=0)
    with pytest.raises(BadInput, match="frequency must be above 0"):
        shattered(affine(), frequency=0)
    with pytest.raises(BadInput, match="sigma must be above 0"):
        noisy_input(affine(classes=2), sigma=0)
    with pytest.raises(BadInput, match="all samples of 'affine, shattered'"):
        shattered(affine(2, samples=1), amplitude=50, frequency=7)
