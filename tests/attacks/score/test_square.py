import numpy as np
import pytest

from robustkit.attacks.score.square import Square
from robustkit.combine import Minimise
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


class Images:
    """A linear classifier of images that shows no gradients."""

    def __init__(self, shape=(2, 9, 7), samples=6, bounds=(-1.0, 3.0), seed=0):
        rng = np.random.default_rng(seed)
        self.bounds = Bounds(*bounds)
        self.x = rng.uniform(*bounds, size=(samples, *shape))
        # Smooth weights: neighbours are alike, as for most classifiers of images.
        self.w = rng.normal(size=shape) + 2 * rng.normal(size=(shape[0], 1, 1))
        scores = (self.x * self.w).reshape(samples, -1).sum(axis=1)
        self.offset, self.y = scores.mean(), (scores < scores.mean()).astype(int)
        self.asked = []

    def logits(self, x):
        self.asked.append(x.copy())
        score = (x * self.w).reshape(len(x), -1).sum(axis=1) - self.offset
        return np.stack([score, -score], axis=1)

    def problem(self, norm, rows=slice(None), seed=0, criterion=None):
        model = NumPyModel(self.logits, self.bounds)
        criterion = criterion or Misclassification(as_tensor(self.y[rows]))
        x = as_tensor(self.x[rows])
        return Problem(model, x, criterion, get_norm(norm), seed=seed)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 4, 4), (12,), (1, 1)])
def test_every_question_lies_in_ball_and_box(norm, shape):
    images, epsilon = Images(shape), 1.1
    images.offset = -1e9
    images.y[:] = 0
    ledger = run(Square(epsilon, steps=40), images.problem(norm))
    assert (ledger.forwards == 40).all()
    assert (ledger.backwards == 0).all()
    differ = 0
    for before, point in zip([images.x, *images.asked], images.asked, strict=False):
        assert ((point >= -1) & (point <= 3)).all()
        delta = (point - images.x).reshape(len(point), -1)
        size = np.linalg.norm(delta, ord=ORDER[norm], axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()
        differ += not np.array_equal(before, point)
    assert differ > 5


@pytest.mark.parametrize("norm", NORMS)
def test_keeps_what_lowers_the_margin_and_nothing_else(norm):
    images = Images()
    images.offset = -1e9
    images.y[:] = 0
    problem = images.problem(norm)
    attack = Square(2.0, steps=60)
    state, margins = attack.init(problem), []
    for t in range(attack.steps):
        state = attack.step(problem, state, t)
        scores = (state.delta.raw * images.w).reshape(6, -1).sum(axis=1)
        margins.append(scores)
    margins = np.array(margins)
    assert (np.diff(margins, axis=0) <= 1e-9).all()
    assert (margins[-1] < margins[0]).all()


def test_linf_comes_near_the_best_corner_of_the_ball():
    images = Images((1, 8, 8), bounds=(0.0, 1.0))
    images.offset = -1e9
    images.y[:] = 0
    problem = images.problem("linf")
    attack = Square(0.1, steps=3000)
    state = attack.init(problem)
    for t in range(attack.steps):
        state = attack.step(problem, state, t)
    reached = (state.delta.raw * images.w).reshape(6, -1).sum(axis=1)
    low, high = (np.clip(images.x + s * 0.1, 0, 1) - images.x for s in (-1, 1))
    least = np.minimum(low * images.w, high * images.w).reshape(6, -1).sum(axis=1)
    assert (reached >= least - 1e-9).all()
    assert (reached <= 0.9 * least).all()


@pytest.mark.parametrize("norm", NORMS)
def test_minimised_it_needs_scores_only_and_comes_near_the_boundary(norm):
    images = Images((1, 6, 6), samples=10)
    wanted = Targeted(as_tensor(1 - images.y))
    attack = Minimise(Square(1.0, steps=200), steps=1000)
    assert attack.access is Access.SCORE
    ledger = run(attack, images.problem(norm, criterion=wanted))
    slope = np.linalg.norm(
        images.w.ravel(), ord={"l1": np.inf, "l2": 2, "linf": 1}[norm]
    )
    scores = (images.x * images.w).reshape(10, -1).sum(axis=1) - images.offset
    without_box = np.abs(scores) / slope
    distance = ledger.distance.numpy()
    assert (distance >= without_box * (1 - 1e-9)).all()
    assert (
        np.median(distance / without_box) <= {"linf": 1.5, "l2": 2.0, "l1": 4.0}[norm]
    )
    assert (ledger.backwards == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_squares_depend_on_the_sample_and_the_seed_alone(norm):
    images = Images()
    attack = Square(0.8, steps=50, stop=False)

    def deltas(rows, seed=0):
        problem = images.problem(norm, rows, seed)
        state = attack.init(problem)
        for t in range(attack.steps):
            state = attack.step(problem, state, t)
        return state.delta

    whole = deltas(np.arange(6))
    for rows in (np.arange(6)[::-1], np.array([3])):
        assert np.array_equal(deltas(rows).numpy(), take(whole, rows).numpy())
    assert not np.array_equal(deltas(np.arange(6), seed=1).numpy(), whole.numpy())


def test_squares_shrink_with_the_steps():
    images = Images((1, 20, 20))
    images.offset = -1e9
    images.y[:] = 0

    def changed(**settings):
        problem, sizes = images.problem("linf"), []
        attack = Square(0.1, steps=100, **settings)
        state = attack.init(problem)
        for t in range(attack.steps):
            state = attack.step(problem, state, t)
            moved = np.abs((state.proposal - state.delta).raw.reshape(6, -1)) > 1e-9
            sizes.append(moved.sum(axis=1).max())
        return sizes

    quick, slow = changed(), changed(rescale=False)
    assert quick[0] > 80
    assert max(quick[-10:]) <= 4
    assert max(slow[-10:]) > 20


def test_stops_at_the_first_success():
    images = Images()
    ledger = run(Square(1.0, steps=200), images.problem("linf"))
    found = ledger.found.numpy()
    assert found.any()
    assert (ledger.forwards[found] <= 200).all()
    assert (ledger.forwards[found] < 200).any()
    assert (ledger.forwards[~found] == 200).all()


def test_bad_settings():
    for share, message in (
        (0.0, "share above 0 and at most 1"),
        (1.5, "share above 0 and at most 1"),
        (float("nan"), "the share of Square must be a finite number"),
    ):
        with pytest.raises(BadInput, match=message):
            run(Square(1.0, share=share), Images().problem("linf"))
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(Square(1.0), Images().problem("l0"))


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_squares_shrink_with_the_steps_but_for_l2_unless_one_says_so(watched, norm):
    def asked(rescale):
        images = watched((2, 9, 7))
        images.offset = -1e9
        run(Square(1.0, steps=40, rescale=rescale), images.problem(norm))
        return np.stack(images.asked)

    assert np.array_equal(asked(None), asked(norm != "l2"))
    assert not np.array_equal(asked(None), asked(norm == "l2"))
