import numpy as np
import pytest

from robustkit.attacks.score.simba import SimBA
from robustkit.combine import Minimise
from robustkit.engine.loop import run
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.frequencies import low_frequencies
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


def walked(attack, problem):
    """The states after each step, without the loop's stopping."""
    states = [attack.init(problem)]
    for t in range(attack.steps):
        states.append(attack.step(problem, states[-1], t))
    return states


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("basis", ["pixel", "dct"])
@pytest.mark.parametrize("shape", [(2, 6, 5), (12,), (1, 1)])
def test_every_question_lies_in_ball_and_box(watched, norm, basis, shape):
    images, epsilon = watched(shape), 1.1
    images.offset = -1e9
    ledger = run(SimBA(epsilon, steps=40, basis=basis), images.problem(norm))
    assert (ledger.forwards == 40).all()
    for point in images.asked:
        assert ((point >= -1) & (point <= 3)).all()
        delta = (point - images.x).reshape(len(point), -1)
        size = np.linalg.norm(delta, ord=ORDER[norm], axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()


def test_asks_forth_and_only_where_that_failed_back(watched):
    images = watched((1, 4, 4))
    images.offset = -1e9
    images.x[:] = 1.0
    attack = SimBA(1.0, steps=17, basis="pixel", stride=0.1)
    run(attack, images.problem("l2"))
    w = images.w.ravel()
    for sample in range(5):
        delta = np.zeros(16)
        seen = []
        for before, point in zip(images.asked, images.asked[1:], strict=False):
            move = (point[sample] - images.x[sample]).ravel() - delta
            place = np.abs(move).argmax()
            assert np.abs(move[place]) == pytest.approx(0.1)
            assert np.abs(np.delete(move, place)).max() < 1e-12
            came_back = bool(seen) and seen[-1] == place
            if not came_back:
                assert move[place] > 0
                assert place not in seen
                seen.append(place)
                # A step forth that failed is followed by the one back.
                assert before is not point
            if came_back:
                assert move[place] < 0
                assert w[place] > 0
            if move[place] * w[place] < 0:
                delta = delta + move


def test_smooth_directions_are_low_frequencies(watched):
    images = watched((1, 8, 8))
    images.offset = -1e9
    images.x[:] = 1.0
    space = low_frequencies((1, 8, 8), 0.5)
    run(SimBA(1.0, steps=30, frequencies=0.5), images.problem("l2"))
    delta = as_tensor(np.concatenate(images.asked) - 1.0)
    inside = space.images(space.coefficients(delta)).raw
    np.testing.assert_allclose(inside, delta.raw, atol=1e-12)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_comes_near_the_boundary(watched, basis):
    images = watched((1, 4, 4), samples=8)
    images.offset += 0.05
    attack = Minimise(SimBA(1.0, steps=200, basis=basis, frequencies=1.0), steps=2000)
    assert attack.access is Access.SCORE
    ledger = run(attack, images.problem("l2"))
    without_box = images.margin(images.x) / np.linalg.norm(images.w)
    ratio = ledger.distance.numpy() / without_box
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) <= 1.3


@pytest.mark.parametrize("norm", NORMS)
def test_depends_on_the_sample_and_the_seed_alone(watched, norm):
    images = watched()
    # Longer than the basis, so that it comes round again.
    attack = SimBA(0.8, steps=30, frequencies=0.4, stop=False)

    def last(rows, seed=0):
        return walked(attack, images.problem(norm, rows, seed))[-1].delta

    whole = last(np.arange(5))
    for rows in (np.arange(5)[::-1], np.array([3])):
        assert np.array_equal(last(rows).numpy(), take(whole, rows).numpy())
    assert not np.array_equal(last(np.arange(5), seed=1).numpy(), whole.numpy())


def test_minimised_each_sample_keeps_its_own_turn(watched):
    images, attack = (
        watched(),
        Minimise(SimBA(1.0, steps=40, frequencies=1.0), steps=200),
    )
    whole = run(attack, images.problem("l2")).distance.numpy()
    alone = [
        run(attack, images.problem("l2", np.array([row]))).distance.numpy()[0]
        for row in range(5)
    ]
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"basis": "wavelet"}, "pixel and dct; got 'wavelet'"),
        ({"stride": 0.0}, "its stride to be above 0"),
        ({"frequencies": 2.0}, "above 0 and at most 1"),
    ],
)
def test_bad_settings(watched, settings, message):
    with pytest.raises(BadInput, match=message):
        run(SimBA(1.0, **settings), watched().problem("l2"))
